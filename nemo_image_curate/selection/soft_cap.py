"""`SoftCapSample`: rows drawn by their scores, again and again, each time a little less likely."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.dedup.staged import stage
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.checks import check_integer, check_not_negative, check_positive
from nemo_image_curate.selection.draws import DRAWS, Draws, Rule, draw
from nemo_image_curate.selection.kept import MadeOfKept, read_once
from nemo_image_curate.stages.base import Stage, no_effect

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


@dataclass(eq=False)
class SoftCapSample(Stage):
    """Adds how often a row is drawn, when rows are drawn by a score until there are n.

    Soft cap sampling, after Shechter and Carmon, "Filter like you test: data-driven data filtering
    for CLIP pretraining", 2025 (arXiv 2503.08805). Batches are drawn without replacement by the
    softmax of the scores (Gumbel's top k; Kool et al., "Stochastic beams and where to find them",
    2019), and the logits of what was drawn fall by the penalty: so good rows come several times,
    and not always the same ones.

    Parameters
    ----------
    weights : str
        The column of scores; rows where it is null or not finite are never drawn.
    n : int
        Draws in all.
    penalty : float, default 0.15
        How much each draw of a row takes from its logit. At least 0; ``float("inf")``: no row is
        drawn again before all others were, so that up to as many draws as rows are Gumbel's top n.
    batch : int, default 100_000
        Draws between which penalties stay as they are; no row comes twice in one.
    hard_cap : int, optional
        How often a row is drawn at most.
    temperature : float, default 1.0
        Scores are divided by it. Higher ones draw more evenly.
    random_state : int, default 0
    prefix : str, default ""
        Put before the name of the column.
    work_dir : str or path, optional
        A folder for intermediate files, some 100 bytes a row, that all workers share; two numbers
        for each batch stay in it. Default: in the system's temporary folder.

    Columns
    -------
    multiplicity : int32
        They add up to `n`, unless no row is left that may be drawn.

    Notes
    -----
    A row's noise goes by a hash of its key and the number of the batch, and a batch is the exact
    top of all rows, so that the result does not depend on partitions or workers. Memory: a worker
    holds a block of rows, the client some numbers. Time: each batch looks at all rows twice or
    three times; take larger batches for more draws.

    Examples
    --------
    >>> ds = SoftCapSample("clip_score", n=1_000_000, temperature=0.05)(ds)  # doctest: +SKIP
    """

    weights: str
    n: int
    penalty: float = 0.15
    batch: int = 100_000
    hard_cap: int | None = None
    temperature: float = 1.0
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        check_integer("n", self.n, 0)
        check_integer("batch", self.batch, 1)
        check_integer("random_state", self.random_state, 0)
        if self.hard_cap is not None:
            check_integer("hard_cap", self.hard_cap, 1)
        check_positive("temperature", self.temperature)
        check_not_negative("penalty", self.penalty)

    def columns(self) -> dict[str, pa.DataType]:
        """How often a row is drawn."""
        return {f"{self.prefix}multiplicity": pa.int32()}

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""
        return self.parameters()

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The scores."""
        return [self.weights]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the column; draws are made now.

        Raises
        ------
        ConfigError
            For unusable parameters, or a `work_dir` that workers do not see.
        ColumnNotFoundError
            When there is no such column.
        DatasetError
            When a sample is there more than once.
        """
        self.check()
        frames.require_columns(dataset.metadata, *self.needs(dataset))
        kind = frames.schema(dataset.metadata[[self.weights]]).field(0).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise ConfigError(
                f"weights={self.weights!r} should be a column of numbers, not {kind}."
            )
        folder = work_folder(dataset, self.work_dir, type(self).__name__, self.config())
        with locks.exclusive(str(folder)):
            staged = stage(dataset, [self.weights], folder / "rows", None)
            drawn = folder / f"draws-{staged.digest()[:24]}"
            if not (drawn / DRAWS).exists():
                draw(staged, self._rule(dataset.id_col), int(self.n), int(self.batch), drawn)
            shutil.rmtree(folder / "rows", ignore_errors=True)
        (name,) = self.columns()
        add = _Multiplicity(drawn / DRAWS, self._rule(dataset.id_col), name)
        return dataset.with_columns(add, self.columns(), self.provenance())

    def _rule(self, id_col: str) -> Rule:
        penalty, temperature = float(self.penalty), float(self.temperature)
        seed = int(self.random_state)
        return Rule(id_col, self.weights, penalty, temperature, self.hard_cap, seed)


class _Multiplicity(MadeOfKept):
    """How often rows were drawn."""

    # What Dask's dashboard calls these tasks.
    __name__ = "multiplicity"

    def __init__(self, path: Path, rule: Rule, name: str):
        super().__init__(path)
        self.rule = rule
        self.name = name
        self.digest = fingerprint([cut.tolist() for cut in self._draws().cuts])

    def _draws(self) -> Draws:
        return read_once(self.path, Draws.load, "SoftCapSample")

    def content_token(self) -> tuple[Any, ...]:
        return ("Multiplicity", self.digest, *self.rule.content_token(), self.name)

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        rule = self.rule
        names = dict.fromkeys((rule.id_col, SHARD_COLUMN, rule.weights))
        rows = rule.rows(pa.table({name: frames.column_to_arrow(frame[name]) for name in names}))
        counts = np.zeros(len(frame), dtype=np.int32)
        for step, cut in enumerate(self._draws().cuts):
            counts += rule.drawn(cut, *rule.values(rows, counts, step))
        return {self.name: pa.array(counts)}
