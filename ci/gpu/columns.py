"""Steps on columns: frames, semantic deduplication, and search."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from compute import PEAK
from results import known, record
from setting import BACKEND, DEVICE, client, full, in_memory, rate, scratch


def frames() -> None:
    """An embedding column to a matrix and back, on the device."""
    import numpy as np
    import torch

    from nemo_image_curate import frames as backends

    rows, dim = full(400_000, 100), 768
    values = torch.randn(rows, dim, device=DEVICE)
    matrix = values if BACKEND == "gpu" else values.numpy()
    column_of_matrix = backends.embedding_column(matrix, range(rows), rows)
    frame = backends.from_arrow(_numbers(rows), BACKEND)
    column = backends.with_columns(frame, {"embedding": column_of_matrix})["embedding"]
    array, _ = backends.embedding_array(column)
    same = float((torch.as_tensor(array, device=DEVICE) == values).all())
    record("cuDF embedding column, round trip is exact", same, "(1 = yes)")
    row_numbers = np.arange(rows)
    speed = rate(lambda: backends.embedding_column(matrix, row_numbers, rows), rows)
    record("matrix to column, 768 wide", speed * dim * 4 / 1e9, "GB/s")
    speed = rate(lambda: backends.embedding_array(column), rows)
    record("column to matrix, 768 wide", speed * dim * 4 / 1e9, "GB/s")
    arrow = backends.column_to_arrow(column)
    record("rows of the column in Arrow", len(arrow), "rows", rows, "those given")
    assert np.isfinite(speed)
    if BACKEND == "gpu":
        _split()


def _split() -> None:
    """Whether a shuffle, which splits frames so, has rows arrive in the same order every time."""
    import cupy

    from nemo_image_curate import frames as backends

    frame = backends.from_arrow(_numbers(1_000_000), "gpu")
    to = cupy.random.default_rng(0).integers(0, 64, len(frame), dtype=cupy.int32)
    first, *others = (
        [backends.to_arrow(part) for part in frame.scatter_by_map(to, map_size=64)]
        for _ in range(5)
    )
    same = all(parts == first for parts in others)
    record("cuDF splits a million rows five times alike", float(same), "(1 = yes)")


def _numbers(rows: int) -> Any:
    import pyarrow as pa

    return pa.table({"n": range(rows)})


def vectors(n: int, dim: int) -> Any:
    """Unit vectors around 1,000 directions, a tenth of them near-duplicates of others.

    As in ci/bench/dedup.py: noise whose spectrum falls like 1 / sqrt(i), and duplicates moved by up
    to a third of their length; made on the device.

    Returns
    -------
    torch.Tensor, shape (n, dim), float32
        In the host's memory.
    """
    import torch
    from torch.nn.functional import normalize

    chance = torch.Generator(DEVICE).manual_seed(0)
    options: dict[str, Any] = {"generator": chance, "device": DEVICE}
    spectrum = torch.arange(1, dim + 1, device=DEVICE) ** -0.5
    centres = normalize(torch.randn(1000, dim, **options), dim=1)
    base = n - n // 10
    x = torch.empty(n, dim, device=DEVICE)
    for part in x.split(1 << 18):
        part[:] = normalize(torch.randn(part.shape, **options) * spectrum, dim=1)
    for part in x[:base].split(1 << 18):
        part += centres[torch.randint(1000, (len(part),), **options)]
        part[:] = normalize(part, dim=1)
    for part in x[base:].split(1 << 18):
        part *= torch.rand(len(part), 1, **options) / 3
        part += x[torch.randint(base, (len(part),), **options)]
        part[:] = normalize(part, dim=1)
    # By chunks: a second matrix of the whole would not fit beside the first.
    order = torch.randperm(n, **options)
    return torch.cat([x[rows].cpu() for rows in order.split(1 << 18)])


def shards(folder: Path, n: int, dim: int, per_shard: int) -> Any:
    """A dataset of such vectors, without images."""
    import tarfile

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nemo_image_curate import ImageTextPairDataset
    from nemo_image_curate import frames as backends

    folder.mkdir()
    for number, part in enumerate(vectors(n, dim).split(per_shard)):
        keys = [f"{number:04d}{row:07d}" for row in range(len(part))]
        column = backends.embedding_column(part.numpy(), np.arange(len(part)), len(part))
        table = pa.table({"key": keys, "image_embedding": column})
        pq.write_table(
            table, folder / f"{number:05d}.parquet", use_dictionary=False, compression="none"
        )
        tarfile.open(folder / f"{number:05d}.tar", "w").close()
    return ImageTextPairDataset.from_webdataset(folder, backend=BACKEND)


def dedup() -> None:
    """Semantic deduplication of a million, from embeddings in Parquet to decisions on disk."""
    _dedup(full(1_000_000, 3000))


def dedup_large() -> None:
    """The same of ten million: 31 GB of vectors, and as much again sorted by cluster."""
    _dedup(full(10_000_000, 6000))


def _dedup(n: int) -> None:
    from nemo_image_curate import SemanticDedup

    dim = full(768, 64)
    with scratch() as folder, in_memory() as work, client():
        dataset = shards(folder / "shards", n, dim, full(100_000, 1000))
        stage = SemanticDedup(work_dir=work)
        cost = stage.estimate_cost(dataset)
        began = time.perf_counter()
        clusters = stage.cluster(dataset)
        clustered = time.perf_counter() - began
        clusters.extract()
        seconds = time.perf_counter() - began
        recall = clusters.estimate_recall().recall
    name = f"semantic dedup of {n:,} x {dim}"
    record(name, seconds, "s")
    record(f"{name}, clustering alone", clustered, "s", seconds, "all")
    done = 2 * cost.multiply_adds / seconds / 1e12
    record(f"{name}, matrix products", done, "TFLOP/s", known(PEAK), PEAK)
    record(f"{name}, recall", recall or 0.0, "of true pairs")


def index() -> None:
    """Indexes of ten million vectors: build, queries, recall; cuVS against FAISS on the CPU."""
    from nemo_image_curate import build_index

    n, dim = full(10_000_000, 3000), full(512, 32)
    with scratch() as folder, client():
        dataset = shards(folder / "shards", n, dim, full(100_000, 1000))
        for kind in full(("cuvs", "ivf"), ("ivf",)):
            began = time.perf_counter()
            built = build_index(dataset, kind=kind, path=folder / kind)
            name = f"{kind} index of {n:,} x {dim}"
            record(f"{name}, build", time.perf_counter() - began, "s")
            record(f"{name}, recall@10", built.recipe.get("recall") or 1.0, "of true neighbours")
            _query(name, built, built.vectors(list(range(0, n, n // 1000))))


def _query(name: str, built: Any, queries: Any) -> None:
    speed = rate(lambda: [built.search(query[None], 10) for query in queries], len(queries))
    record(f"{name}, queries one by one", speed, "queries/s")
    record(
        f"{name}, queries together",
        rate(lambda: built.search(queries, 10), len(queries)),
        "queries/s",
    )
