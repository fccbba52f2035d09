"""What exact and perceptual deduplication share: small columns in, decisions out, by blocks."""

from __future__ import annotations

import abc
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.dedup import deciding, results
from nemo_image_curate.dedup.equals import send_values
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.keep import By, check_keep, keep_columns
from nemo_image_curate.dedup.ranks import Order, rank_rows
from nemo_image_curate.dedup.staged import (
    Block,
    RowArrays,
    StagedRows,
    stage,
    stage_measured,
)
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.sidecars import read_footers
from nemo_image_curate.stages.base import PixelStage, Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


class ColumnDedup(Stage):
    """A stage that decides by columns which are small enough for one machine.

    Subclasses have the parameters ``keep``, ``by``, ``random_state``, ``prefix``, ``work_dir``.
    """

    keep: str
    by: By
    random_state: int
    prefix: str
    work_dir: Any

    # What ``dedup_error`` says of rows that cannot be compared.
    why_not: ClassVar[str]

    @abc.abstractmethod
    def measure(self) -> Stage:
        """The stage that makes the columns to look at, for datasets that lack them."""

    @abc.abstractmethod
    def inputs(self) -> list[str]:
        """The columns of that stage that `decide` looks at."""

    @abc.abstractmethod
    def decide(self, staged: StagedRows, values: Exchange, progress: bool | None) -> Exchange:
        """Decide about rows of which no other in their block is equal and before them.

        Parameters
        ----------
        staged : StagedRows
        values : Exchange
            To buckets of equal values: ``row``, ``rank`` and `inputs`.
        progress : bool or None

        Returns
        -------
        Exchange
            As `deciding.write` takes it.
        """

    def check(self) -> None:
        """Refuse unusable parameters."""
        check_keep(self.keep, self.by, ("first", "random", "best"))
        self.measure().check()

    def columns(self) -> dict[str, pa.DataType]:
        """The decisions, and what they are made of."""
        return results.decision_columns(self.prefix) | self.measure().columns()

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""
        return self.parameters()

    def provenance(self) -> dict[str, dict[str, Any]]:
        """How each column is made."""
        decisions = results.decision_columns(self.prefix)
        return dict.fromkeys(decisions, self.record()) | self.measure().provenance()

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """What duplicates are kept by; what is compared is measured where it is missing."""
        return keep_columns(self.by)

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with columns that say which rows are duplicates, found now.

        Raises
        ------
        ConfigError
            For unusable parameters.
        ColumnNotFoundError
            When a column of `by` is missing.
        """
        self.check()
        measure = self.measure()
        records = measure.provenance()
        measured, carried = dataset, dict[str, Any]()
        if not has_made(dataset, {name: records[name] for name in self.inputs()}):
            measured = measure(dataset)
            new = [name for name in measured.metadata.columns if name in measure.columns()]
            if ERROR_COLUMN in measured.metadata.columns and isinstance(measure, PixelStage):
                new.insert(0, ERROR_COLUMN)
            carried = {name: records.get(name) for name in new}
        columns = list(dict.fromkeys([*self.inputs(), *keep_columns(self.by), *carried]))
        frames.require_columns(measured.metadata, *columns)
        folder = results.work_folder(measured, self.work_dir, type(self).__name__, self.config())
        with locks.exclusive(str(folder)):
            known = [name for name in columns if name not in carried]
            staged = stage(dataset, known, None if carried else folder / "rows", None)
            decided = folder / f"decisions-{staged.digest()[:24]}"
            if not results.complete(decided):
                if carried:
                    # Images are read now, and not again when the result is saved; a run that was
                    # stopped goes on with the next shard.
                    staged = stage_measured(staged, measured, columns, folder / "measured", None)
                self._decide(staged, list(carried), decided)
            for name in ("rows", "measured"):
                shutil.rmtree(folder / name, ignore_errors=True)
        return results.attach(dataset, decided, self.prefix, self.record(), carried)

    def _decide(self, staged: StagedRows, carried: list[str], folder: Path) -> None:
        """Write the decisions to a folder."""
        steps = folder / "steps"
        storage.make_dirs(str(steps))
        order = Order(self.keep, self.by, self.random_state, staged.id_col)
        ranks = rank_rows(staged, order, steps, None)
        values, equal = send_values(staged, ranks, self.inputs(), steps, None)
        partners = self.decide(staged, values, None)
        deciding.write(folder, staged, partners, _Facts(equal, carried), self.why_not, None)
        shutil.rmtree(steps)


class _Facts(deciding.RowFacts):
    """Equal rows, and columns that were made of the images."""

    def __init__(self, equal: RowArrays, carried: list[str]):
        self.equal = equal
        self.carried = carried

    def equals(self, block: Block) -> np.ndarray:
        return self.equal.read(block.number)

    def columns(self, block: Block) -> dict[str, pa.Array]:
        table = block.table(self.carried) if self.carried else {}
        return {name: table[name] for name in self.carried}


def has_made(dataset: ImageTextPairDataset, records: dict[str, Any]) -> bool:
    """Whether a stage has made all these columns, for every row.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    records : dict of str to dict
        Columns, each with its provenance.
    """
    if any(name not in dataset.metadata.columns for name in records):
        return False
    if any(dataset.provenance.get(name) != record for name, record in records.items()):
        return False
    reader, sources = dataset.source()
    if not set(records) & set(reader.schema.names):
        return True
    # A save in place that was stopped leaves shards without them, which are read as nulls.
    if any(source.sidecar is None for source in sources):
        return False
    for footer in read_footers([source.sidecar_location for source in sources]):
        if isinstance(footer, DatasetError):
            raise footer
        if not set(records) <= set(footer.schema.names):
            return False
    return True
