"""A dataset of which 1 % changed, and one with a failed row in each shard: images and seconds."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from data import photographs, write_shards

from nemo_image_curate import ImageTextPairDataset, get_client
from nemo_image_curate.decode import DecodedBatch
from nemo_image_curate.stages.base import PixelStage, no_effect

SHARDS, PER_SHARD, SIDE = 200, 100, 256
CHANGED = SHARDS // 100
# A pass takes over whole batches, of 32 images on a CPU.
BATCH = 32


@dataclass(eq=False, kw_only=True)
class MeanColour(PixelStage):
    """The mean of an image's thumbnail; notes how many images it saw."""

    log: str = no_effect("")

    thumbnail_size = 32

    def columns(self) -> dict[str, pa.DataType]:
        return {"mean": pa.float32()}

    def load(self, device: str) -> Callable[[DecodedBatch], Mapping[str, Any]]:
        def values(batch: DecodedBatch) -> Mapping[str, Any]:
            thumbnails = batch.thumbnails[self.thumbnail_size].float()
            with open(self.log, "a") as file:
                file.write(f"{len(thumbnails)}\n")
            return {"mean": thumbnails.mean(dim=(1, 2, 3)).tolist()}

        return values


def _timed(shards: Path, output: Path, log: Path, retry: bool = False) -> tuple[float, int]:
    """Seconds of a run, and the images that it looked at."""
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    dataset = ImageTextPairDataset.from_webdataset(str(shards), backend="cpu")
    stage = MeanColour(log=str(log), num_threads_per_worker=1)
    stage(dataset).save_metadata(str(output), progress=False, retry=retry)
    seconds = time.perf_counter() - began
    return seconds, sum(map(int, log.read_text().split())) if log.exists() else 0


def _break_an_image(tar: Path) -> None:
    """The first image has zeros for its second half."""
    with tarfile.open(tar) as opened:
        first = next(member for member in opened if member.name.endswith(".jpg"))
    content = bytearray(tar.read_bytes())
    start, end = first.offset_data + first.size // 2, first.offset_data + first.size
    content[start:end] = bytes(end - start)
    tar.write_bytes(content)


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    shards, output, log = scratch / "delta-in", scratch / "delta-out", scratch / "delta-log"
    write_shards(shards, photographs(400, SIDE), PER_SHARD, SHARDS * PER_SHARD // 400)
    tars = sorted(shards.glob("*.tar"))
    with get_client("cpu"):
        _timed(shards, output, log)
        shutil.rmtree(output)
        full, seen = _timed(shards, output, log)
        idle, _ = min(_timed(shards, output, log) for _ in range(rounds))
        for tar in tars[:CHANGED]:
            os.utime(tar)
        changed, changed_seen = _timed(shards, output, log)
        for tar in tars:
            _break_an_image(tar)
        shutil.rmtree(output)
        _timed(shards, output, log)
        again, again_seen = _timed(shards, output, log, retry=True)
    name = f"{SHARDS} shards of {PER_SHARD} images"
    batches = SHARDS * (BATCH - 1)
    return [
        _row(f"{name}, {CHANGED} changed / all", changed, full, changed_seen, seen, 0.01),
        _row(f"{name}, one failed in each / all", again, full, again_seen, seen, batches / seen),
        {
            "what": f"{name}, {CHANGED} changed, less a run without changes / all",
            "ours": f"{changed - idle:.2f} s",
            "peer": f"{full:.2f} s",
            "ratio": (changed - idle) / full,
            "bar": "<= 0.05",
            "met": changed - idle <= 0.05 * full,
        },
    ]


def _row(label: str, ours: float, peer: float, seen: int, of: int, bar: float) -> dict[str, Any]:
    return {
        "what": label,
        "ours": f"{seen:,} images, {ours:.2f} s",
        "peer": f"{of:,} images, {peer:.2f} s",
        "ratio": seen / of,
        "bar": f"<= {bar:.2g} of the images",
        "met": seen <= bar * of,
    }
