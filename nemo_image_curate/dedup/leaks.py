"""Which row of a reference each row is a copy of, by all signals together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.against import Nearest, equal_digests, near_hashes
from nemo_image_curate.dedup.against_vectors import NearVectors
from nemo_image_curate.dedup.deciding import write_table
from nemo_image_curate.dedup.references import ReferenceRows
from nemo_image_curate.dedup.staged import Block, RowArrays
from nemo_image_curate.quality.digest import DIGEST_COLUMN
from nemo_image_curate.vectors.nearest import GRAIN

# The strongest first.
SIGNALS = ("exact", "perceptual", "semantic")
HASHES = ("phash", "dhash")
NAMES = (*SIGNALS, "group")
_LACKING = {"exact": "no digest", "perceptual": "no hash", "semantic": "no embedding"}
_BITS = 64
# What is known of each row before its group counts: the reference's row (-1: none), how similar
# it is, by which signals it is a leak (bits, in the order of NAMES), and which
# signals could compare it.
NEAR = np.dtype(
    [("row", np.int64), ("similarity", np.float32), ("signals", np.uint8), ("compared", np.uint8)]
)
BY_GROUP = np.uint8(1 << len(SIGNALS))


def leak_columns(prefix: str) -> dict[str, pa.DataType]:
    """The columns that decontamination adds, with their types."""
    kinds = {
        "is_leak": pa.bool_(),
        "leak_of": pa.string(),
        "leak_of_shard": pa.string(),
        "leak_of_dataset": pa.string(),
        "leak_similarity": pa.float32(),
        "leak_by": pa.string(),
        "leak_error": pa.string(),
    }
    return {prefix + name: kind for name, kind in kinds.items()}


class Signals:
    """What is compared, and from where on a row is a leak.

    Parameters
    ----------
    by : sequence of str
        Of `SIGNALS`.
    radius : int
    eps : float
    hash : str
        The one of `HASHES` that `radius` is of.
    mirrored : bool
        Compare hashes of mirrored images, as far as the columns are there.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, by: Sequence[str], radius: int, eps: float, hash: str, mirrored: bool):
        self.by = tuple(name for name in SIGNALS if name in by)
        self.radius = radius
        self.eps = eps
        self.hash = hash
        self.mirrored = mirrored

    def problem(self, compared: int) -> str | None:
        """What ``leak_error`` says of a row that is no leak.

        Nothing when a signal could compare that sees the picture. That files differ does not tell
        that pictures do, so their digests are enough only where nothing else was asked for.

        Parameters
        ----------
        compared : int
            The signals that could compare it, a bit for each of `SIGNALS`.
        """
        lacking = [name for bit, name in enumerate(SIGNALS) if not compared >> bit & 1]
        lacking = [name for name in lacking if name in self.by]
        seeing = [name for name in self.by if name != "exact"] or ["exact"]
        if not set(seeing) <= set(lacking):
            return None
        return ", ".join(_LACKING[name] for name in lacking)


class _Hashes:
    """The hashes of one kind of two sets of images, and how they differ."""

    def __init__(self, rows: pa.Table, others: pa.Table, name: str, mirrored: bool):
        names = [name, f"{name}_flipped"] if mirrored else [name]
        self.hashes, self.others = (
            [table[col] for col in names if col in table.column_names] for table in (rows, others)
        )

    def near(self, radius: int) -> Nearest:
        """The nearest of the others, within `radius` bits."""
        return near_hashes(self.hashes, self.others, radius)

    def distance(self, candidates: np.ndarray) -> np.ndarray:
        """Bits that differ from some of the others; NaN where one has no hash.

        Parameters
        ----------
        candidates : numpy.ndarray of int64, shape (m, c)
            Rows of the others; -1 for none.

        Returns
        -------
        numpy.ndarray of float32, shape (m, c)
        """
        ours, others = (
            [(column.fill_null(0).to_numpy(), column.is_valid().to_numpy()) for column in columns]
            for columns in (self.hashes, self.others)
        )
        pairs = [(ours[0], other) for other in others] + [(pair, others[0]) for pair in ours[1:]]
        fewest = np.full(candidates.shape, np.inf, dtype=np.float32)
        for (hashes, valid), (other, other_valid) in pairs:
            if len(other):
                bits = np.bitwise_count(hashes[:, None] ^ other[candidates]).astype(np.float32)
                known = valid[:, None] & other_valid[candidates] & (candidates >= 0)
                np.minimum(fewest, bits, out=fewest, where=known)
        return np.where(np.isinf(fewest), np.float32(np.nan), fewest)


def compare_block(
    near: RowArrays,
    number: int,
    block: Block,
    columns: list[str],
    references: ReferenceRows,
    vectors: NearVectors | None,
    signals: Signals,
) -> None:
    """Write `NEAR` of the rows of a block; runs on a worker."""
    rows, others = block.table(columns), references.table()
    candidates = _Candidates(len(block))
    hashes = {}
    if "exact" in signals.by:
        candidates.add(0, equal_digests(rows[DIGEST_COLUMN], others[DIGEST_COLUMN]))
    if "perceptual" in signals.by:
        hashes = {name: _Hashes(rows, others, name, signals.mirrored) for name in HASHES}
        candidates.add(1, hashes[signals.hash].near(signals.radius))
    if vectors is not None:
        candidates.add(2, vectors.read(block))
    near.write(number, _choose(candidates, hashes, signals))


class _Candidates:
    """For each of m rows some rows of references; -1 for none.

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (m, c)
    signal : numpy.ndarray of int64, shape (c,)
        Which of `SIGNALS` found those of a column.
    cosines : numpy.ndarray of float32, shape (m, c)
        NaN where not known.
    compared : numpy.ndarray of uint8, shape (m,)
        The signals that could compare each row, a bit for each.
    """

    def __init__(self, count: int):
        self.rows = np.empty((count, 0), dtype=np.int64)
        self.signal = np.empty(0, dtype=np.int64)
        self.cosines = np.empty((count, 0), dtype=np.float32)
        self.compared = np.zeros(count, dtype=np.uint8)

    def add(self, signal: int, nearest: Nearest) -> None:
        """Add what a signal found: one row or several for each."""
        rows, cosines = nearest.rows, nearest.similarity
        if rows.ndim == 1:
            rows, cosines = rows[:, None], cosines[:, None]
        if SIGNALS[signal] == "semantic":
            # Those before may be among them.
            for column in range(self.rows.shape[1]):
                same = (rows == self.rows[:, column, None]) & (rows >= 0)
                known = np.where(same, cosines, np.nan)
                self.cosines[:, column] = np.fmax.reduce(known, axis=1, initial=np.nan)
        else:
            cosines = np.full(rows.shape, np.nan, dtype=np.float32)
        self.rows = np.concatenate([self.rows, rows], axis=1)
        self.signal = np.append(self.signal, [signal] * rows.shape[1])
        self.cosines = np.concatenate([self.cosines, cosines], axis=1)
        self.compared |= nearest.compared.astype(np.uint8) << np.uint8(signal)


def _choose(candidates: _Candidates, hashes: dict[str, _Hashes], signals: Signals) -> np.ndarray:
    """The candidate that is named for each row: `NEAR`.

    What is equal; else what is within a threshold; else the nearest. Of these the one with the
    most evidence, cosine and shares of equal bits together, and of equals the first.
    """
    shape = candidates.rows.shape
    similarity = np.full((len(SIGNALS), *shape), np.nan, dtype=np.float32)
    exact = (candidates.signal == 0) & (candidates.rows >= 0)
    similarity[0][exact] = 1
    evidence = np.zeros(shape, dtype=np.float32)
    if hashes:
        shares = {name: 1 - kind.distance(candidates.rows) / _BITS for name, kind in hashes.items()}
        similarity[1] = shares[signals.hash]
        # Pictures that have nothing to do with each other agree in half of the bits.
        evidence += np.mean([np.nan_to_num(share, nan=0.5) for share in shares.values()], axis=0)
    if "semantic" in signals.by:
        similarity[2] = cosines = candidates.cosines
        # What the embeddings did not propose is at most as near as the last that they did.
        lowest = np.fmin.reduce(cosines, axis=1, keepdims=True, initial=1)
        evidence += np.where(np.isnan(cosines), lowest, cosines)
    thresholds = [1, 1 - signals.radius / _BITS, 1 - signals.eps - GRAIN]
    hits = similarity >= np.array(thresholds)[:, None, None]
    # Evidence is from -1 to 2.
    rank = evidence + 4 * hits.any(axis=0) + 4 * exact
    rank = np.where(candidates.rows < 0, -np.inf, rank)
    best = np.lexsort((candidates.rows, -rank), axis=1)[:, :1]

    def of_best(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, best, axis=1)[:, 0]

    hits = np.stack([of_best(of_signal) for of_signal in hits])
    # That equal pictures are alike in all else needs no word.
    hits[1:] &= ~hits[0]
    similarity = np.stack([of_best(of_signal) for of_signal in similarity])
    near = np.empty(shape[0], dtype=NEAR)
    near["row"] = of_best(candidates.rows)
    near["signals"] = np.packbits(hits, axis=0, bitorder="little")[0]
    highest = np.fmax.reduce(np.where(hits, similarity, np.nan), axis=0)
    near["similarity"] = np.where(hits.any(axis=0), highest, similarity[2])
    near["compared"] = candidates.compared
    return near


def _by(signals: int) -> str | None:
    """What ``leak_by`` says of a row that is a leak by these, a bit for each."""
    return "+".join(name for bit, name in enumerate(NAMES) if signals >> bit & 1) or None


def write_block(
    folder: Path,
    block: Block,
    near: RowArrays,
    references: ReferenceRows,
    id_col: str,
    carried: list[str],
    signals: Signals,
) -> tuple[str, list[str]]:
    """Write the columns of a block, as `deciding.write_table`; runs on a worker."""
    known = near.read(block.number)
    named = references.name(known["row"])
    is_leak = known["signals"] > 0
    reasons = [_by(bits) for bits in range(1 << len(NAMES))]
    problems = [signals.problem(bits) for bits in range(1 << len(SIGNALS))]
    columns = {
        "is_leak": pa.array(is_leak),
        "leak_of": named.keys,
        "leak_of_shard": named.shards,
        "leak_of_dataset": named.datasets,
        "leak_similarity": pa.array(known["similarity"], from_pandas=True),
        "leak_by": pa.array(reasons, pa.string()).take(pa.array(known["signals"])),
        "leak_error": pa.array(problems, pa.string()).take(
            pa.array(known["compared"], mask=is_leak)
        ),
    }
    table = block.table([id_col, SHARD_COLUMN, *carried])
    columns |= {name: table[name] for name in carried}
    return write_table(folder, block, table.select([id_col, SHARD_COLUMN]), id_col, columns)
