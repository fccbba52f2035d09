"""How many of the true pairs the clusters let us find: measured on a sample by brute force."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_image_curate import cluster
from nemo_image_curate.dedup.layout import Layout
from nemo_image_curate.dedup.neighbours import GRAIN

if TYPE_CHECKING:
    import numpy as np

# Stored vectors compared with the sample at once.
_ROWS = 8192


@dataclass(frozen=True)
class RecallEstimate:
    """Pairs of a sample with all rows, counted by brute force.

    Attributes
    ----------
    sample : int
        Rows that were compared with all others.
    true_pairs : int
        Pairs within eps that they are part of.
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
        told = []
        for name, share, (low, high) in (
            ("recall", self.recall, self.interval),
            ("precision", self.precision, self.precision_interval),
        ):
            if share is not None:
                told.append(f"{name} {share:.4f} ({low:.4f} to {high:.4f})")
        return f"{', '.join(told)}, of {self.true_pairs:,} pairs that {self.sample:,} rows are in"


def measure_recall(
    layout: Layout, eps: float, sample_size: int, seed: int, device: str, progress: bool | None
) -> RecallEstimate:
    """Compare a sample of rows with all rows, and see which of the true pairs share a cluster."""
    import dask
    import numpy as np

    rows = np.flatnonzero(layout.homes()["cluster"] >= 0)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:sample_size]
    sample = np.sort(rows[chosen])
    if not len(sample):
        return _estimate(0, np.empty((0, 3), dtype=bool))
    np.save(layout.folder / "recall-sample.npy", sample)
    np.save(layout.folder / "recall-vectors.npy", layout.lookup(sample))
    np.save(layout.folder / "recall-clusters.npy", _clusters_of(layout, sample))
    parts = range(len(layout.counts))
    work = dask.delayed(_compare, pure=False)
    found = cluster.compute_all(
        [work(layout, part, eps, device) for part in parts],
        [f"part {part}" for part in parts],
        "recall",
        progress,
    )
    for name in ("sample", "vectors", "clusters"):
        (layout.folder / f"recall-{name}.npy").unlink()
    return _estimate(len(sample), np.concatenate(found))


def _clusters_of(layout: Layout, sample: np.ndarray) -> np.ndarray:
    """The clusters that rows are stored in: shape (len(sample), at most n_probe), padded by -1."""
    import numpy as np

    held: list[list[int]] = [[] for _ in sample]
    for part, start in enumerate(layout.starts()):
        stored = start + np.load(layout.file(part, "rows.npy")).astype(np.int64)
        offsets = np.load(layout.file(part, "offsets.npy"))
        for place in np.flatnonzero(np.isin(stored, sample)):
            number = np.searchsorted(offsets, place, side="right") - 1
            held[np.searchsorted(sample, stored[place])].append(int(number))
    width = max(map(len, held))
    return np.array([row + [-1] * (width - len(row)) for row in held])


def _compare(layout: Layout, part: int, eps: float, device: str) -> np.ndarray:
    """Pairs of the sample with one part's rows: is it true, does it share a cluster, is it told."""
    import numpy as np
    import torch

    sample = np.load(layout.folder / "recall-sample.npy")
    ours = np.load(layout.folder / "recall-vectors.npy")
    held = np.load(layout.folder / "recall-clusters.npy")
    start = layout.starts()[part]
    rows = start + np.load(layout.file(part, "rows.npy")).astype(np.int64)
    offsets = np.load(layout.file(part, "offsets.npy"))
    clusters = np.repeat(np.arange(layout.n_clusters), np.diff(offsets))
    stored = layout.vectors(part)
    asked = torch.from_numpy(ours).to(device)
    seen: dict[tuple[int, int], list[bool]] = {}
    for first in range(0, len(rows), _ROWS):
        theirs = np.array(stored[first : first + _ROWS])
        products = asked @ torch.from_numpy(theirs).to(device).T
        # Wider than float32's error: the truth is told in float64.
        near = (products >= 1 - eps - 1e-4).nonzero().cpu().numpy()
        for i, j in near:
            if sample[i] == rows[first + j]:
                continue
            exact = float(ours[i].astype(np.float64) @ theirs[j].astype(np.float64))
            shared = bool((held[i] == clusters[first + j]).any())
            told = shared and float(products[i, j]) >= 1 - eps - GRAIN
            known = seen.setdefault((i, rows[first + j]), [exact >= 1 - eps - GRAIN, False, False])
            known[1] |= shared
            known[2] |= told
    return np.array(list(seen.values()), dtype=bool).reshape(-1, 3)


def _estimate(sample: int, pairs: np.ndarray) -> RecallEstimate:
    true, shared, told = pairs.T.astype(bool)
    found, truths = int((true & shared).sum()), int(true.sum())
    right, said = int((true & told).sum()), int(told.sum())
    return RecallEstimate(
        sample,
        truths,
        found,
        found / truths if truths else None,
        _interval(found, truths),
        right / said if said else None,
        _interval(right, said),
    )


def _interval(hits: int, total: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    if not total:
        return (0.0, 1.0)
    interval = binomtest(hits, total).proportion_ci(method="wilson")
    return (float(interval.low), float(interval.high))
