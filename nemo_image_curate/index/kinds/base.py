"""What a kind of index is: `Kind` plans and makes it, and opens it as an `Engine`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions

# The paths of an index's files by their role: ``index``, ``vectors``, ``rows``.
Files: TypeAlias = Mapping[str, Path]


class Engine(abc.ABC):
    """An index, opened: finds candidates, and holds vectors.

    Attributes
    ----------
    lists : int
        The most that a search can look at; 0 when it compares all vectors anyway.
    """

    lists: int

    @abc.abstractmethod
    def candidates(
        self, queries: np.ndarray, k: int, nprobe: int, allowed: np.ndarray | None
    ) -> np.ndarray:
        """The rows that are about nearest, shape (q, k), -1 for none.

        Parameters
        ----------
        queries : numpy.ndarray, shape (q, w), float32
            From `project_query`.
        k : int
        nprobe : int
            How many lists to look at.
        allowed : numpy.ndarray of uint8, optional
            A bit for each row, the lowest of a byte first.
        """

    @abc.abstractmethod
    def decode(self, rows: np.ndarray | slice) -> np.ndarray:
        """Vectors in float32, shape (m, w), whose products with a projected query are cosines."""

    def project_query(self, query: np.ndarray) -> np.ndarray:
        """A query of shape (d,) as what vectors from `decode` are multiplied with."""
        return query

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors in float32, shape (m, d)."""
        return self.decode(rows)


@dataclass(frozen=True)
class Kind(abc.ABC):
    """An index of some kind, planned or made.

    A new kind is a subclass in a file of its own, and one line in `table.KINDS`.

    Attributes
    ----------
    count, dim : int
        Vectors and their length.
    name : str
        What `build_index` calls the kind.
    experimental : bool
        Taken only when it is asked for.
    """

    count: int
    dim: int

    name: ClassVar[str]
    experimental: ClassVar[bool] = False

    @classmethod  # noqa: B027
    def check(cls, rerank: bool) -> None:
        """Refuse settings that it cannot be made with, and machines where it does not work."""

    @classmethod
    def suits(cls, count: int, dim: int, max_memory: float) -> bool:
        """Whether ``kind="auto"`` takes it for so many vectors, if no kind before it suits."""
        return True

    @classmethod
    def plan(cls, count: int, dim: int, rerank: bool, max_memory: float) -> Self:
        """The best one that fits into memory, or the smallest if none does."""
        return cls(count, dim)

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> Self:
        """The one that was made."""
        return cls(recipe["count"], recipe["dim"])

    @abc.abstractmethod
    def recipe(self) -> dict[str, Any]:
        """What goes into the index's description besides `name`, `count` and `dim`.

        ``factory``, in FAISS's notation; ``lists``, 0 without any; ``recall`` where it need not be
        measured; and what `from_recipe` needs besides ``options``, the settings of
        `build_index`.
        """

    @property
    @abc.abstractmethod
    def memory_bytes(self) -> int:
        """Bytes of the index in memory; mapped files are not counted."""

    @property
    @abc.abstractmethod
    def disk_bytes(self) -> int:
        """Bytes of the vectors and codes on disk; the rows' columns come on top."""

    @property
    @abc.abstractmethod
    def method(self) -> str:
        """How it is searched, in a few words."""

    @property
    def remedy(self) -> str:
        """What takes less memory."""
        return "kind='ivf' takes less"

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.count:,} vectors of {self.dim} values, {self.method}; about "
            f"{self.memory_bytes / 1e6:,.0f} MB in memory, {self.disk_bytes / 1e6:,.0f} MB on disk"
        )

    @property
    @abc.abstractmethod
    def roles(self) -> tuple[str, ...]:
        """The files that it is opened from."""

    @abc.abstractmethod
    def make(
        self, staged: StagedPartitions, partitions: Mapping[int, StagedPartition], before: Files
    ) -> tuple[Self, Files]:
        """Make its files, or extend them: anew, with partitions added at the end.

        Parameters
        ----------
        staged : StagedPartitions
        partitions : mapping of int to StagedPartition
            Those that have vectors, by number; rows are in this order.
        before : Files
            To be extended; none to begin with.

        Returns
        -------
        kind : Kind
            As it came out.
        files : Files
            In the folder of `staged`. Those of `roles`, and ``vectors`` when recall is to be
            measured.
        """

    @abc.abstractmethod
    def open(self, files: Files) -> Engine:
        """The engine that searches its files."""


def read_faiss(path: Path) -> Any:
    """A FAISS index from a file.

    Raises
    ------
    DatasetError
        When it is none.
    """
    import faiss

    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).split("Error:")[-1].strip()
        raise DatasetError(f"{path} is damaged: {reason}. Build the index again.") from error


def open_faiss(path: Path, kind: str, count: int, dim: int) -> Any:
    """A FAISS index from a file, which holds what the description of the index says.

    Parameters
    ----------
    path : Path
    kind : str
        The name of FAISS's class.
    count, dim : int
        Vectors and their length.

    Raises
    ------
    DatasetError
        When it is none, or holds something else.
    """
    index = read_faiss(path)
    if (type(index).__name__, index.ntotal, index.d) != (kind, count, dim):
        raise DatasetError(
            f"{path} is damaged: it holds an {type(index).__name__} of {index.ntotal:,} vectors of "
            f"{index.d} values, not an {kind} of {count:,} of {dim}. Build the index again."
        )
    return index


def write_faiss(index: Any, path: Path) -> Path:
    """Write a FAISS index to a file."""
    import faiss

    with storage.atomic_write(str(path)) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    return path
