"""Rows drawn in batches without replacement, each draw making a row less likely: where batches end.

A batch is the exact top of all rows by perturbed logits, found by counting; the decision about all
rows is one value for each batch, by which a row is told how often it was drawn.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.compute.progress import Progress
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.staged import Block, StagedRows
from nemo_image_curate.vectors.cuts import Cuts, lowest, ordered, write_values
from nemo_image_curate.vectors.sampling import hash_bits, hash_bits_of_few

logger = logging.getLogger(__name__)
DRAWS = "draws.npz"
# Noise is rounded to multiples of this: a logarithm's last bit may depend on what is beside it.
_GRAIN = 2.0**-30
# Of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


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


class Rows:
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


class Rule:
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

    def rows(self, table: pa.Table) -> Rows:
        """What draws look at; `table` has key, shard and weights."""
        scores = table[self.weights].cast(pa.float64()).to_numpy()
        logits = np.where(np.isfinite(scores), scores, np.nan) / self.temperature
        noise = _mixed(hash_bits(table[self.id_col], self.seed))
        shards = hash_bits_of_few(table[SHARD_COLUMN], self.seed)
        return Rows(logits, noise, _mixed(noise + shards))

    def values(self, rows: Rows, counts: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows may be drawn in a batch, and by what: the lowest.

        Parameters
        ----------
        rows : Rows
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

    @staticmethod
    def drawn(cut: np.ndarray, groups: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Whether rows are in the batch that ends at a cut, given `values`."""
        return Cuts(cut[None], np.zeros(1, dtype=bool)).includes(groups, values)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64."""
    for shift, factor in _MIX:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    mixed: np.ndarray = bits ^ (bits >> np.uint64(31))
    return mixed


def _values_path(folder: Path, block: int) -> Path:
    return folder / f"values-{block:05d}.npz"


def _write_step(
    block: Block, folder: Path, rule: Rule, last_cut: list[np.ndarray], step: int
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
        with np.load(values_path) as arrays:
            counts += rule.drawn(last_cut[0], arrays["groups"], arrays["values"])
        with storage.atomic_write(str(counts_path)) as file:
            np.savez(file, counts=counts, done=step)
    groups, values = rule.values(rows, counts, step)
    write_values(values_path, groups, values)
    return int((groups == 0).sum())


def _rows_of(block: Block, folder: Path, rule: Rule) -> Rows:
    """What draws look at, hashed once."""
    path = folder / f"rows-{block.number:05d}.npz"
    if not path.exists():
        rows = rule.rows(block.table())
        with storage.atomic_write(str(path)) as file:
            np.savez(file, **vars(rows))
    with np.load(path) as arrays:
        return Rows(**arrays)


def draw(staged: StagedRows, rule: Rule, n: int, batch: int, folder: Path) -> None:
    """Draw batch after batch, and write where each ended; from where an earlier run stopped.

    Parameters
    ----------
    staged : StagedRows
        With the weights.
    rule : Rule
    n : int
        Draws in all, as long as rows may be drawn.
    batch : int
        Draws of a batch.
    folder : Path
        For `DRAWS`, and files of some 100 bytes a row until it is there.
    """
    storage.make_dirs(str(folder))
    progress = folder / "progress.npz"
    draws = Draws.load(progress) if progress.exists() else Draws()
    call = dask.delayed(_write_step, pure=False)
    labels = [f"block {block.number}" for block in staged.blocks]
    paths = [_values_path(folder, block.number) for block in staged.blocks]
    with Progress("draw", -(-n // batch), None, unit="batches").running() as bar:
        while (missing := n - sum(draws.sizes)) > 0:
            step = (draws.cuts[-1:], len(draws.cuts))
            tasks = [call(block, folder, rule, *step) for block in staged.blocks]
            drawable = sum(jobs.compute_all(tasks, labels, "draw", False))
            size = min(batch, missing, drawable)
            if not size:
                logger.warning(
                    "SoftCapSample: only %s of n=%s draws were made: no row is left that may be "
                    "drawn again.",
                    f"{sum(draws.sizes):,}",
                    f"{n:,}",
                )
                break
            cut = lowest(paths, np.array([size]), folder, "draw", False)
            draws = Draws([*draws.cuts, cut.last[0]], [*draws.sizes, size])
            draws.save(progress)
            bar.end(None)
    draws.save(folder / DRAWS)
    for pattern in ("rows-*", "counts-*", "values-*", "progress*"):
        for leftover in folder.glob(pattern):
            leftover.unlink()
