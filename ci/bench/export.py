"""Filter and reshard: against cp of the kept bytes, and against webdataset's ShardWriter loop."""

from __future__ import annotations

import glob
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import webdataset
from data import photographs, write_shards

from nemo_image_curate import ImageTextPairDataset, get_client

GIGABYTES = 2.0
KEEP = 0.6
PER_SHARD = 2000


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    # Earlier writes must not be written back during this one's time.
    subprocess.run(["sync"], check=True)
    return folder


def ours(shards: Path, output: Path) -> float:
    dataset = ImageTextPairDataset.from_webdataset(str(shards), backend="cpu")
    dataset.metadata["keep"] = dataset.metadata.key.str[-1:].isin(list("012345"))
    began = time.perf_counter()
    dataset.to_webdataset(str(output), "keep", samples_per_shard=PER_SHARD, progress=False)
    return time.perf_counter() - began


def copy(clean: Path, output: Path) -> float:
    output.mkdir()
    tars = sorted(glob.glob(f"{clean}/*.tar"))
    began = time.perf_counter()
    subprocess.run(["cp", *tars, output], check=True)
    return time.perf_counter() - began


def shard_writer(shards: Path, output: Path) -> float:
    output.mkdir()
    began = time.perf_counter()
    tables = [pq.read_table(path, columns=["key"]) for path in sorted(shards.glob("*.parquet"))]
    keys = [key for table in tables for key in table["key"].to_pylist()]
    kept_keys = {key for key in keys if key[-1] in "012345"}
    source = webdataset.WebDataset(sorted(map(str, shards.glob("*.tar"))), shardshuffle=False)
    with webdataset.ShardWriter(f"{output}/%05d.tar", maxcount=PER_SHARD, verbose=0) as sink:
        for sample in source:
            if sample["__key__"] in kept_keys:
                sink.write(sample)
    return time.perf_counter() - began


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    pool = photographs(400, 900)
    size = sum(map(len, pool))
    repeat = max(1, round(GIGABYTES * 1e9 / size))
    shards = scratch / "export-in"
    write_shards(shards, pool, PER_SHARD, repeat)
    total = sum(path.stat().st_size for path in shards.glob("*.tar"))
    times: dict[str, list[float]] = {"ours": [], "cp": [], "writer": []}
    with get_client("cpu"):
        ours(shards, fresh(scratch / "export-warm"))
        for _ in range(rounds):
            times["ours"].append(ours(shards, fresh(scratch / "export-ours")))
            times["cp"].append(copy(scratch / "export-ours", fresh(scratch / "export-cp")))
            times["writer"].append(shard_writer(shards, fresh(scratch / "export-writer")))
            fresh(scratch / "export-cp")
            fresh(scratch / "export-writer")
    name = f"export 60 % of {total / 1e9:.1f} GB"
    return [
        _row(name, "cp of the kept bytes", times["ours"], times["cp"], 0.7),
        _row(name, "ShardWriter loop", times["ours"], times["writer"], 3.0),
    ]


def _row(name: str, peer: str, ours: list[float], peers: list[float], bar: float) -> dict[str, Any]:
    ratio = statistics.median(peer_s / our_s for our_s, peer_s in zip(ours, peers, strict=True))
    return {
        "what": f"{name} / {peer}",
        "ours": f"{statistics.median(ours):.2f} s",
        "peer": f"{statistics.median(peers):.2f} s",
        "ratio": ratio,
        "bar": f">= {bar}",
        "met": ratio >= bar,
    }
