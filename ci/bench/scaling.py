"""Two workers of one thread against one: embed, and a 2 GB export.

A worker's decoder works beside its forward pass, and so takes a part of a second core where that is
idle. On a machine whose cores are all taken there is none: each worker is held to one core here.
The export goes to memory where there is a file system of it: how fast a disk takes what is written
does not depend on the workers (two `cp` at once are 1.24 times as fast as one). It makes shards
enough that none waits for the last one: with five, two workers can be 5 / 3 times as fast at best.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import photographs, write_shards
from distributed import Client
from export import GIGABYTES, PER_SHARD, fresh

from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder, get_client

SHARDS = 16
IMAGES_PER_SHARD = 64
EXPORTED_PER_SHARD = 400
MEMORY = Path("/dev/shm")
BARS = {"embed": 1.9, "export": 1.8}


def _hold_to(cores: set[int]) -> None:
    """Have this process, with all of its threads, run on some cores."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def hold_each_to_a_core(client: Client) -> None:
    """Give each worker a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    for number, address in enumerate(sorted(client.scheduler_info(n_workers=-1)["workers"])):
        client.run(_hold_to, {cores[number % len(cores)]}, workers=[address])


def embed_seconds(shards: Path, output: Path) -> float:
    dataset = ImageTextPairDataset.from_webdataset(str(shards), backend="cpu")
    began = time.perf_counter()
    TimmImageEmbedder("offline")(dataset).save_metadata(str(output), progress=False)
    return time.perf_counter() - began


def export_seconds(shards: Path, output: Path) -> float:
    dataset = ImageTextPairDataset.from_webdataset(str(shards), backend="cpu")
    dataset.metadata["keep"] = dataset.metadata.key.str[-1:].isin(list("012345"))
    began = time.perf_counter()
    dataset.to_webdataset(str(output), "keep", samples_per_shard=EXPORTED_PER_SHARD, progress=False)
    return time.perf_counter() - began


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    pool = photographs(400, 900)
    few = scratch / "scaling-embed"
    write_shards(few, pool[:IMAGES_PER_SHARD], IMAGES_PER_SHARD, repeat=SHARDS)
    many = scratch / "scaling-export"
    size = sum(map(len, pool))
    write_shards(many, pool, PER_SHARD, max(1, round(GIGABYTES * 1e9 / size)))
    works: dict[str, tuple[Callable[[Path, Path], float], Path]] = {
        "embed": (embed_seconds, few),
        "export": (export_seconds, many),
    }
    times: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else scratch) as folder:
        output = Path(folder) / "out"
        for _ in range(rounds):
            for workers in (1, 2):
                with get_client("cpu", n_workers=workers) as client:
                    hold_each_to_a_core(client)
                    for name, (work, shards) in works.items():
                        # First for what is loaded once.
                        work(shards, fresh(output))
                        seconds = work(shards, fresh(output))
                        times.setdefault((name, workers), []).append(seconds)
    return [_row(name, times[name, 1], times[name, 2]) for name in works]


def _row(name: str, of_one: list[float], of_two: list[float]) -> dict[str, Any]:
    ratio = statistics.median(a / b for a, b in zip(of_one, of_two, strict=True))
    return {
        "what": f"{name}: one worker of one thread and core / two",
        "ours": f"{statistics.median(of_two):.2f} s",
        "peer": f"{statistics.median(of_one):.2f} s",
        "ratio": ratio,
        "bar": f">= {BARS[name]}",
        "met": ratio >= BARS[name],
    }
