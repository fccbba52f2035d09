"""Make the files of an index from the parts of a dataset."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs, worker_cache
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.index.kinds.base import Plan
from nemo_image_curate.index.kinds.coding import Codes, new_index, projection
from nemo_image_curate.index.kinds.engines import read_faiss
from nemo_image_curate.index.rows import sample_scores, write_rows
from nemo_image_curate.index.staging import Parts, part_vectors
from nemo_image_curate.vectors.kmeans import kmeans

# Vectors to find each centre on, and at least for principal components.
_PER_LIST = 100
_LEAST_SAMPLE = 20_000
# Rows of the sample that are worth a task of their own.
_BLOCK_ROWS = 8192
_SEED = 0


def train(plan: Plan, parts: Parts, records: Sequence[dict[str, Any]]) -> Path:
    """Learn components and centres from a sample of the vectors, chosen by shard and key.

    Memory: the sample's components, 50 KB for each list at 128 components.

    Returns
    -------
    Path
        An empty FAISS index; the same for any number of workers.
    """
    import faiss

    # What the sample is of, and what is made of it.
    token = fingerprint(str(plan), [record["digest"] for record in records])
    place = parts.folder / f"trained-{token[:24]}.faiss"
    if place.exists():
        return place
    share = max(_PER_LIST * plan.lists, _LEAST_SAMPLE) / plan.count

    def samples() -> Iterator[np.ndarray]:
        for number, record in enumerate(records):
            if record["indexed"]:
                chosen = np.flatnonzero(_scores(parts, number) < share)
                yield parts.vectors(number, plan.dim)[chosen]

    matrix = projection(samples(), plan)
    blocks, waiting, peak = list[Path](), list[np.ndarray](), 1e-6
    for sample in samples():
        waiting.append((sample @ matrix.T).astype(np.float32))
        peak = max(peak, float(abs(waiting[-1]).max(initial=0.0)))
        if sum(map(len, waiting)) >= _BLOCK_ROWS:
            blocks.append(_block(parts.folder, len(blocks), waiting))
    if waiting:
        blocks.append(_block(parts.folder, len(blocks), waiting))
    centres = kmeans(
        blocks, plan.lists, _SEED, parts.folder, parts.device, parts.progress, init="random"
    )
    for block in blocks:
        block.unlink()
    with storage.atomic_write(str(place)) as file:
        faiss.write_index(new_index(matrix, peak, centres), faiss.PyCallbackIOWriter(file.write))
    return place


def _block(folder: Path, number: int, waiting: list[np.ndarray]) -> Path:
    path = folder / f"block-{number:05d}.npy"
    np.save(path, np.concatenate(waiting))
    waiting.clear()
    return path


def _scores(parts: Parts, number: int) -> np.ndarray:
    """Of each indexed row of a part, what decides whether it is in the sample."""
    return np.concatenate([sample_scores(one, parts.id_col) for one in parts.row_batches(number)])


def encode(parts: Parts, numbers: Sequence[int], dim: int, trained: Path) -> None:
    """Write codes and float16 vectors of some parts, as far as that is not done; on the workers."""
    todo = [number for number in numbers if not _codes(parts.stem(number), trained).exists()]
    work = dask.delayed(_encode_part, pure=False)
    jobs.compute_all(
        [work(parts.stem(number), dim, trained) for number in todo],
        [parts.known[number]["shard"] for number in todo],
        "encode",
        parts.progress,
    )


def _codes(stem: Path, trained: Path) -> Path:
    return stem.with_name(f"{stem.name}.{trained.stem}.codes")


def _encode_part(stem: Path, dim: int, trained: Path) -> None:
    codes = worker_cache.get_or_build(str(trained), lambda: Codes(read_faiss(str(trained))))
    with storage.atomic_write(str(_codes(stem, trained))) as file:
        for block in codes.encode(part_vectors(stem, dim)):
            file.write(block.data)


def fill_lists(index: Any, parts: Parts, numbers: Sequence[int], trained: Path) -> None:
    """Add the codes of some parts to a FAISS index, in this order."""
    lists = Codes(index).lists
    for number in numbers:
        raw = np.fromfile(_codes(parts.stem(number), trained), dtype=np.uint8)
        block = raw.reshape(-1, lists.sa_code_size())
        lists.add_sa_codes(block, np.arange(lists.ntotal, lists.ntotal + len(block)))
    index.ntotal = lists.ntotal


def fill_flat(index: Any, parts: Parts, numbers: Sequence[int]) -> None:
    """Add the vectors of some parts to a FAISS index, in this order."""
    for number in numbers:
        index.add(np.array(parts.vectors(number, index.d)))


def write_index(index: Any, path: Path) -> None:
    """Write a FAISS index to a file."""
    import faiss

    _written(path, lambda file: faiss.write_index(index, faiss.PyCallbackIOWriter(file.write)))


def write_vectors(
    path: Path, parts: Parts, numbers: Sequence[int], dim: int, before: Path | None = None
) -> None:
    """Write the vectors of some parts as float16, after those of another such file."""
    import torch

    def write(file: Any) -> None:
        if before is not None:
            with before.open("rb") as first:
                shutil.copyfileobj(first, file, 2**24)
        for number in numbers:
            vectors = parts.vectors(number, dim)
            for start in range(0, len(vectors), _BLOCK_ROWS):
                some = torch.tensor(vectors[start : start + _BLOCK_ROWS])
                file.write(some.half().numpy().data)

    _written(path, write)


def write_row_table(
    path: Path, parts: Parts, numbers: Sequence[int], before: Iterable[pa.RecordBatch] = ()
) -> None:
    """Write the rows of some parts, after others."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield from before
        for number in numbers:
            yield from parts.row_batches(number)

    _written(path, lambda file: write_rows(file, batches(), parts.schema))


def _written(path: Path, write: Callable[[Any], object]) -> None:
    with storage.atomic_write(str(path)) as file:
        write(file)


def extend(
    kind: str, dim: int, where: dict[str, Path], parts: Parts, numbers: Sequence[int]
) -> dict[str, Path]:
    """Make an index's files with some parts added at the end.

    Parameters
    ----------
    kind : {"flat", "ivf", "cuvs"}
    dim : int
    where : dict of role to Path
        The files as they are.
    parts : Parts
    numbers : sequence of int

    Returns
    -------
    dict of role to Path
        New files, of those roles that change.
    """
    made = {}
    if "vectors" in where:
        made["vectors"] = parts.folder / "vectors"
        write_vectors(made["vectors"], parts, numbers, dim, where["vectors"])
    if "index" in where:
        index = read_faiss(str(where["index"]))
        if kind == "flat":
            fill_flat(index, parts, numbers)
        else:
            # The workers take what encodes from the index itself.
            encode(parts, numbers, dim, where["index"])
            fill_lists(index, parts, numbers, where["index"])
        made["index"] = parts.folder / "index"
        write_index(index, made["index"])
    return made
