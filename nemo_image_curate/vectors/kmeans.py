"""k-means of vectors in files, its steps spread over Dask tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nemo_image_curate.vectors.blocks import Block, Blocks
from nemo_image_curate.vectors.nearest import nearest
from nemo_image_curate.vectors.seeding import plus_plus, random_rows

# Lloyd's steps: with 10 near-duplicates are not found more often (measured).
MAX_ITER = 5
# Sums are made of integers, multiples of this, since a GPU adds in any order. Values are at most 1:
# there is room for 2^31 of them.
_UNIT = 2.0**-32
_ROWS = 1024
_INITS = {"k-means++": plus_plus, "random": random_rows}


def kmeans(
    paths: Sequence[Path],
    k: int,
    seed: int,
    folder: Path,
    device: str,
    progress: bool | None,
    *,
    spherical: bool = True,
    init: str = "k-means++",
    max_iter: int = MAX_ITER,
    tol: float = 1e-3,
) -> np.ndarray:
    """Centroids that lie near all vectors.

    Lloyd's algorithm; clusters that end up empty are left out. The result depends on how vectors
    are divided into files, but not on how many workers there are.

    Parameters
    ----------
    paths : sequence of path
        ``.npy`` files of finite vectors, shape (m, d), float32, which all workers see.
    k : int
    seed : int
    folder : path
        Where workers find the centroids of a step; on a file system that they share.
    device : {"cpu", "cuda"}
    progress : bool or None
    spherical : bool, default True
        Vectors are of length 1, and so are centroids: cosines are maximised (Dhillon and Modha,
        "Concept decompositions for large sparse text data using clustering", 2001). Shorter
        vectors weigh less. Otherwise squared Euclidean distances are minimised.
    init : {"k-means++", "random"}
        Start at vectors drawn by their squared distance from those before, which leaves no region
        without, however few vectors are there; or at any, most of them where most vectors are. Of
        the five rings of Vo et al. (2024), with from 20,000 to 200 points, 1,000 centroids lie in
        each as evenly as 0.77 and 0.53 (entropy over ln 5).
    max_iter : int
        Steps at most.
    tol : float
        Stop when half the mean squared distance falls by less than this share of the variance (by
        less than this itself when `spherical`).

    Returns
    -------
    numpy.ndarray, shape (at most k, d), float32

    Notes
    -----
    Memory: a worker holds a file's vectors some three times, and the centroids; so does the
    client, and 8 bytes for each vector with random starts. The starts of k-means++ cost as many
    products as one step.
    """
    blocks = Blocks(paths, folder, device, progress, spherical)
    centroids = _INITS[init](blocks, k, np.random.default_rng(seed))
    last = -np.inf
    for _ in range(max_iter):
        # Added in the order of the blocks, whichever worker was first.
        counts, sums, similarities = (
            np.sum(parts, axis=0) for parts in zip(*blocks.map(_sums, centroids), strict=True)
        )
        divisors = np.linalg.norm(sums, axis=1) if spherical else counts
        # A cluster whose vectors cancel out has no direction: it keeps the one it had.
        moved = divisors > 0
        centroids[moved] = (sums[moved] / divisors[moved, None]).astype(np.float32)
        centroids = centroids[counts > 0]
        mean = similarities / counts.sum()
        if mean - last < tol * blocks.variance:
            break
        last = mean
    blocks.close()
    return blocks.original(centroids)


def _sums(block: Block, centroids_path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Count, sum and similarity of each centroid's vectors in a block; runs on a worker."""
    import torch

    vectors = block.vectors()
    centroids = torch.from_numpy(np.load(centroids_path)).to(block.device)
    index, similarity = nearest(vectors, centroids, 1, block.spherical)
    home = index[:, 0]
    sums = torch.zeros_like(centroids, dtype=torch.int64)
    # Integers are twice as large: few at a time, which takes a third of the time.
    for part, homes in zip(vectors.split(_ROWS), home.split(_ROWS), strict=True):
        sums.index_add_(0, homes, (part / _UNIT).long())
    counts = torch.bincount(home, minlength=len(centroids))
    exact = sums.cpu().numpy() * _UNIT
    return counts.cpu().numpy(), exact, float(similarity.double().sum())
