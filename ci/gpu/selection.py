"""Steps of choosing: nearest neighbours, sums of exponentials, and k-means, of vectors in files."""

from __future__ import annotations

import time
from pathlib import Path

from columns import vectors
from compute import PEAK
from results import known, record
from setting import DEVICE, client, full, in_memory, rate

DIM = full(768, 64)
# Vectors of a file.
PER_FILE = full(100_000, 1000)


def _files(folder: Path, n: int) -> list[Path]:
    """Unit vectors, as `stages.gathered` writes them."""
    import numpy as np

    paths = []
    for number, part in enumerate(vectors(n, DIM).split(PER_FILE)):
        paths.append(folder / f"{number:05d}.npy")
        np.save(paths[-1], part.numpy())
    return paths


def neighbours() -> None:
    """The ten nearest of a million for 16,384 vectors: uniqueness, retrieval, decontamination."""
    import numpy as np
    import torch

    from nemo_image_curate.vectors.neighbours import top_k

    n, m = full(1_000_000, 3000), full(16_384, 100)
    with in_memory() as folder:
        files = _files(folder, n)
        queries = torch.from_numpy(np.load(files[0])[:m]).to(DEVICE)
        speed = rate(lambda: top_k(queries, files, 10, DEVICE), m)
    name = f"10 nearest of {n:,} x {DIM}"
    record(name, speed, "queries/s")
    record(f"{name}, matrix products", 2 * speed * n * DIM / 1e12, "TFLOP/s", known(PEAK), PEAK)


def clip_loss() -> None:
    """NegClipLoss's sums for 100,000 pairs and batches of 32,768."""
    import numpy as np
    import torch

    from nemo_image_curate.vectors.log_sums import log_sums

    n, batch = full(100_000, 1000), full(32_768, 1000)
    with in_memory() as folder:
        files = _files(folder, batch)
        queries = torch.from_numpy(np.load(files[0])).to(DEVICE)
        speed = rate(lambda: log_sums(queries, files, 0.01, DEVICE), len(queries))
    name = f"sums of exponentials over {batch:,} x {DIM}"
    record(name, speed, "rows/s")
    record(f"{name}, both of {n:,} pairs", 2 * n / speed, "s")
    done = 2 * speed * batch * DIM / 1e12
    record(f"{name}, matrix products", done, "TFLOP/s", known(PEAK), f"{PEAK} (ours is float32)")


def clusters() -> None:
    """k-means with k-means++ starts of a million vectors into 10,000."""
    from nemo_image_curate.vectors.kmeans import MAX_ITER, kmeans

    n, k = full(1_000_000, 3000), full(10_000, 50)
    with in_memory() as folder, client():
        files = _files(folder, n)
        began = time.perf_counter()
        kmeans(files, k, 0, folder, DEVICE, None, tol=0.0)
        seconds = time.perf_counter() - began
    name = f"k-means of {n:,} x {DIM} into {k:,}"
    record(name, seconds, "s")
    # The starts cost as many products as one step.
    done = 2 * n * k * DIM * (MAX_ITER + 1) / seconds / 1e12
    record(f"{name}, matrix products", done, "TFLOP/s", known(PEAK), PEAK)
