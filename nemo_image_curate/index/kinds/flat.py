"""Kind ``flat``: a query is compared with all vectors, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nemo_image_curate.index.kinds.base import (
    Engine,
    Files,
    Kind,
    open_faiss,
    read_faiss,
    write_faiss,
)
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions

# Up to here all vectors are compared: 50,000 of 512 values take about 5 ms.
MOST_ROWS = 50_000
# So few take less memory than the components that codes need at least.
_FEW_ROWS = 32


@dataclass(frozen=True)
class Flat(Kind):
    """All vectors in memory."""

    name = "flat"
    method = "all compared, exact"
    roles = ("index",)

    @classmethod
    def suits(cls, count: int, dim: int, max_memory: float) -> bool:
        """Up to 50,000 vectors that fit."""
        fits = cls(count, dim).memory_bytes <= max_memory
        return count < _FEW_ROWS or (count <= MOST_ROWS and fits)

    def recipe(self) -> dict[str, Any]:
        """Exact, hence of recall 1."""
        return {"factory": "Flat", "lists": 0, "recall": 1.0}

    @property
    def memory_bytes(self) -> int:
        return self.count * self.dim * 4

    @property
    def disk_bytes(self) -> int:
        return self.memory_bytes

    def make(
        self, staged: StagedPartitions, partitions: Mapping[int, StagedPartition], before: Files
    ) -> tuple[Self, Files]:
        """Write the vectors."""
        import faiss

        index = read_faiss(before["index"]) if before else faiss.IndexFlatIP(self.dim)
        for number in partitions:
            index.add(np.array(staged.vectors(number, self.dim)))
        return self, {"index": write_faiss(index, staged.folder / "index")}

    def open(self, files: Files) -> Engine:
        """Read the vectors."""
        return FlatEngine(open_faiss(files["index"], "IndexFlatIP", self.count, self.dim))


class FlatEngine(Engine):
    """All vectors in memory, in float32.

    Parameters
    ----------
    index : faiss.IndexFlatIP
    """

    lists = 0

    def __init__(self, index: Any):
        import faiss

        self.index = index
        shape = (index.ntotal, index.d)
        self._vectors = faiss.rev_swig_ptr(index.get_xb(), shape[0] * shape[1]).reshape(shape)

    def candidates(
        self, queries: np.ndarray, k: int, nprobe: int, allowed: np.ndarray | None
    ) -> np.ndarray:
        """By all vectors; exact but for the last bits."""
        import faiss

        selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
        parameters = faiss.SearchParameters(sel=selector)
        rows: np.ndarray = self.index.search(queries, k, params=parameters)[1]
        return rows

    def decode(self, rows: np.ndarray | slice) -> np.ndarray:
        """The vectors."""
        vectors: np.ndarray = self._vectors[rows]
        return vectors
