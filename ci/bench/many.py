"""What shards cost beside their rows: 1,000 and 10,000 shards of three rows, with two workers.

python many.py SHARDS OUTPUT      all steps on one dataset, in a process of its own
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pyarrow as pa
import pyarrow.parquet as pq
from memory import peak_of_this
from PIL import Image

from nemo_image_curate import (
    ExactDedup,
    ImageEmbedder,
    ImageTextPairDataset,
    get_client,
)
from nemo_image_curate.decode import Preprocessing

ROWS = 3
COUNTS = (1_000, 10_000)
SECONDS = 60.0
MEGABYTES = 1_000.0
GROWTH = 11.0


class MeanColour(ImageEmbedder):
    """An embedder that costs next to nothing: the mean of each channel."""

    def load_embedding_model(self, device: str) -> Any:
        return lambda pixels: pixels.mean(dim=(2, 3))

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(16, "squash", 1.0, "bilinear", mean=(-1.0,) * 3, std=(1.0,) * 3)


def write_small_shards(folder: Path, count: int) -> None:
    """Shards of three tiny pictures, a quarter of them duplicates, with sidecars."""
    folder.mkdir(parents=True)
    for shard in range(count):
        rows = []
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for n in range(shard * ROWS, (shard + 1) * ROWS):
                key, colour = f"{n:09d}", n - (n % 4 == 1)
                buffer = io.BytesIO()
                pixel = (colour % 256, colour // 256 % 256, colour // 65536)
                Image.new("RGB", (16, 16), pixel).save(buffer, "PNG")
                info = tarfile.TarInfo(f"{key}.png")
                info.size = buffer.tell()
                tar.addfile(info, io.BytesIO(buffer.getvalue()))
                rows.append({"key": key, "caption": f"number {n}", "n": n, "width": 16})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")


def measure(shards: str, output: str) -> dict[str, float]:
    """Seconds of each step, and the peak resident memory of this process in MB."""
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        value = work()
        seconds[step] = time.perf_counter() - began
        print(f"{step}: {seconds[step]:.1f} s", file=sys.stderr)
        return value

    def read_parquet_count() -> int:
        frame = dd.read_parquet(f"{shards}/*.parquet")
        return len(frame[frame.n % 2 == 0])

    def embed(dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        embedder = MeanColour("mean", image_embedding_column="colour")
        return embedder(dataset).save_metadata(f"{output}/embedded", progress=False)

    with get_client("cpu") as client:
        dataset = timed("open", lambda: ImageTextPairDataset.from_webdataset(shards, backend="cpu"))
        rows = timed("len", lambda: len(dataset))
        even = timed("filter and count", lambda: len(dataset.filter("n % 2 == 0")))
        peer = timed("read_parquet, the same count", read_parquet_count)
        assert (rows, even) == (len(dataset.tar_files) * ROWS, peer)
        timed("embed", lambda: embed(dataset))
        timed("embed again, all done", lambda: embed(dataset))
        half = dataset.filter("n % 2 == 0")
        timed("export half", lambda: half.to_webdataset(f"{output}/export", progress=False))
        decided = timed("exact dedup", lambda: ExactDedup(work_dir=f"{output}/work")(dataset))
        removed = timed(
            "count of its duplicates", lambda: decided.metadata.is_duplicate.sum().compute()
        )
        assert removed == rows // 4, removed
        client.close()
    seconds["peak"] = peak_of_this()
    return seconds


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    results: dict[int, dict[str, float]] = {}
    for count in COUNTS:
        shards = scratch / f"many-{count}"
        write_small_shards(shards, count)
        command = [sys.executable, __file__, str(shards), str(scratch / f"many-{count}-out")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results[count] = json.loads(done.stdout.splitlines()[-1])
    few, many = (results[count] for count in COUNTS)
    peak = many.pop("peak")
    rows = [
        {
            "what": f"{step}: {COUNTS[1]:,} shards / {COUNTS[0]:,}",
            "ours": f"{many[step]:.1f} s",
            "peer": f"{few[step]:.1f} s",
            "ratio": many[step] / few[step],
            "bar": f"< {SECONDS:.0f} s, <= {GROWTH:.0f}",
            "met": many[step] < SECONDS and many[step] / few[step] <= GROWTH,
        }
        for step in many
        if not step.startswith("read_parquet")
    ]
    ours, peer = many["filter and count"], many["read_parquet, the same count"]
    rows.append(
        {
            "what": f"filter and count of {COUNTS[1]:,} shards / dask.dataframe.read_parquet",
            "ours": f"{ours:.1f} s",
            "peer": f"{peer:.1f} s",
            "ratio": ours / peer,
            "bar": "<= 1.5",
            "met": ours / peer <= 1.5,
        }
    )
    rows.append(
        {
            "what": f"peak memory of the client, {COUNTS[1]:,} shards",
            "ours": f"{peak:.0f} MB",
            "peer": f"{MEGABYTES:.0f} MB",
            "ratio": peak / MEGABYTES,
            "bar": "< 1 GB",
            "met": peak < MEGABYTES,
        }
    )
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
