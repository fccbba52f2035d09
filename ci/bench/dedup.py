"""Semantic deduplication against brute force, SemDeDup's algorithm, and its own growth.

Vectors: 1,000 directions at random, each with members around it whose noise has a spectrum that
falls like 1 / sqrt(i), and 10 % near-duplicates of others: moved by up to a third of their length
along such noise (cosine 0.95 to 1). Times are from embeddings in Parquet to decisions on disk;
the peers get theirs in memory, and only find pairs.

The peers need FAISS: .venv/bin/pip install faiss-cpu

python dedup.py peak SHARDS      one measurement of memory, in a process of its own
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from memory import peak_of_all
from rows import row

from nemo_image_curate import ImageTextPairDataset, SemanticDedup, frames, get_client

DIM, EPS, PER_SHARD = 512, 0.05, 10_000
SMALL, LARGE = 100_000, 1_000_000


def vectors(n: int, dim: int = DIM) -> np.ndarray:
    """The benchmark's vectors, shape (n, dim), float32, of length 1."""
    chance = np.random.default_rng(0)
    spectrum = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    centres = _unit(chance.standard_normal((1000, dim), dtype=np.float32))
    base = n - n // 10
    x = np.empty((n, dim), dtype=np.float32)
    for start in range(0, n, 50_000):
        part = x[start : start + 50_000]
        part[:] = _unit(chance.standard_normal(part.shape, dtype=np.float32) * spectrum)
    x[:base] += centres[chance.integers(0, len(centres), base)]
    x[:base] = _unit(x[:base])
    moved = chance.uniform(0, 0.33, (n - base, 1)).astype(np.float32)
    x[base:] = _unit(x[chance.integers(0, base, n - base)] + x[base:] * moved)
    return x[chance.permutation(n)]


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def write(folder: Path, x: np.ndarray) -> None:
    """Shards without images: this stage looks at embeddings only."""
    folder.mkdir()
    for shard, start in enumerate(range(0, len(x), PER_SHARD)):
        part = x[start : start + PER_SHARD]
        keys = [f"{number:09d}" for number in range(start, start + len(part))]
        column = frames.embedding_column(part, np.arange(len(part)), len(part))
        with tarfile.open(folder / f"{shard:05d}.tar", "w"):
            pass
        table = pa.table({"key": keys, "image_embedding": column})
        pq.write_table(table, folder / f"{shard:05d}.parquet", use_dictionary=["key"])


def ours(shards: Path, work: Path) -> tuple[float, SemanticDedup, ImageTextPairDataset]:
    """Seconds of the stage, with workers that have started; intermediate files are left."""
    shutil.rmtree(work, ignore_errors=True)
    dataset = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
    stage = SemanticDedup(EPS, work_dir=work)
    began = time.perf_counter()
    stage(dataset)
    return time.perf_counter() - began, stage, dataset


def brute_force(x: np.ndarray) -> float:
    """Seconds of FAISS's range search of all vectors among all."""
    import faiss

    index = faiss.IndexFlatIP(DIM)
    index.add(x)
    began = time.perf_counter()
    index.range_search(x, 1 - EPS)
    return time.perf_counter() - began


def semdedup(x: np.ndarray) -> tuple[float, set[tuple[int, int]]]:
    """Seconds and pairs of SemDeDup: k-means over all vectors, then pairs inside each cluster.

    Abbas et al. 2023, section 4 and appendix: FAISS's k-means with cosine similarity, 100
    iterations, k about sqrt(n); all similarities of a cluster's vectors in one matrix.
    """
    import faiss
    import torch

    k = round(len(x) ** 0.5)
    pairs: set[tuple[int, int]] = set()
    began = time.perf_counter()
    kmeans = faiss.Kmeans(DIM, k, niter=100, spherical=True, seed=0, max_points_per_centroid=2**30)
    kmeans.train(x)
    home = kmeans.index.search(x, 1)[1][:, 0]
    order = np.argsort(home, kind="stable")
    for rows in np.split(order, np.searchsorted(home[order], np.arange(1, k))):
        members = torch.from_numpy(x[rows])
        near_mask = torch.triu(members @ members.T, diagonal=1) >= 1 - EPS
        first, second = (rows[part] for part in near_mask.nonzero(as_tuple=True))
        pairs.update(zip(first.tolist(), second.tolist(), strict=True))
    return time.perf_counter() - began, pairs


def all_pairs(x: np.ndarray) -> set[tuple[int, int]]:
    """The true pairs."""
    import torch

    t = torch.from_numpy(x)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(x), 1000):
        near_pairs = (t[start : start + 1000] @ t.T >= 1 - EPS).nonzero()
        near_pairs[:, 0] += start
        pairs.update((a, b) for a, b in near_pairs.tolist() if a < b)
    return pairs


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    x = vectors(SMALL)
    small, large, work = scratch / "small", scratch / "large", scratch / "work"
    write(small, x)
    truth = all_pairs(x)
    times: dict[str, list[float]] = {"ours": [], "brute": [], "semdedup": [], "large": []}
    pairs: set[tuple[int, int]] = set()
    write(large, vectors(LARGE))
    for _ in range(rounds):
        with get_client("cpu"):
            # The first run starts the workers.
            ours(small, work)
            for _ in range(3):
                seconds, stage, dataset = ours(small, work)
                times["ours"].append(seconds)
            recall = stage.cluster(dataset).estimate_recall(sample_size=SMALL // 10).recall or 0.0
            times["large"].append(ours(large, work)[0])
        times["brute"].append(brute_force(x))
        seconds, pairs = semdedup(x)
        times["semdedup"].append(seconds)
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, __file__, "peak", str(large)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = float(done.stdout.split()[-1])
    size = LARGE * DIM * 4 / 1e6
    best = {name: float(np.median(values)) for name, values in times.items()}
    theirs = len(pairs & truth) / len(truth)
    growth = best["large"] / best["ours"]
    return [
        row("recall of true pairs, 100k x 512 / SemDeDup's", recall, theirs, ">= 0.99",
             recall >= 0.99 and recall > theirs, "{:.4f}"),
        row("FAISS brute force / dedup, 100k x 512", best["brute"], best["ours"], ">= 20",
             best["brute"] / best["ours"] >= 20),
        row("SemDeDup / dedup, 100k x 512", best["semdedup"], best["ours"], ">= 1",
             best["semdedup"] >= best["ours"]),
        row("dedup of 1M / of 100k", best["large"], best["ours"], "<= 14", growth <= 14),
        row("peak memory at 1M / the vectors", peak, size, "< 3", peak < 3 * size, "{:.0f} MB"),
    ]  # fmt: skip


def peak(shards: Path) -> float:
    """Peak resident memory in MB of client and workers, files that are mapped included."""
    with get_client("cpu") as client:
        ours(shards, shards.parent / "work")
        return peak_of_all(client)


if __name__ == "__main__":
    print(peak(Path(sys.argv[2])))
