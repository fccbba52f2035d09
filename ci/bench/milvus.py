"""One million vectors of 512 values in `MilvusStore`, files of milvus-lite, beside our index.

The vectors are those of search.py (real-like where ../shared/data is, else hard). `add_dataset`
loads them by Dask partitions, as it does for a cluster. Ours is `build_index` at its defaults, in
the same run. Queries are asked one at a time, by `nearest`, from vector to hits with their columns.
All cores may be used: milvus-lite's server is threads of this process.

milvus-lite looks at each row in Python at each search, so that it is asked few queries. Fewer
rows, by hundreds of thousands:

MILVUS_ROWS=100000 .venv/bin/python ci/bench/run.py milvus

python milvus.py ours|milvus SHARDS FOLDER DATA    build or load, and measure
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import search
from memory import peak_of_this
from rows import row

K, QUERIES = 10, {"ours": 200, "milvus": 10}


class Encoder:
    """What `MilvusStore` asks of an embedder, when nothing is embedded."""

    def encoder(self) -> str:
        return "drawn"


def _measured(engine: str, nearest: Any, folder: Path, data: Path) -> dict[str, Any]:
    queries, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")
    number, times, hits = QUERIES[engine], [], 0
    nearest(queries[:1], K)
    for query, true in zip(queries[:number], truth[:number], strict=True):
        began = time.perf_counter()
        (best,) = nearest(query[None], K)
        times.append(time.perf_counter() - began)
        hits += len({int(hit.key) for hit in best} & set(true.tolist()))
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    figures = {"p50": np.median(times), "recall": hits / (number * K), "disk": disk / 1e6}
    return {**figures, "peak": peak_of_this()}


def ours(shards: Path, folder: Path, data: Path) -> dict[str, Any]:
    from nemo_image_curate import ImageTextPairDataset, get_client
    from nemo_image_curate.index.vector_index import build_index

    with get_client("cpu"):
        dataset = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
        began = time.perf_counter()
        index = build_index(dataset, path=folder, progress=False)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, **_measured("ours", index.nearest, folder, data)}


def milvus(shards: Path, folder: Path, data: Path) -> dict[str, Any]:
    from nemo_image_curate import ImageTextPairDataset, MilvusStore, get_client

    store = MilvusStore(folder / "bench.db", Encoder())  # type: ignore[arg-type]
    with get_client("cpu"):
        dataset = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
        began = time.perf_counter()
        loaded = store.add_dataset(dataset, progress=False)
        seconds = time.perf_counter() - began
    assert loaded.added == loaded.rows == len(store.images)
    figures = _measured("milvus", store.images.nearest, folder, data)
    store.close()
    return {"seconds": seconds, **figures}


def _apart(engine: str, *paths: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, engine, *map(str, paths)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr)
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    search.N = int(os.environ.get("MILVUS_ROWS", search.N))
    name, maker = "hard", search.hard
    if search.SHARED.is_dir():
        name, maker = "real-like", search.RealLike(search.real_embeddings(scratch))
    data = scratch / "data"
    search.draw(maker, data)
    (data / "vectors.npy").unlink()
    figures = {}
    for engine in ("ours", "milvus"):
        (folder := scratch / engine).mkdir()
        figures[engine] = _apart(engine, data / "shards", folder, data)
        shutil.rmtree(folder)
    ours, theirs = figures["ours"], figures["milvus"]
    prefix = f"{search.N:,} x {search.DIM} {name}, MilvusStore (milvus-lite) / our index: "
    recall = theirs["recall"]
    return [
        {**row(prefix + label, theirs[figure] * scale, ours[figure] * scale, bar, met, fmt),
         "ours": fmt.format(ours[figure] * scale), "peer": fmt.format(theirs[figure] * scale)}
        for figure, label, fmt, scale, bar, met in (
            ("recall", "recall@10", "{:.3f}", 1, ">= 0.99 in Milvus", recall >= 0.99),
            ("seconds", "load, build", "{:.0f} s", 1, "-", True),
            ("disk", "disk", "{:.0f} MB", 1, "-", True),
            ("p50", "top-10 with columns, p50", "{:.2f} ms", 1e3, "-", True),
            ("peak", "peak memory of the client", "{:.0f} MB", 1, "-", True),
        )
    ]  # fmt: skip


if __name__ == "__main__":
    command = {"ours": ours, "milvus": milvus}[sys.argv[1]]
    print(json.dumps(command(*map(Path, sys.argv[2:])), default=float))
