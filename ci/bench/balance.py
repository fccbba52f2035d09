"""Balance: hierarchical k-means against the same method over FAISS, and evenness on two truths.

- Five rings (Vo et al. 2024): evenness, the entropy over ln 5 of the rings that 1,000 drawn points
  lie in, of all seeds the least; beside that of random rows.
- 300,000 x 512, whose 300 directions have from 30,000 vectors to a few (like 1 / rank), levels
  (3000, 300): seconds from embeddings in Parquet to centroids, and how evenly the finest centroids
  lie over the directions; against a script over FAISS's k-means in memory that does the same
  resamplings with as many of Lloyd's steps, from FAISS's random starts. And its quality as k-means:
  the mean cosine of a vector with its centroid, before any resampling.

The peer needs FAISS: .venv/bin/pip install faiss-cpu

python balance.py N K1 K2 STEPS      the second at another size
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from dedup import write
from rows import row
from scipy.stats import entropy

from nemo_image_curate import (
    BalancedSample,
    HierarchicalClusters,
    ImageTextPairDataset,
    frames,
    get_client,
)

ROOT = Path(__file__).resolve().parents[2]
DIM, DIRECTIONS, ITERATIONS = 512, 300, 10
N, LEVELS, STEPS = 300_000, (3000, 300), 10
SEEDS = 20


def vectors(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, shape (n, DIM), float32, and the direction that each lies around."""
    chance = np.random.default_rng(0)
    spectrum = (np.arange(1, DIM + 1) ** -0.5).astype(np.float32)
    directions = _unit(chance.standard_normal((DIRECTIONS, DIM), dtype=np.float32))
    share = 1 / np.arange(1, DIRECTIONS + 1)
    home = chance.choice(DIRECTIONS, n, p=share / share.sum())
    x = directions[home]
    for start in range(0, n, 50_000):
        part = x[start : start + 50_000]
        part += _unit(chance.standard_normal(part.shape, dtype=np.float32) * spectrum)
    return _unit(x), home


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def evenness(homes: np.ndarray, groups: int) -> float:
    """Entropy of the groups that some vectors lie in, over that of all alike."""
    return float(entropy(np.bincount(homes, minlength=groups)) / np.log(groups))


def ours(shards: Path, work: Path, levels: tuple[int, ...], steps: int) -> tuple[float, np.ndarray]:
    """Seconds of the stage, and the finest centroids."""
    shutil.rmtree(work, ignore_errors=True)
    dataset = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
    stage = HierarchicalClusters(levels, steps, work_dir=work)
    began = time.perf_counter()
    stage(dataset)
    seconds = time.perf_counter() - began
    (place,) = work.rglob("hierarchy.npz")
    with np.load(place) as arrays:
        return seconds, arrays["centroids"]


def over_faiss(x: np.ndarray, levels: tuple[int, ...], steps: int) -> tuple[float, np.ndarray]:
    """The same by a script: every level by FAISS's k-means, and again on the nearest points."""
    began = time.perf_counter()
    points, finest = x, None
    for k in levels:
        centroids = _faiss_kmeans(points, k)
        size = max(1, round(len(points) / k / 2))
        for _ in range(steps):
            cosine, home = _nearest(points, centroids)
            order = np.lexsort([-cosine, home])
            starts = np.searchsorted(home[order], np.arange(k))
            rank = np.arange(len(order)) - starts[home[order]]
            centroids = _faiss_kmeans(points[np.sort(order[rank < size])], k)
        points = centroids
        finest = centroids if finest is None else finest
    assert finest is not None
    return time.perf_counter() - began, finest


def _faiss_kmeans(x: np.ndarray, k: int) -> np.ndarray:
    import faiss

    options = {"spherical": True, "seed": 0, "max_points_per_centroid": 2**30}
    kmeans = faiss.Kmeans(
        DIM, k, niter=ITERATIONS, min_points_per_centroid=1, verbose=False, **options
    )
    kmeans.train(x)
    centroids: np.ndarray = kmeans.centroids
    return centroids


def _nearest(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    index = faiss.IndexFlatIP(DIM)
    index.add(centroids)
    cosine, home = index.search(x, 1)
    return cosine[:, 0], home[:, 0]


def rings(folder: Path) -> tuple[float, float, float]:
    """The least evenness of all seeds, that of random rows, and the median of seconds."""
    sys.path.insert(0, str(ROOT))
    from tests.dedup.make_embeddings import write_embeddings
    from tests.vectors.make_blocks import five_rings

    drawn, at_random, seconds = [], [], []
    for seed in range(SEEDS):
        points, ring = five_rings(seed)
        shutil.rmtree(folder, ignore_errors=True)
        dataset = write_embeddings(folder / "data", points, 8192)
        began = time.perf_counter()
        options: dict[str, Any] = {"random_state": seed, "work_dir": folder / "work"}
        clustered = HierarchicalClusters((1000, 300), normalize=False, **options)(dataset)
        frame = BalancedSample(1000, **options)(clustered).metadata[["selected"]].compute()
        seconds.append(time.perf_counter() - began)
        selected = frames.to_arrow(frame)["selected"].to_numpy()
        drawn.append(evenness(ring[selected], 5))
        at_random.append(evenness(np.random.default_rng(seed).choice(ring, 1000, False), 5))
    return min(drawn), float(np.mean(at_random)), float(np.median(seconds))


def compare(
    scratch: Path, n: int, levels: tuple[int, ...], steps: int, rounds: int
) -> list[dict[str, Any]]:
    x, home = vectors(n)
    shards = scratch / "shards"
    write(shards, x)
    seconds, theirs = [], []
    with get_client("cpu"):
        # The first run starts the workers.
        _, plain = ours(shards, scratch / "work", levels[:1], 0)
        for _ in range(rounds):
            elapsed, centroids = ours(shards, scratch / "work", levels, steps)
            seconds.append(elapsed)
            elapsed, faiss_centroids = over_faiss(x, levels, steps)
            theirs.append(elapsed)
    cosine, faiss_cosine = (
        float(_nearest(x, means)[0].mean()) for means in (plain, _faiss_kmeans(x, levels[0]))
    )
    spread, faiss_spread = (
        evenness(home[_nearest(means, x)[1]], DIRECTIONS) for means in (centroids, faiss_centroids)
    )
    size = f"{n:,} x {DIM}, levels {levels}"
    slow, fast = float(np.median(theirs)), float(np.median(seconds))
    return [
        row(f"the method over FAISS / ours, {size}", slow, fast, "> 1", slow > fast),
        row("evenness of centroids over directions, ours / over FAISS", spread, faiss_spread,
            ">= 1", spread >= faiss_spread, "{:.4f}"),
        row("mean cosine with the centroid, plain level 1, ours / FAISS", cosine, faiss_cosine,
            ">= 0.995", cosine >= 0.995 * faiss_cosine, "{:.4f}"),
    ]  # fmt: skip


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    least, at_random, seconds = rings(scratch / "rings")
    return [
        row(f"evenness on five rings, least of {SEEDS} seeds, ours / random rows", least, at_random,
            ">= 0.95", least >= 0.95, "{:.3f}"),
        row("seconds of the five rings / a minute", seconds, 60, "< 1", seconds < 60),
        *compare(scratch, N, LEVELS, STEPS, rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    n, *levels, steps = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        for result in compare(Path(folder), n, tuple(levels), steps, 1):
            print(result, flush=True)
