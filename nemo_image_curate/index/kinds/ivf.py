"""Kind ``ivf``: short codes in many lists, of which the nearest are looked at.

A query is compared with the lists whose centres are nearest to it (Jégou et al., "Product
quantization for nearest neighbor search", 2011). There a vector is kept as its principal
components, rotated at random so that all carry the same weight, in one byte each; the best
candidates are scored again with whole vectors in float16, which lie in a file that is mapped.

Measured at recall 0.95 among 1,000,000 vectors of 512 values whose spectrum falls like
1 / sqrt(i), without clusters, one core: 128 components of one byte 0.9 ms and 140 MB. All 512 in
one byte (SQ8) 3.0 ms and 524 MB; RaBitQ of 1, 2, 4 and 7 bits with re-ranking 1.2, 1.2, 2.3 and
4.3 ms; product quantisation of 4 bits with FastScan does not get there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import dask
import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs, worker_cache
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.kinds.base import (
    Engine,
    Files,
    Kind,
    open_faiss,
    read_faiss,
    write_faiss,
)
from nemo_image_curate.index.kinds.ivf_codes import LEAST, STEP, Codes, new_index, projection
from nemo_image_curate.index.rows import sample_scores
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions, staged_vectors
from nemo_image_curate.index.vector_file import VectorFile, write_vectors
from nemo_image_curate.vectors.blocks import write_blocks
from nemo_image_curate.vectors.kmeans import kmeans
from nemo_image_curate.vectors.unit import directions

# Components at most.
_MOST = 256
# Vectors to find each centre on, and at least for principal components.
_PER_LIST = 100
_LEAST_SAMPLE = 20_000
_SEED = 0
# FAISS compares this many queries with centres in another way, with other last bits: a query
# should be answered alike alone and among others.
_TOGETHER = 16


@dataclass(frozen=True)
class Ivf(Kind):
    """Codes in lists, and whole vectors in a file or not at all.

    Attributes
    ----------
    lists : int
    width : int
        Bytes of a code; at most, as long as it is planned.
    rerank : bool
        Whether whole vectors are kept in a file.
    """

    lists: int
    width: int
    rerank: bool

    name = "ivf"

    @classmethod
    def plan(cls, count: int, dim: int, rerank: bool, max_memory: float) -> Self:
        """With codes as long as memory allows."""
        # Four times as many lists find no more among as many vectors looked at (measured), and
        # their centres have to be looked at, too. From 6,400 vectors on there are 40 to find each
        # centre on.
        lists = max(1, min(round(2 * math.sqrt(count)), count // 40))
        if not rerank:
            # Nothing would make up for what is left out.
            return cls(count, dim, lists, dim, False)
        widths = [width for width in range(_MOST, LEAST - 1, -STEP) if width < dim]
        if dim <= _MOST:
            widths.insert(0, dim)
        plans = [cls(count, dim, lists, width, True) for width in widths or [dim]]
        return next((plan for plan in plans if plan.memory_bytes <= max_memory), plans[-1])

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> Self:
        """The one that was made."""
        count, dim, lists, width = (recipe[name] for name in ("count", "dim", "lists", "width"))
        return cls(count, dim, lists, width, recipe["options"]["rerank"])

    def recipe(self) -> dict[str, Any]:
        """Lists and length of the codes."""
        factory = f"PCAR{self.width},IVF{self.lists},SQ8_direct_signed"
        return {"factory": factory, "lists": self.lists, "width": self.width}

    @property
    def memory_bytes(self) -> int:
        # A code and a row number for each vector; without the file also where its code is.
        row_bytes = self.width + 8 + (0 if self.rerank else 8)
        return self.count * row_bytes + self._fixed_bytes

    @property
    def disk_bytes(self) -> int:
        vectors = self.count * self.dim * 2 if self.rerank else 0
        return self.count * (self.width + 8) + self._fixed_bytes + vectors

    @property
    def _fixed_bytes(self) -> int:
        # Centres and components.
        return (self.lists + self.dim) * self.width * 4

    @property
    def method(self) -> str:
        codes = f"up to {self.width} bytes each in {self.lists:,} lists"
        return codes + (", re-ranked exactly" if self.rerank else "")

    @property
    def remedy(self) -> str:
        if self.rerank:
            return "it cannot be smaller"
        return "rerank=True takes less, and a file of vectors"

    @property
    def roles(self) -> tuple[str, ...]:
        return ("index", "vectors") if self.rerank else ("index",)

    def make(
        self, staged: StagedPartitions, partitions: Mapping[int, StagedPartition], before: Files
    ) -> tuple[Self, Files]:
        """Train, unless there are lists already, and encode on the workers."""
        files = {"index": staged.folder / "index"}
        # Without `rerank` the vectors are needed once, to measure recall.
        if not before or "vectors" in before:
            files["vectors"] = staged.folder / "vectors"
            arrays = (staged.vectors(number, self.dim) for number in partitions)
            write_vectors(files["vectors"], arrays, before.get("vectors"))
        # An index that holds codes encodes like the empty one that it was trained as.
        trained = before.get("index") or train(self, staged, partitions)
        index = _filled(trained, staged, partitions, self.dim)
        write_faiss(index, files["index"])
        # `projection` may need fewer components, and k-means leave out empty lists.
        lists = Codes(index).lists
        return replace(self, lists=lists.nlist, width=lists.d), files

    def open(self, files: Files) -> Engine:
        """Read the codes, and map the vectors."""
        vectors = None
        if self.rerank:
            vectors = VectorFile(files["vectors"], self.dim, self.count)
        path = files["index"]
        index = open_faiss(path, "IndexPreTransform", self.count, self.dim)
        if not _holds_each_row_once(index, self.count):
            raise DatasetError(
                f"{path} is damaged: its lists do not hold each of {self.count:,} rows once. Build "
                "the index again."
            )
        return ListEngine(index, vectors)


def train(plan: Ivf, staged: StagedPartitions, partitions: Mapping[int, StagedPartition]) -> Path:
    """Learn components and centres from a sample of the vectors, chosen by shard and key.

    Memory: the sample's components, 50 KB for each list at 128 components.

    Returns
    -------
    Path
        An empty FAISS index; the same for any number of workers.
    """
    # What the sample is of, and what is made of it.
    digests = [partition.digest for partition in partitions.values()]
    path = staged.folder / f"trained-{fingerprint(repr(plan), digests)[:24]}.faiss"
    if path.exists():
        return path
    share = max(_PER_LIST * plan.lists, _LEAST_SAMPLE) / plan.count

    def samples() -> Iterator[np.ndarray]:
        for number in partitions:
            batches = staged.row_batches(number)
            scores = np.concatenate([sample_scores(batch, staged.id_col) for batch in batches])
            yield staged.vectors(number, plan.dim)[np.flatnonzero(scores < share)]

    matrix = projection(samples(), plan.dim, plan.width, exact_later=plan.rerank)
    peak = 1e-6

    def components() -> Iterator[np.ndarray]:
        nonlocal peak
        for sample in samples():
            projected = (sample @ matrix.T).astype(np.float32)
            peak = max(peak, float(abs(projected).max(initial=0.0)))
            yield projected

    blocks = write_blocks(components(), staged.folder)
    # Where most vectors are, so that lists are of much the same length: with k-means++ fewer have
    # to be looked at for the same recall, and a query takes 15 to 25 % longer (a million vectors of
    # ci/bench/search.py's hard kind).
    centres = kmeans(
        blocks, plan.lists, _SEED, staged.folder, staged.device, staged.progress, init="random"
    )
    for block in blocks:
        block.unlink()
    return write_faiss(new_index(matrix, peak, centres), path)


def _filled(path: Path, staged: StagedPartitions, numbers: Iterable[int], dim: int) -> Any:
    """The FAISS index of a file, with the codes of some partitions added in this order.

    Codes are made on the workers, as far as that is not done.
    """
    stems = {number: staged.stem(number) for number in numbers}
    todo = [number for number, stem in stems.items() if not _codes_path(stem, path).exists()]
    encode = dask.delayed(_encode_partition, pure=False)
    jobs.compute_all(
        [encode(stems[number], dim, path) for number in todo],
        [staged.marks[number].shard for number in todo],
        "encode",
        staged.progress,
    )
    index = read_faiss(path)
    lists = Codes(index).lists
    for stem in stems.values():
        codes = np.fromfile(_codes_path(stem, path), np.uint8).reshape(-1, lists.sa_code_size())
        lists.add_sa_codes(codes, np.arange(lists.ntotal, lists.ntotal + len(codes)))
    index.ntotal = lists.ntotal
    return index


def _holds_each_row_once(index: Any, count: int) -> bool:
    """Whether the lists of a FAISS index hold the numbers from 0 to `count`."""
    import faiss

    lists = faiss.downcast_index(index.index)
    if not isinstance(lists, faiss.IndexIVFScalarQuantizer):
        return False
    is_held, held = np.zeros(count, dtype=bool), 0
    for number in range(lists.nlist):
        if size := lists.invlists.list_size(number):
            rows = faiss.rev_swig_ptr(lists.invlists.get_ids(number), size)
            if rows.min() < 0 or rows.max() >= count:
                return False
            is_held[rows] = True
            held += size
    return held == count and bool(is_held.all())


def _codes_path(stem: Path, trained: Path) -> Path:
    return stem.with_name(f"{stem.name}.{trained.stem}.codes")


def _encode_partition(stem: Path, dim: int, trained: Path) -> None:
    """Write the codes of a staged partition; runs on a worker."""
    codes = worker_cache.get_or_build(str(trained), lambda: Codes(read_faiss(trained)))
    with storage.atomic_write(str(_codes_path(stem, trained))) as file:
        for block in codes.encode(staged_vectors(stem, dim)):
            file.write(block.data)


class ListEngine(Engine):
    """Codes in memory, and whole vectors in a mapped file or not at all.

    Parameters
    ----------
    index : faiss.IndexPreTransform
    vectors : VectorFile or None
    """

    def __init__(self, index: Any, vectors: VectorFile | None):
        self.codes = Codes(index)
        self.lists: int = self.codes.lists.nlist
        self._file = vectors
        if vectors is None:
            self.codes.lists.make_direct_map(True)

    def candidates(
        self, queries: np.ndarray, k: int, nprobe: int, allowed: np.ndarray | None
    ) -> np.ndarray:
        """By the codes of the nearest lists."""
        import faiss

        selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
        options = faiss.SearchParametersIVF(nprobe=min(nprobe, self.lists), sel=selector)
        if self._file is not None:
            queries = np.stack([self.codes.project(query) for query in queries])
        whole_numbers = np.stack([self.codes.round_query(query) for query in queries])
        rows = [
            self.codes.lists.search(whole_numbers[start : start + _TOGETHER], k, params=options)[1]
            for start in range(0, len(whole_numbers), _TOGETHER)
        ]
        return np.concatenate(rows)

    def project_query(self, query: np.ndarray) -> np.ndarray:
        """The query, or its components where only codes are stored."""
        return self.codes.project(query) if self._file is None else query

    def decode(self, rows: np.ndarray | slice) -> np.ndarray:
        """Vectors from the file, or decoded components."""
        if self._file is not None:
            return self._file.read(rows)

        row_numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return self.codes.decode(row_numbers)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors from the file, or about what they were."""
        import torch

        stored = self.decode(rows)
        if self._file is not None:
            return stored
        # A vector whose codes are all zero has no direction, and stays zero.
        unit = directions(torch.from_numpy(stored @ self.codes.matrix))
        vectors: np.ndarray = unit.nan_to_num().numpy()
        return vectors
