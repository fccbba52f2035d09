"""Uniqueness, retrieval and selection files: against bare products, and against pandas.

Neighbours are found from embeddings in Parquet to saved columns, and to decisions on disk; the
limit is what torch takes for the same products, in memory, in bfloat16 where the CPU has it, with a
thread for each core. A selection of half of the rows is written against pandas, which reads the
same columns of the same shards and writes one file.

python choices.py ROWS      the same with fewer rows
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from dedup import DIM, vectors, write

from nemo_image_curate import ImageTextPairDataset, Retrieve, Uniqueness, get_client
from nemo_image_curate.compute.devices import usable_cores

ROWS, SEEDS, LISTED, LISTED_PER_SHARD = 100_000, 10_000, 4_000_000, 100_000


def _opened(folder: Path) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(folder, backend="cpu")


def uniqueness(pool: Path, scratch: Path) -> float:
    """Seconds, of all rows against all."""
    for folder in (scratch / "work", scratch / "saved"):
        shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    stage = Uniqueness(against=None, work_dir=scratch / "work")
    stage(_opened(pool)).save_metadata(scratch / "saved", ["uniqueness"])
    return time.perf_counter() - began


def retrieval(pool: Path, seeds: np.ndarray, scratch: Path) -> float:
    """Seconds, of the four nearest rows of each seed."""
    shutil.rmtree(scratch / "work", ignore_errors=True)
    began = time.perf_counter()
    Retrieve(seeds, work_dir=scratch / "work")(_opened(pool))
    return time.perf_counter() - began


def bare(pairs: float) -> float:
    """Seconds of the products of so many pairs alone."""
    import torch

    from nemo_image_curate.vectors.nearest import coarse

    torch.set_num_threads(usable_cores())
    x = coarse(torch.from_numpy(vectors(8192)))
    x @ x.T
    times = []
    for _ in range(8):
        began = time.perf_counter()
        x @ x.T
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * pairs / 8192**2


def _write_names(folder: Path, count: int) -> None:
    """Shards with keys and a flag for each sample, and nothing in their tars."""
    import tarfile

    folder.mkdir()
    for number, start in enumerate(range(0, count, LISTED_PER_SHARD)):
        tarfile.open(folder / f"{number:05d}.tar", "w").close()
        keys = [f"{serial:09d}" for serial in range(start, min(start + LISTED_PER_SHARD, count))]
        chosen = np.arange(len(keys)) % 2 == 0
        table = pa.table({"key": keys, "chosen": chosen, "multiplicity": np.ones(len(keys), int)})
        pq.write_table(table, folder / f"{number:05d}.parquet")


def listing(folder: Path, scratch: Path) -> float:
    output = scratch / "chosen.parquet"
    output.unlink(missing_ok=True)
    began = time.perf_counter()
    _opened(folder).filter("chosen").to_selection(output)
    return time.perf_counter() - began


def by_pandas(folder: Path, scratch: Path) -> float:
    began = time.perf_counter()
    parts = []
    for path in sorted(folder.glob("*.parquet")):
        part = pd.read_parquet(path, columns=["key", "chosen", "multiplicity"])
        parts.append(part[part.chosen].drop(columns="chosen").assign(shard=f"{path.stem}.tar"))
    pd.concat(parts).to_parquet(scratch / "pandas.parquet")
    return time.perf_counter() - began


def run(scratch: Path, rounds: int, rows: int = ROWS) -> list[dict[str, Any]]:
    pool, names = scratch / "pool", scratch / "names"
    x = vectors(rows)
    write(pool, x)
    seeds = x[:: max(1, rows // SEEDS)][:SEEDS]
    _write_names(names, LISTED * rows // ROWS)
    times: dict[str, list[float]] = {}
    with get_client("cpu"):
        # Workers import what they need.
        retrieval(pool, seeds[:8], scratch)
        for _ in range(rounds):
            measured = {
                "unique": uniqueness(pool, scratch),
                "peer of unique": bare(rows * rows),
                "retrieved": retrieval(pool, seeds, scratch),
                "peer of retrieved": bare(rows * len(seeds)),
                "listed": listing(names, scratch),
                "peer of listed": by_pandas(names, scratch),
            }
            for name, seconds in measured.items():
                times.setdefault(name, []).append(seconds)
    listed = f"selection of half of {LISTED * rows // ROWS:,} rows"
    return [
        _row(f"uniqueness of {rows:,} x {DIM} / bare products", times, "unique", 0.5),
        _row(
            f"4 nearest of {rows:,} x {DIM} for {len(seeds):,} seeds / bare products",
            *(times, "retrieved", 0.25),
        ),
        _row(f"{listed} / pandas in memory", times, "listed", 0.3),
    ]


def _row(label: str, times: dict[str, list[float]], name: str, bar: float) -> dict[str, Any]:
    ours, peers = times[name], times[f"peer of {name}"]
    ratio = statistics.median(peer_s / our_s for our_s, peer_s in zip(ours, peers, strict=True))
    return {
        "what": label,
        "ours": f"{statistics.median(ours):.2f} s",
        "peer": f"{statistics.median(peers):.2f} s",
        "ratio": ratio,
        "bar": f">= {bar}",
        "met": ratio >= bar,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for line in run(Path(folder), 1, int(sys.argv[1])):
            print(line)
