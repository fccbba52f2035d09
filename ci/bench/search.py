"""One million vectors of 512 values: ours at its defaults, usearch's HNSW, LanceDB.

Real-like: photographs of ../shared/data (each whole and as three crops) are embedded by
`TimmImageEmbedder("offline")`; of these 1,280 values the 512 principal components are kept. New
vectors are drawn around real ones, along the directions to 8 of their 16 nearest neighbours
(normal, deviation 0.3), and along all components (a tenth of their length). Hard: a spectrum that
falls like 1 / sqrt(i), and no clusters at all. Queries are further draws.

Times are of one query at a time, in a process that is bound to one core, from vector to rows and
scores. Memory is what the process holds for itself once the index is open (RssAnon), without
mapped files, whose pages the system gives away when it wants to. Peers search as hard as it takes
to reach recall 0.95.

The peers are no dependencies of ours. Install them by themselves, and name the folder:

    pip install --no-deps --target FOLDER usearch numkong lancedb lance-namespace \
        lance-namespace-urllib3-client deprecation
    PEERS=FOLDER .venv/bin/python ci/bench/run.py search

python search.py build SHARDS INDEX                  build ours, in a process of its own
python search.py ours|usearch|lancedb FOLDER DATA    measure queries
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from dedup import write
from memory import peak_of_all
from rows import row

N, DIM, QUERIES, K = 1_000_000, 512, 1000, 10
RECALL = 0.95
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def hard(chance: np.random.Generator, n: int) -> np.ndarray:
    spectrum = (np.arange(1, DIM + 1) ** -0.5).astype(np.float32)
    return _unit(chance.standard_normal((n, DIM), dtype=np.float32) * spectrum)


class RealLike:
    """Draws around real embeddings."""

    def __init__(self, real: np.ndarray):
        self.real = real
        products = real @ real.T
        np.fill_diagonal(products, -1)
        self.neighbours = np.argsort(-products, axis=1)[:, :16]
        self.spread = real.std(axis=0)
        self.spread /= np.linalg.norm(self.spread)

    def __call__(self, chance: np.random.Generator, n: int) -> np.ndarray:
        origin = chance.integers(0, len(self.real), n)
        drawn = self.real[origin].copy()
        ways = chance.permuted(np.tile(np.arange(16), (n, 1)), axis=1)[:, :8]
        for way in ways.T:
            share = chance.normal(0, 0.3, (n, 1)).astype(np.float32)
            drawn += share * (self.real[self.neighbours[origin, way]] - self.real[origin])
        drawn += 0.1 * chance.standard_normal(drawn.shape, dtype=np.float32) * self.spread
        return _unit(drawn)


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def real_embeddings(scratch: Path) -> np.ndarray:
    """Photographs, whole and cropped, as their 512 principal components."""
    import io
    import random

    from data import write_shards
    from PIL import Image

    from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder, frames, get_client

    chance, images = random.Random(0), []
    for path in sorted([*SHARED.glob("flickr8k/*.jpg"), *SHARED.glob("imagenet/*.JPEG")]):
        picture = Image.open(path).convert("RGB")
        for crop in range(4):
            share = chance.uniform(0.4, 0.8) if crop else 1.0
            width, height = (int(side * share) for side in picture.size)
            left = chance.randint(0, picture.width - width)
            top = chance.randint(0, picture.height - height)
            buffer = io.BytesIO()
            cut = picture.crop((left, top, left + width, top + height))
            cut.resize((224, 224)).save(buffer, "JPEG", quality=90)
            images.append(buffer.getvalue())
    write_shards(scratch / "photographs", images, 500)
    with get_client("cpu"):
        dataset = ImageTextPairDataset.from_webdataset(scratch / "photographs", backend="cpu")
        embedded = TimmImageEmbedder("offline")(dataset).metadata["image_embedding"].compute()
    values = frames.embedding_array(embedded)[0].astype(np.float64)
    _, directions = np.linalg.eigh(values.T @ values)
    return _unit((values @ directions[:, : -DIM - 1 : -1]).astype(np.float32))


def draw(maker: Callable[..., np.ndarray], folder: Path) -> None:
    """Write shards, all vectors in one file, queries, and the true neighbours of these."""
    import torch

    chance = np.random.default_rng(1)
    folder.mkdir()
    x = np.empty((N, DIM), dtype=np.float32)
    for start in range(0, N, 50_000):
        x[start : start + 50_000] = maker(chance, 50_000)
    queries = maker(chance, QUERIES)
    write(folder / "shards", x)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "vectors.npy", x)
    by_part = [
        (torch.from_numpy(queries) @ torch.from_numpy(x[start : start + 100_000]).T).topk(K)
        for start in range(0, N, 100_000)
    ]
    values = torch.cat([best.values for best in by_part], dim=1)
    rows = torch.cat([best.indices + 100_000 * part for part, best in enumerate(by_part)], dim=1)
    np.save(folder / "truth.npy", rows.gather(1, values.topk(K).indices).numpy())


def build(shards: Path, index: Path) -> dict[str, Any]:
    from nemo_image_curate import ImageTextPairDataset, get_client
    from nemo_image_curate.index.vector_index import build_index

    with get_client("cpu") as client:
        dataset = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
        began = time.perf_counter()
        built = build_index(dataset, path=index)
        seconds = time.perf_counter() - began
        peak = peak_of_all(client)
    settings = {name: built.recipe[name] for name in ("factory", "nprobe", "candidates", "recall")}
    disk = sum(path.stat().st_size for path in index.iterdir())
    return {"seconds": seconds, "peak": peak, "disk": disk / 1e6, **settings}


def _private_memory() -> float:
    """MB of memory that belong to this process alone, files not counted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def _timed(search: Callable[[np.ndarray], np.ndarray], data: Path) -> dict[str, Any]:
    queries, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")
    # The second time pages and caches are warm.
    for _ in range(2):
        times, hits = [], 0
        for query, true in zip(queries, truth, strict=True):
            began = time.perf_counter()
            rows = search(query)
            times.append(time.perf_counter() - began)
            hits += len(np.intersect1d(rows, true))
    p50, mean = np.median(times) * 1e3, np.mean(times) * 1e3
    return {"recall": hits / truth.size, "p50": p50, "mean": mean}


def ours(folder: Path, data: Path) -> dict[str, Any]:
    import faiss
    import torch

    from nemo_image_curate.index.vector_index import VectorIndex

    torch.zeros(9, 9) @ torch.zeros(9, 9)
    faiss.IndexFlatIP(8)
    before = _private_memory()
    index = VectorIndex.load(folder)
    figures = _timed(lambda query: index.search(query[None], K)[1][0], data)
    return {**figures, "memory": _private_memory() - before}


def _peers() -> None:
    if folder := os.environ.get("PEERS"):
        # At the end: what our own environment has goes first.
        sys.path.append(folder)


def usearch(folder: Path, data: Path) -> dict[str, Any]:
    """Its defaults: bfloat16, 16 neighbours, 128 candidates when adding."""
    _peers()
    from usearch.index import Index

    place = folder / "usearch"
    index = Index(ndim=DIM, metric="ip")
    if not place.exists():
        x = np.load(data / "vectors.npy", mmap_mode="r")
        began = time.perf_counter()
        index.add(np.arange(N), x, threads=os.cpu_count())
        seconds = time.perf_counter() - began
        index.save(str(place))
        return {"seconds": seconds, "disk": place.stat().st_size / 1e6}
    before = _private_memory()
    index.load(str(place))
    figures = {}
    for index.expansion_search in (64, 128, 256, 512, 1024):
        figures = _timed(lambda query: index.search(query, K, threads=1).keys, data)
        if figures["recall"] >= RECALL:
            break
    return {
        **figures,
        "memory": _private_memory() - before,
        "setting": f"ef {index.expansion_search}",
    }


def lancedb(folder: Path, data: Path) -> dict[str, Any]:
    """IVF_PQ with 1,000 lists and a byte for each eight values, refined with whole vectors."""
    _peers()
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq

    place = folder / "lancedb"
    if not place.exists():
        x = np.load(data / "vectors.npy", mmap_mode="r")
        values = pa.list_(pa.float32(), DIM)
        schema = pa.schema({"row": pa.int64(), "vector": values})
        blocks = (
            pa.record_batch(
                [
                    pa.array(np.arange(start, start + 50_000)),
                    pa.FixedSizeListArray.from_arrays(
                        x[start : start + 50_000].ravel(), type=values
                    ),
                ],
                schema=schema,
            )
            for start in range(0, N, 50_000)
        )
        began = time.perf_counter()
        reader = pa.RecordBatchReader.from_batches(schema, blocks)
        table = lancedb.connect(str(place)).create_table("vectors", reader)
        kind = IvfPq(distance_type="cosine", num_partitions=1000, num_sub_vectors=DIM // 8)
        table.create_index("vector", config=kind)
        seconds = time.perf_counter() - began
        disk = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        return {"seconds": seconds, "disk": disk / 1e6}
    before = _private_memory()
    table = lancedb.connect(str(place)).open_table("vectors")
    figures: dict[str, Any] = {}
    probes, refine = 0, 0
    for probes, refine in ((10, 10), (20, 10), (20, 20), (40, 20), (80, 20), (80, 50)):

        def search(query: np.ndarray, probes: int = probes, refine: int = refine) -> np.ndarray:
            request = table.search(query).distance_type("cosine").nprobes(probes)
            request = request.refine_factor(refine).limit(K).select(["row", "_distance"])
            rows: np.ndarray = request.to_arrow()["row"].to_numpy()
            return rows

        figures = _timed(search, data)
        if figures["recall"] >= RECALL:
            break
    return {
        **figures,
        "memory": _private_memory() - before,
        "setting": f"nprobes {probes}, refine {refine}",
    }


def _apart(task: str, *paths: Path, cores: int = 1) -> dict[str, Any] | None:
    """Run one of the commands above in a process that is bound to some cores."""
    command = [sys.executable, __file__, task, *map(str, paths)]
    if cores == 1:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS"), "1")
        command = ["taskset", "-c", "0", *command]
    else:
        threads = {}
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if process.returncode == 0:
        figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        return figures
    if "ModuleNotFoundError" not in process.stderr:
        raise RuntimeError(process.stderr)
    print(f"skipped: {process.stderr.splitlines()[-1]}; see ci/bench/search.py")
    return None


def run(scratch: Path, rounds: int) -> list[dict[str, Any]]:
    sets: dict[str, Callable[..., np.ndarray]] = {"hard": hard}
    if SHARED.is_dir():
        sets = {"real-like": RealLike(real_embeddings(scratch)), **sets}
    else:
        print(f"skipped: no photographs for real-like vectors in {SHARED}")
    rows = []
    for name, maker in sets.items():
        data, index = scratch / name, scratch / f"{name}-index"
        draw(maker, data)
        built = _apart("build", data / "shards", index, cores=2)
        searched = _apart("ours", index, data)
        assert built is not None
        assert searched is not None
        rows += _rows(name, built, searched)
        # One set is enough for peers: their builds take the longest.
        for peer in ("usearch", "lancedb") if name == next(iter(sets)) else ():
            peer_built = _apart(peer, scratch, data, cores=2)
            peer_searched = peer_built and _apart(peer, scratch, data)
            if peer_built and peer_searched:
                theirs = {**peer_built, **peer_searched}
                rows += _compared(name, peer, theirs, {**built, **searched})
        (data / "vectors.npy").unlink()
    return rows


def _rows(name: str, built: dict[str, Any], searched: dict[str, Any]) -> list[dict[str, Any]]:
    looked_at = f"{built['nprobe']} lists and {built['candidates'] * K} candidates looked at"
    label = f"1M x {DIM} {name}, {built['factory']}, {looked_at}"
    recall = f"{searched['recall']:.3f}"
    return [
        row(f"{label}: recall@10 / as measured when built", searched["recall"], built["recall"],
             f">= {RECALL}", searched["recall"] >= RECALL, "{:.3f}"),
        row(f"{name}: top-10 on one core, mean / p50, at recall {recall}", searched["mean"],
             searched["p50"], "p50 < 1 ms", searched["p50"] < 1, "{:.2f} ms"),
        row(f"{name}: memory / disk", searched["memory"], built["disk"], "<= 500 MB",
             searched["memory"] <= 500, "{:.0f} MB"),
        row(f"{name}: build {built['seconds']:.0f} s; peak memory of client and workers, mapped "
             "files included / the vectors", built["peak"], N * DIM * 4 / 1e6, "-", True,
             "{:.0f} MB"),
    ]  # fmt: skip


def _compared(
    name: str, peer: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> list[dict[str, Any]]:
    label = f"{name}: {peer} ({theirs['setting']}, recall {theirs['recall']:.3f}) / ours, "
    figures = {
        "top-10 on one core, p50": (theirs["p50"], ours["p50"], "{:.2f} ms"),
        "memory": (theirs["memory"], ours["memory"], "{:.0f} MB"),
        "disk": (theirs["disk"], ours["disk"], "{:.0f} MB"),
        "build": (theirs["seconds"], ours["seconds"], "{:.0f} s"),
    }
    return [
        {**row(label + figure, first, second, "-", True, fmt), "ours": fmt.format(second),
         "peer": fmt.format(first)}
        for figure, (first, second, fmt) in figures.items()
    ]  # fmt: skip


if __name__ == "__main__":
    command = {"build": build, "ours": ours, "usearch": usearch, "lancedb": lancedb}[sys.argv[1]]
    print(json.dumps(command(*map(Path, sys.argv[2:])), default=float))
