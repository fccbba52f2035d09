"""`SoftCapSample`: rows drawn by their scores, again and again, each time a little less likely."""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.dedup.staged import Block, StagedRows, stage
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.selection.checks import check_integer, check_not_negative, check_positive
from nemo_image_curate.selection.shares import hash_bits, hash_of_repeated
from nemo_image_curate.stages.base import Stage, no_effect
from nemo_image_curate.vectors.cuts import Cuts, lowest, ordered, write_values

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)
_DRAWS = "draws.npz"
# Noise is rounded to multiples of this: a logarithm's last bit may depend on what is beside it.
_GRAIN = 2.0**-30
# Of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


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
        frames.require_columns(dataset.metadata, self.weights)
        kind = frames.schema(dataset.metadata[[self.weights]]).field(0).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise ConfigError(
                f"weights={self.weights!r} should be a column of numbers, not {kind}."
            )
        folder = work_folder(dataset, self.work_dir, type(self).__name__, self.config())
        with locks.exclusive(str(folder)):
            staged = stage(dataset, [self.weights], folder / "rows", None)
            drawn = folder / f"draws-{staged.digest()[:24]}"
            if not (drawn / _DRAWS).exists():
                self._draw(staged, drawn)
            shutil.rmtree(folder / "rows", ignore_errors=True)
        (name,) = self.columns()
        add = _Multiplicity(drawn, self._rule(dataset.id_col), name)
        return dataset.with_columns(add, self.columns(), self.provenance())

    def _rule(self, id_col: str) -> _Rule:
        penalty, temperature = float(self.penalty), float(self.temperature)
        seed = int(self.random_state)
        return _Rule(id_col, self.weights, penalty, temperature, self.hard_cap, seed)

    def _draw(self, staged: StagedRows, folder: Path) -> None:
        """Draw batch after batch, and write where each ended."""
        storage.make_dirs(str(folder))
        rule, progress = self._rule(staged.id_col), folder / "progress.npz"
        draws = Draws.load(progress) if progress.exists() else Draws()
        call = dask.delayed(_write_step, pure=False)
        labels = [f"block {block.number}" for block in staged.blocks]
        paths = [_values_path(folder, block.number) for block in staged.blocks]
        while (missing := int(self.n) - sum(draws.sizes)) > 0:
            tasks = [
                call(block, folder, rule, draws.cuts[-1:], len(draws.cuts))
                for block in staged.blocks
            ]
            drawable = sum(jobs.compute_all(tasks, labels, "draw", None))
            size = min(int(self.batch), missing, drawable)
            if not size:
                logger.warning(
                    "SoftCapSample: only %s of n=%s draws were made: no row is left that may be "
                    "drawn again.",
                    f"{sum(draws.sizes):,}",
                    f"{self.n:,}",
                )
                break
            cut = lowest(paths, np.array([size]), folder, "draw", None)
            draws = Draws([*draws.cuts, cut.last[0]], [*draws.sizes, size])
            draws.save(progress)
        draws.save(folder / _DRAWS)
        for pattern in ("rows-*", "counts-*", "values-*", "progress*"):
            for leftover in folder.glob(pattern):
                leftover.unlink()


class Draws:
    """Where each batch ended.

    Parameters
    ----------
    cuts : sequence of numpy.ndarray of uint64, shape (2,)
        The last values that were drawn; see `Cuts`.
    sizes : sequence of int
        How many rows were drawn.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, cuts: Sequence[np.ndarray] = (), sizes: Sequence[int] = ()):
        self.cuts = list(cuts)
        self.sizes = list(sizes)

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        with storage.atomic_write(str(path)) as file:
            np.savez(file, cuts=np.reshape(self.cuts, (-1, 2)), sizes=np.array(self.sizes, int))

    @classmethod
    def load(cls, path: Path) -> Draws:
        """What was saved."""
        with np.load(path) as arrays:
            return cls(list(arrays["cuts"].astype(np.uint64)), arrays["sizes"].tolist())


class _Rows:
    """What draws look at of some rows.

    Attributes
    ----------
    logits : numpy.ndarray of float64, shape (m,)
        NaN for rows that are never drawn.
    noise : numpy.ndarray of uint64, shape (m,)
        What the noise of each batch begins with.
    tie : numpy.ndarray of uint64, shape (m,)
        Tells rows apart that have one value, such as those of one key.
    """

    def __init__(self, logits: np.ndarray, noise: np.ndarray, tie: np.ndarray):
        self.logits = logits
        self.noise = noise
        self.tie = tie


class _Rule:
    """How rows are drawn.

    Parameters
    ----------
    id_col, weights : str
    penalty, temperature : float
    most : int or None
        How often a row is drawn at most.
    seed : int
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(
        self,
        id_col: str,
        weights: str,
        penalty: float,
        temperature: float,
        most: int | None,
        seed: int,
    ):
        self.id_col = id_col
        self.weights = weights
        self.penalty = penalty
        self.temperature = temperature
        self.most = most
        self.seed = seed

    def content_token(self) -> list[Any]:
        """What decides, in the order of the parameters."""
        return list(vars(self).values())

    def rows(self, table: pa.Table) -> _Rows:
        """What draws look at; `table` has key, shard and weights."""
        scores = table[self.weights].cast(pa.float64()).to_numpy()
        logits = np.where(np.isfinite(scores), scores, np.nan) / self.temperature
        noise = _mixed(hash_bits(table[self.id_col], self.seed))
        shards = hash_of_repeated(table[SHARD_COLUMN], self.seed)
        return _Rows(logits, noise, _mixed(noise + shards))

    def values(self, rows: _Rows, counts: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows may be drawn in a batch, and by what: the lowest.

        Parameters
        ----------
        rows : _Rows
        counts : numpy.ndarray of int32, shape (m,)
            How often each was drawn before.
        step : int

        Returns
        -------
        groups : numpy.ndarray of int64, shape (m,)
            0, or -1 for those that may not.
        values : numpy.ndarray of uint64, shape (2, m)
        """
        drawable = np.isfinite(rows.logits)
        if self.most is not None:
            drawable &= counts < self.most
        mixed = _mixed(rows.noise + np.uint64(_GOLDEN * (step + 1) % 2**64))
        uniform = ((mixed >> np.uint64(11)) + 0.5) / 2.0**53
        gumbel = np.rint(-np.log(-np.log(uniform)) / _GRAIN) * _GRAIN
        perturbed = rows.logits + gumbel
        if math.isinf(self.penalty):
            # Draws first; 36 bits of the fraction tell the rest, and then the tie.
            order = counts.astype(np.uint64) << np.uint64(48) | ordered(-perturbed) >> np.uint64(16)
        else:
            order = ordered(self.penalty * counts - perturbed)
        return np.where(drawable, 0, -1), np.stack([order, rows.tie])


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64."""
    for shift, factor in _MIX:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    mixed: np.ndarray = bits ^ (bits >> np.uint64(31))
    return mixed


def _values_path(folder: Path, block: int) -> Path:
    return folder / f"values-{block:05d}.npz"


def _write_step(
    block: Block, folder: Path, rule: _Rule, last_cut: list[np.ndarray], step: int
) -> int:
    """Count what the last batch drew of a block, write what the next goes by; runs on a worker.

    Returns
    -------
    int
        How many rows may be drawn.
    """
    rows = _rows_of(block, folder, rule)
    values_path, counts_path = (
        _values_path(folder, block.number),
        folder / f"counts-{block.number:05d}.npz",
    )
    counts, done = np.zeros(len(block), dtype=np.int32), 0
    if counts_path.exists():
        with np.load(counts_path) as arrays:
            counts, done = arrays["counts"], int(arrays["done"])
    # A run that was killed may have counted it.
    if done < step:
        cut = Cuts(np.stack(last_cut), np.zeros(1, dtype=bool))
        with np.load(values_path) as arrays:
            counts += cut.includes(arrays["groups"], arrays["values"])
        with storage.atomic_write(str(counts_path)) as file:
            np.savez(file, counts=counts, done=step)
    groups, values = rule.values(rows, counts, step)
    write_values(values_path, groups, values)
    return int((groups == 0).sum())


def _rows_of(block: Block, folder: Path, rule: _Rule) -> _Rows:
    """What draws look at, hashed once."""
    path = folder / f"rows-{block.number:05d}.npz"
    if not path.exists():
        rows = rule.rows(block.table())
        with storage.atomic_write(str(path)) as file:
            np.savez(file, **vars(rows))
    with np.load(path) as arrays:
        return _Rows(**arrays)


class _Multiplicity:
    """Adds to a partition how often its rows were drawn; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "multiplicity"

    def __init__(self, folder: Path, rule: _Rule, name: str):
        self.folder = folder
        self.rule = rule
        self.name = name
        draws = _draws(folder)
        self.digest = fingerprint([cut.tolist() for cut in draws.cuts])

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # With the place: Dask takes expressions of one name for one, and a folder may be gone.
        return (*self.content_token(), str(self.folder))

    def content_token(self) -> tuple[Any, ...]:
        """What was drawn, wherever that is written."""
        return ("Multiplicity", self.digest, *self.rule.content_token(), self.name)

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        rule = self.rule
        names = dict.fromkeys((rule.id_col, SHARD_COLUMN, rule.weights))
        rows = rule.rows(pa.table({name: frames.column_to_arrow(frame[name]) for name in names}))
        counts = np.zeros(len(frame), dtype=np.int32)
        for step, cut in enumerate(_draws(self.folder).cuts):
            batch = Cuts(cut[None], np.zeros(1, dtype=bool))
            counts += batch.includes(*rule.values(rows, counts, step))
        return {self.name: pa.array(counts)}


def _draws(folder: Path) -> Draws:
    """Where each batch ended."""
    place = folder / _DRAWS
    try:
        return _draws_of(place.stat().st_mtime_ns, place)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{place} is gone, by which rows were drawn. Run SoftCapSample again; give work_dir a "
            "folder that stays and that all workers share."
        ) from error


@functools.lru_cache(maxsize=4)
def _draws_of(changed: int, place: Path) -> Draws:
    """What was written at a time, for all partitions that a process works on."""
    return Draws.load(place)
