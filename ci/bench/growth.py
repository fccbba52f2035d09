"""Peak memory of the client that deduplicates 1, 4 and 16 million rows, and the time it takes.

Rows have digests, hashes and, one in eight of them, embeddings of 16 values, made up: no image is
read. A tenth of them are duplicates of others, in part near ones. Shards grow with the rows, not in
number, so that nothing that the client may hold grows but the clusters.

python growth.py make FOLDER ROWS                       a dataset
python growth.py exact|perceptual|semantic FOLDER WORK  one measurement, in a process of its own
"""

from __future__ import annotations

import json
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
from memory import peak_of_this
from rows import row

from nemo_image_curate import (
    ExactDedup,
    ImageTextPairDataset,
    PerceptualDedup,
    SemanticDedup,
    frames,
    get_client,
)

SIZES = (1_000_000, 4_000_000, 16_000_000)
SHARDS, DIM = 64, 16
METHODS = ("exact", "perceptual", "semantic")


def make(folder: Path, rows: int) -> None:
    """A dataset of about so many rows, shard by shard: memory is that of one shard."""
    folder.mkdir(parents=True)
    # Whatever is compared is made of this number: a tenth of the rows share that of another.
    chance = np.random.default_rng(0)
    count = rows // SHARDS
    for shard in range(SHARDS):
        numbers = np.arange(shard * count, (shard + 1) * count)
        copies = chance.random(count) < 0.1
        originals = np.where(copies, chance.integers(0, rows, count), numbers).astype(np.uint64)
        # Multiplied by an odd number all hashes differ.
        hashes = originals * np.uint64(0x9E3779B97F4A7C15)
        flips = np.where(copies & (chance.random(count) < 0.5), 1 << chance.integers(0, 40), 0)
        table = pa.table(
            {
                "key": [f"{number:010d}" for number in numbers],
                "image_sha256": [f"{value:016x}" * 4 for value in hashes],
                "phash": hashes ^ flips.astype(np.uint64),
                "image_embedding": _embeddings(originals, copies, chance),
            }
        )
        pq.write_table(table, folder / f"{shard:05d}.parquet", use_dictionary=False)
        with tarfile.open(folder / f"{shard:05d}.tar", "w"):
            pass


def _embeddings(originals: np.ndarray, copies: np.ndarray, chance: Any) -> pa.Array:
    """Of every eighth row one that depends on its original alone, and is moved a little."""
    rows = np.flatnonzero(originals % 8 == 0)
    state: Any = originals[rows, None] * np.uint64(DIM) + np.arange(DIM, dtype=np.uint64)
    # SplitMix64 (Steele, Lea and Flood 2014): numbers as if at random.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    vectors = (state >> np.uint64(11)).astype(np.float32) / 2**52 - 1
    moved = chance.standard_normal(vectors.shape, dtype=np.float32) * copies[rows, None] * 0.05
    return frames.embedding_column(vectors + moved, rows, len(originals))


def measure(method: str, folder: Path, work: Path) -> dict[str, float]:
    """Seconds, and the peak of resident memory in MB of this process, which is the client's."""
    shutil.rmtree(work, ignore_errors=True)
    with get_client("cpu", n_workers=2) as client:
        dataset = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
        stage: ExactDedup | PerceptualDedup | SemanticDedup
        if method == "semantic":
            stage = SemanticDedup(keep="random", work_dir=work)
        else:
            stage = (ExactDedup if method == "exact" else PerceptualDedup)(work_dir=work)
            # As if they were made by the stage that makes them.
            records = stage.measure().provenance()
            inputs = {name: records[name] for name in stage.inputs()}
            dataset = dataset.replace(dataset.metadata, inputs)
        before, began = peak_of_this(), time.perf_counter()
        stage(dataset)
        seconds = time.perf_counter() - began
        largest = max(client.run(peak_of_this).values())
    shutil.rmtree(work, ignore_errors=True)
    return {
        "seconds": seconds,
        "client": peak_of_this(),
        "before": before,
        "worker": largest,
    }


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    results: dict[tuple[str, int], dict[str, float]] = {}
    for size in SIZES:
        make(scratch / "rows", size)
        for method in METHODS:
            command = [
                sys.executable,
                __file__,
                method,
                str(scratch / "rows"),
                str(scratch / "work"),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[method, size] = json.loads(done.stdout)
        shutil.rmtree(scratch / "rows")
    table = []
    for method in METHODS:
        first = results[method, SIZES[0]]
        for size in SIZES[1:]:
            peak_of_client, growth = results[method, size]["client"], size // SIZES[0]
            seconds = results[method, size]["seconds"]
            label = f"peak memory of the client, {method} dedup of {size // 10**6}M / of 1M rows"
            flat = peak_of_client <= 1.2 * first["client"]
            table.append(row(label, peak_of_client, first["client"], "<= 1.2", flat, "{:.0f} MB"))
            label = f"{method} dedup of {size // 10**6}M / of 1M rows"
            met = seconds <= 1.5 * growth * first["seconds"]
            table.append(row(label, seconds, first["seconds"], f"<= {1.5 * growth:.0f}", met))
    return table


if __name__ == "__main__":
    mode, folder, last = sys.argv[1:]
    if mode == "make":
        make(Path(folder), int(last))
    else:
        print(json.dumps(measure(mode, Path(folder), Path(last))))
