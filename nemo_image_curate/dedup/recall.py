"""How many of the true pairs the clusters let us find: measured on a sample by brute force."""

from __future__ import annotations

from dataclasses import dataclass

import dask
import numpy as np

from nemo_image_curate.compute import jobs
from nemo_image_curate.dedup.layout import Layout
from nemo_image_curate.vectors.nearest import GRAIN

# Stored vectors compared with the sample at once.
_ROWS = 8192
# Pairs of one row among those that are looked at.
_MOST = 64
# Pairs looked at once.
_PAIRS = 65536


@dataclass(frozen=True)
class RecallEstimate:
    """Pairs of a sample with all rows, counted by brute force.

    Attributes
    ----------
    sample : int
        Rows that were compared with all others.
    true_pairs : int
        Pairs within eps that they are part of; of rows that are like thousands, some of them.
    found_pairs : int
        Those that share a cluster, and so are found.
    recall : float or None
        Their share; None when there are no true pairs.
    interval : tuple of float
        95 % confidence interval of the recall: Wilson, "Probable inference, the law of succession,
        and statistical inference", 1927, taking pairs as independent.
    precision : float or None
        Of the pairs that are reported, the share that is true in float64.
    precision_interval : tuple of float
    """

    sample: int
    true_pairs: int
    found_pairs: int
    recall: float | None
    interval: tuple[float, float]
    precision: float | None
    precision_interval: tuple[float, float]

    def __str__(self) -> str:
        if self.recall is None:
            return f"unknown: {self.sample:,} rows have no duplicates at all"
        shares = []
        for name, share, (low, high) in (
            ("recall", self.recall, self.interval),
            ("precision", self.precision, self.precision_interval),
        ):
            if share is not None:
                shares.append(f"{name} {share:.4f} ({low:.4f} to {high:.4f})")
        return f"{', '.join(shares)}, of {self.true_pairs:,} pairs that {self.sample:,} rows are in"


def measure_recall(
    layout: Layout, eps: float, sample_size: int, seed: int, device: str, progress: bool | None
) -> RecallEstimate:
    """Compare a sample of rows with all rows, and see which of the true pairs share a cluster."""
    sample = _choose(layout, sample_size, seed)
    if not len(sample):
        return _estimate(0, np.empty((0, 3), dtype=bool))
    np.save(layout.folder / "recall-sample.npy", sample)
    np.save(layout.folder / "recall-vectors.npy", layout.lookup(sample))
    np.save(layout.folder / "recall-clusters.npy", _clusters_of(layout, sample))
    parts = range(len(layout.counts))
    work = dask.delayed(_compare, pure=False)
    pairs = jobs.compute_all(
        [
            work(layout.without_counts(), part, start, eps, device)
            for part, start in enumerate(layout.starts())
        ],
        [f"part {part}" for part in parts],
        "recall",
        progress,
    )
    for name in ("sample", "vectors", "clusters"):
        (layout.folder / f"recall-{name}.npy").unlink()
    return _estimate(len(sample), np.concatenate(pairs))


def _choose(layout: Layout, size: int, seed: int) -> np.ndarray:
    """Some of the rows that have a vector, at random, in order."""
    if not layout.dim:
        return np.empty(0, dtype=np.int64)
    homes = [layout.file(part, "home.npy") for part in range(len(layout.counts))]
    ends = np.cumsum([len(np.load(home, mmap_mode="r")) for home in homes])
    count = int(ends[-1])
    # Of few among many NumPy makes no list of all.
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(size, count), replace=False))
    parts = np.searchsorted(ends, chosen, side="right")
    sample, starts = np.empty(len(chosen), dtype=np.int64), layout.starts()
    for part in np.unique(parts):
        rows = np.load(homes[part], mmap_mode="r")["row"]
        places = np.flatnonzero(parts == part)
        sample[places] = starts[part] + rows[chosen[places] - (ends[part] - len(rows))]
    return sample


def _clusters_of(layout: Layout, sample: np.ndarray) -> np.ndarray:
    """The clusters that rows are stored in: shape (len(sample), at most n_probe), padded by -1."""
    held: list[list[int]] = [[] for _ in sample]
    for part, start in enumerate(layout.starts()):
        stored = start + np.load(layout.file(part, "rows.npy")).astype(np.int64)
        offsets = np.load(layout.file(part, "offsets.npy"))
        for place in np.flatnonzero(np.isin(stored, sample)):
            number = np.searchsorted(offsets, place, side="right") - 1
            held[np.searchsorted(sample, stored[place])].append(int(number))
    width = max(map(len, held))
    return np.array([row + [-1] * (width - len(row)) for row in held])


def _compare(layout: Layout, part: int, start: int, eps: float, device: str) -> np.ndarray:
    """Pairs of the sample with a part: true, of one cluster, told; runs on a worker."""
    import torch

    sample = np.load(layout.folder / "recall-sample.npy")
    ours = np.load(layout.folder / "recall-vectors.npy")
    held = np.load(layout.folder / "recall-clusters.npy")
    rows = start + np.load(layout.file(part, "rows.npy")).astype(np.int64)
    offsets = np.load(layout.file(part, "offsets.npy"))
    clusters = np.repeat(np.arange(layout.n_clusters), np.diff(offsets))
    stored = layout.vectors(part)
    sample_vectors = torch.from_numpy(ours).to(device)
    pair_rows: list[np.ndarray] = []
    for first in range(0, len(rows), _ROWS):
        theirs = np.array(stored[first : first + _ROWS])
        products = sample_vectors @ torch.from_numpy(theirs).to(device).T
        # Wider than float32's error: the truth is told in float64.
        places = (products >= 1 - eps - 1e-4).nonzero().cpu().numpy()
        places = places[sample[places[:, 0]] != rows[first + places[:, 1]]]
        places = _thinned(places, rows[first + places[:, 1]])
        for i, j in (part.T for part in np.array_split(places, len(places) // _PAIRS + 1)):
            exact = np.einsum("ij,ij->i", ours[i].astype(np.float64), theirs[j])
            shared = (held[i] == clusters[first + j, None]).any(axis=1)
            reported = shared & (products[i, j].cpu().numpy() >= 1 - eps - GRAIN)
            is_true = exact >= 1 - eps - GRAIN
            pair_rows.append(np.stack([i, rows[first + j], is_true, shared, reported], axis=1))
    pairs = np.concatenate([np.empty((0, 5), dtype=np.int64), *pair_rows])
    # A pair is met in each cluster that the other one is stored in.
    unique, number = np.unique(pairs[:, :2], axis=0, return_inverse=True)
    flags = np.zeros((len(unique), 3), dtype=bool)
    np.logical_or.at(flags, number.reshape(-1), pairs[:, 2:].astype(bool))
    return flags


def _thinned(places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of a row that is like thousands of others, only some of them: those by a hash."""
    counts = np.bincount(places[:, 0])[places[:, 0]] if len(places) else np.empty(0, dtype=np.int64)
    # Knuth's multiplicative hash, of 32 bits.
    hashed = rows.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    thinned: np.ndarray = places[hashed < 2.0**32 * _MOST / np.maximum(counts, 1)]
    return thinned


def _estimate(sample: int, pairs: np.ndarray) -> RecallEstimate:
    true, shared, reported = pairs.T.astype(bool)
    shared_count, true_count = int((true & shared).sum()), int(true.sum())
    right_count, reported_count = int((true & reported).sum()), int(reported.sum())
    return RecallEstimate(
        sample,
        true_count,
        shared_count,
        shared_count / true_count if true_count else None,
        _interval(shared_count, true_count),
        right_count / reported_count if reported_count else None,
        _interval(right_count, reported_count),
    )


def _interval(hits: int, total: int) -> tuple[float, float]:
    if not total:
        return (0.0, 1.0)
    # Here, since SciPy takes a second and 60 MB of each process that imports it.
    from scipy.stats import binomtest

    interval = binomtest(hits, total).proportion_ci(method="wilson")
    return (float(interval.low), float(interval.high))
