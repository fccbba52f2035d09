"""Spherical k-means on a sample, its steps spread over Dask tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dask
import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.vectors.nearest import nearest

# Lloyd's steps: with 10 near-duplicates are not found more often (measured).
STEPS = 5
# Sums are made of integers, multiples of this, since a GPU adds in any order. Values are at most 1:
# there is room for 2^31 of them.
_UNIT = 2.0**-32
# Stop early when the mean similarity to the nearest centroid rises by less than this.
_TOLERANCE = 1e-3


def spherical_kmeans(
    blocks: Sequence[Path], k: int, seed: int, folder: Path, device: str, progress: bool | None
) -> np.ndarray:
    """Centroids that maximise the cosine similarity of vectors with their nearest one.

    Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.
    Starts from random vectors. Clusters that end up empty are left out.

    Parameters
    ----------
    blocks : sequence of path
        ``.npy`` files of unit vectors, shape (m, d), float32. The result depends on how the
        vectors are divided into blocks, not on how many workers there are.
    k : int
    seed : int
    folder : path
        Where the workers find the centroids of a step.
    device : {"cpu", "cuda"}
    progress : bool or None

    Returns
    -------
    numpy.ndarray, shape (at most k, d), float32
        Of length 1.
    """
    centroids = _start(blocks, k, seed)
    last = -np.inf
    for _ in range(STEPS):
        counts, sums, total = _step(blocks, centroids, folder, device, progress)
        full = counts > 0
        lengths = np.linalg.norm(sums, axis=1)
        # A cluster whose vectors cancel out has no direction: it keeps the one it had.
        moved = full & (lengths > 0)
        centroids[moved] = (sums[moved] / lengths[moved, None]).astype(np.float32)
        centroids = centroids[full]
        mean = total / counts.sum()
        if mean - last < _TOLERANCE:
            break
        last = mean
    return centroids


def _start(blocks: Sequence[Path], k: int, seed: int) -> np.ndarray:
    sizes = [len(np.load(block, mmap_mode="r")) for block in blocks]
    chosen = np.random.default_rng(seed).permutation(sum(sizes))[:k]
    starts = np.cumsum([0, *sizes])
    picked = []
    for block, start, end in zip(blocks, starts[:-1], starts[1:], strict=True):
        inside = np.sort(chosen[(chosen >= start) & (chosen < end)]) - start
        picked.append(np.load(block, mmap_mode="r")[inside])
    return np.concatenate(picked)


def _step(
    blocks: Sequence[Path],
    centroids: np.ndarray,
    folder: Path,
    device: str,
    progress: bool | None,
) -> tuple[np.ndarray, np.ndarray, float]:
    place = folder / "step.npy"
    with storage.atomic_write(str(place)) as file:
        np.save(file, centroids)
    work = dask.delayed(_sums, pure=False)
    results = jobs.compute_all(
        [work(block, place, device) for block in blocks],
        [str(block) for block in blocks],
        "k-means",
        progress,
    )
    counts, sums, totals = zip(*results, strict=True)
    # Added in the order of the blocks, whichever worker was first.
    return np.sum(counts, axis=0), np.sum(sums, axis=0), float(np.sum(totals))


def _sums(block: Path, centroids: Path, device: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Of one block's vectors: how many each centroid has, their sums, and all similarities."""
    import torch

    x = torch.from_numpy(np.load(block)).to(device)
    centres = torch.from_numpy(np.load(centroids)).to(device)
    index, similarity = nearest(x, centres, 1)
    home = index[:, 0]
    sums = torch.zeros_like(centres, dtype=torch.int64)
    sums.index_add_(0, home, (x / _UNIT).long())
    counts = torch.bincount(home, minlength=len(centres))
    exact = sums.cpu().numpy() * _UNIT
    return counts.cpu().numpy(), exact, float(similarity.double().sum())
