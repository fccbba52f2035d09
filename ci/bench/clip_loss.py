"""NegClipLoss from embeddings in Parquet to saved scores, against the bare products it needs.

python clip_loss.py ROWS      the same with other rows than 100,000
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rows import row

from nemo_image_curate import ImageTextPairDataset, NegClipLoss, frames, get_client

ROWS, BATCH, DIM, PER_SHARD = 100_000, 32_768, 512, 10_000
# The share of the products that is measured bare; a rate needs no more.
SHARE = 8
SIDE = 2048


def write(folder: Path, n: int) -> None:
    """Shards without images: captions are near to their images, cosine 0.45."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for shard, start in enumerate(range(0, n, PER_SHARD)):
        size = min(PER_SHARD, n - start)
        images = chance.standard_normal((size, DIM), dtype=np.float32)
        texts = images + 2 * chance.standard_normal((size, DIM), dtype=np.float32)
        columns: dict[str, Any] = {"key": [f"{start + number:09d}" for number in range(size)]}
        for name, vectors in (("image_embedding", images), ("text_embedding", texts)):
            columns[name] = frames.embedding_column(vectors, np.arange(size), size)
        with tarfile.open(folder / f"{shard:05d}.tar", "w"):
            pass
        pq.write_table(pa.table(columns), folder / f"{shard:05d}.parquet", use_dictionary=["key"])


def ours(shards: Path, scratch: Path) -> float:
    """Seconds from Parquet to the saved column, with workers that have started."""
    for name in ("work", "out"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    dataset = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
    stage = NegClipLoss(batch_size=BATCH, repeats=1, check_encoder=False, work_dir=scratch / "work")
    began = time.perf_counter()
    stage(dataset).save_metadata(scratch / "out", columns=["neg_clip_loss"])
    return time.perf_counter() - began


def bare(n: int) -> float:
    """Seconds that as many products take in float32, nothing else done."""
    import torch

    a, b = torch.randn(SIDE, DIM), torch.randn(DIM, SIDE)
    out = a @ b
    times = int(2 * n * min(n, BATCH) / SIDE**2 / SHARE)
    began = time.perf_counter()
    for _ in range(times):
        torch.mm(a, b, out=out)
    return (time.perf_counter() - began) * SHARE


def run(scratch: Path, rounds: int, n: int = ROWS) -> list[dict[str, Any]]:
    shards = scratch / "shards"
    write(shards, n)
    seconds, limits = [], []
    with get_client("cpu"):
        write(scratch / "few", 20)
        # Starts the workers.
        ours(scratch / "few", scratch)
        for _ in range(rounds):
            limits.append(bare(n))
            seconds.append(ours(shards, scratch))
    pairs = list(zip(limits, seconds, strict=True))
    ratio = statistics.median(bare_s / our_s for bare_s, our_s in pairs)
    return [
        {
            **row(
                f"bare float32 products / NegClipLoss, {n:,} pairs x {DIM}, batch {BATCH:,}",
                statistics.median(limits),
                statistics.median(seconds),
                ">= 0.7",
                ratio >= 0.7,
                "{:.1f} s",
            ),
            "ratio": ratio,
        }
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(run(Path(folder), 1, int(sys.argv[1])))
