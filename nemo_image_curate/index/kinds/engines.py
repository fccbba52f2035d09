"""What finds candidates and holds vectors, for each kind of index."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.kinds.coding import Codes

# FAISS compares this many queries with centres in another way, with other last bits: a query
# should be answered alike alone and among others.
_TOGETHER = 16


class Engine(Protocol):
    """A kind of index, opened.

    Attributes
    ----------
    lists : int
        The most that a search can look at; 0 when it compares all vectors anyway.
    """

    lists: int

    def candidates(
        self, queries: np.ndarray, k: int, probe: int, allowed: np.ndarray | None
    ) -> np.ndarray:
        """The rows that are about nearest, shape (q, k), -1 for none.

        Parameters
        ----------
        queries : numpy.ndarray, shape (q, w), float32
            From `asked`.
        k : int
        probe : int
            How many lists to look at.
        allowed : numpy.ndarray of uint8, optional
            A bit for each row, the lowest of a byte first.
        """
        ...

    def asked(self, query: np.ndarray) -> np.ndarray:
        """A query of shape (d,) as what `stored` is multiplied with."""
        ...

    def stored(self, rows: np.ndarray | slice) -> np.ndarray:
        """Vectors in float32, shape (m, w), whose products with `asked` are the cosines."""
        ...

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors in float32, shape (m, d)."""
        ...


def read_faiss(path: str) -> Any:
    """A FAISS index from a file.

    Raises
    ------
    DatasetError
        When it is none.
    """
    import faiss

    try:
        return faiss.read_index(path)
    except RuntimeError as error:
        reason = str(error).split("Error:")[-1].strip()
        raise DatasetError(f"{path} is damaged: {reason}. Build the index again.") from error


class FlatEngine:
    """All vectors in memory, in float32."""

    lists = 0

    def __init__(self, index: Any):
        import faiss

        self.index = index
        shape = (index.ntotal, index.d)
        self._all = faiss.rev_swig_ptr(index.get_xb(), shape[0] * shape[1]).reshape(shape)

    def candidates(
        self, queries: np.ndarray, k: int, probe: int, allowed: np.ndarray | None
    ) -> np.ndarray:
        """By all vectors; exact but for the last bits."""
        import faiss

        selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
        found: np.ndarray = self.index.search(
            queries, k, params=faiss.SearchParameters(sel=selector)
        )[1]
        return found

    def asked(self, query: np.ndarray) -> np.ndarray:
        """The query itself."""
        return query

    def stored(self, rows: np.ndarray | slice) -> np.ndarray:
        """The vectors."""
        return self._all[rows]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors."""
        return self._all[rows]


class ListEngine:
    """Codes in memory, and whole vectors in a mapped file or not at all."""

    def __init__(self, index: Any, vectors: VectorFile | None):
        self.codes = Codes(index)
        self.lists: int = self.codes.lists.nlist
        self._file = vectors
        if vectors is None:
            self.codes.lists.make_direct_map(True)

    def candidates(
        self, queries: np.ndarray, k: int, probe: int, allowed: np.ndarray | None
    ) -> np.ndarray:
        """By the codes of the nearest lists."""
        import faiss

        selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
        options = faiss.SearchParametersIVF(nprobe=min(probe, self.lists), sel=selector)
        if self._file is not None:
            queries = np.stack([self.codes.project(query) for query in queries])
        numbers = np.stack([self.codes.ask(query) for query in queries])
        found = [
            self.codes.lists.search(numbers[start : start + _TOGETHER], k, params=options)[1]
            for start in range(0, len(numbers), _TOGETHER)
        ]
        return np.concatenate(found)

    def asked(self, query: np.ndarray) -> np.ndarray:
        """The query, or its components where only codes are stored."""
        return self.codes.project(query) if self._file is None else query

    def stored(self, rows: np.ndarray | slice) -> np.ndarray:
        """Vectors from the file, or decoded components."""
        if self._file is not None:
            return self._file.read(rows)

        chosen = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return self.codes.decode(chosen)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors from the file, or about what they were."""
        found = self.stored(rows)
        if self._file is not None:
            return found
        whole = found @ self.codes.matrix
        length = np.linalg.norm(whole, axis=1, keepdims=True)
        return whole / np.where(length > 0, length, 1)


class VectorFile:
    """Vectors in float16, in a file that is mapped: only what is looked at is read.

    Parameters
    ----------
    path : str
    dim : int

    Attributes
    ----------
    half : torch.Tensor, shape (n, d), float16
        The mapped file.
    """

    def __init__(self, path: str, dim: int):
        import torch

        rows = os.stat(path).st_size // (2 * dim)
        # Copy-on-write, as torch wants memory that could be written to.
        mapped = np.memmap(path, dtype=np.float16, mode="c", shape=(rows, dim))
        # torch converts float16 ten times as fast as NumPy (measured).
        self.half = torch.from_numpy(mapped)

    def __len__(self) -> int:
        return len(self.half)

    def read(self, rows: np.ndarray | slice) -> np.ndarray:
        """Some vectors, shape (m, d), float32."""
        import torch

        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        found: np.ndarray = self.half[chosen].float().numpy()
        return found


def open_engine(recipe: Mapping[str, Any], where: Mapping[str, Any]) -> Engine:
    """The engine of an index.

    Parameters
    ----------
    recipe : mapping
        Its ``kind`` and ``dim``.
    where : mapping of role to path
        Its files.
    """
    if recipe["kind"] == "flat":
        return FlatEngine(read_faiss(str(where["index"])))
    vectors = VectorFile(str(where["vectors"]), recipe["dim"]) if "vectors" in where else None
    if recipe["kind"] == "ivf":
        return ListEngine(read_faiss(str(where["index"])), vectors)
    from nemo_image_curate.index.kinds.cuvs import CuvsEngine

    assert vectors is not None, "check_kind refuses cuvs without a file of vectors"
    return CuvsEngine(vectors)
