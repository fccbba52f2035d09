"""Open a shard and build its index: against ``tarfile.getmembers``."""

from __future__ import annotations

import os
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

from data import photographs, write_shards

from nemo_image_curate.shards.reader import TarShard


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    shards = scratch / "index"
    write_shards(shards, photographs(200, 200), 10000, repeat=50)
    tar = str(shards / "00000.tar")
    ours, peer = [], []
    for _ in range(max(5, rounds)):
        # An index is remembered as long as its tar stays as it is.
        os.utime(tar)
        began = time.perf_counter()
        with TarShard(tar) as shard:
            samples = len(shard.index.samples)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        with tarfile.open(tar) as file:
            members = len(file.getmembers())
        peer.append(time.perf_counter() - began)
    assert samples * 3 == members
    ratio = statistics.median(peer_s / our_s for our_s, peer_s in zip(ours, peer, strict=True))
    return [
        {
            "what": f"open and index a shard of {members} members / tarfile.getmembers",
            "ours": f"{statistics.median(ours) * 1e3:.0f} ms",
            "peer": f"{statistics.median(peer) * 1e3:.0f} ms",
            "ratio": ratio,
            "bar": ">= 3.0",
            "met": ratio >= 3,
        }
    ]
