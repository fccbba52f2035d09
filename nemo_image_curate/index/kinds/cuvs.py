"""Kind ``cuvs``: a CAGRA graph on a GPU. Experimental: it has never been run on one.

Ootomo et al., "CAGRA: highly parallel graph construction and approximate nearest neighbor search
for GPUs", 2023. The graph is built from the file of vectors whenever the index is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nemo_image_curate import frames
from nemo_image_curate.errors import BackendError, ConfigError
from nemo_image_curate.index.kinds.base import Engine, Files, Kind
from nemo_image_curate.index.staging import StagedPartition, StagedPartitions
from nemo_image_curate.index.vector_file import VectorFile, write_vectors

# Neighbours of each vector in the graph, as cuVS has it.
_DEGREE = 64
# cuVS takes powers of two, of at least this, up to 512 in its fastest mode.
_LEAST_QUEUE = 64


@dataclass(frozen=True)
class Cuvs(Kind):
    """Vectors in float16 and a graph of their neighbours; experimental."""

    name = "cuvs"
    experimental = True
    method = "a graph on the GPU (experimental)"
    # The graph is made of the vectors whenever they are opened.
    roles = ("vectors",)

    @classmethod
    def check(cls, rerank: bool) -> None:
        """Refuse to do without the file of vectors, and machines without cuVS."""
        if not rerank:
            raise ConfigError("kind='cuvs' is built from the file of vectors; leave rerank=True.")
        require_cuvs()

    def recipe(self) -> dict[str, Any]:
        """There are no lists; recall is measured."""
        return {"factory": "CAGRA", "lists": 0}

    @property
    def memory_bytes(self) -> int:
        # Of the GPU: vectors and graph.
        return self.count * (self.dim * 2 + _DEGREE * 4)

    @property
    def disk_bytes(self) -> int:
        return self.count * self.dim * 2

    def make(
        self, staged: StagedPartitions, partitions: Mapping[int, StagedPartition], before: Files
    ) -> tuple[Self, Files]:
        """Write the vectors."""
        path = staged.folder / "vectors"
        arrays = (staged.vectors(number, self.dim) for number in partitions)
        write_vectors(path, arrays, before.get("vectors"))
        return self, {"vectors": path}

    def open(self, files: Files) -> Engine:
        """Build the graph."""
        return CuvsEngine(VectorFile(files["vectors"], self.dim, self.count))


def require_cuvs() -> None:
    """Check that cuVS works here.

    Raises
    ------
    BackendError
        When there is no GPU, or no cuVS.
    """
    if problem := frames.gpu_problem():
        raise BackendError(
            f"an index of kind 'cuvs' needs a GPU, which does not work here: {problem}. "
            "Build one of kind='ivf' for a CPU."
        )
    try:
        import cuvs.neighbors  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"an index of kind 'cuvs' needs cuVS: {error}. Install cuvs-cu12 or cuvs-cu13."
        ) from error


class CuvsEngine(Engine):
    """Vectors and graph on the GPU; experimental.

    Parameters
    ----------
    vectors : VectorFile

    Raises
    ------
    BackendError
        When there is no GPU, or no cuVS.
    """

    # There is nothing further to look at than the graph.
    lists = 1

    def __init__(self, vectors: VectorFile):
        require_cuvs()
        from cuvs.common import Resources
        from cuvs.neighbors import cagra

        self._file = vectors
        data = vectors.half.cuda()
        # Vectors have length 1, so that the order is that of their products, too.
        self._graph = cagra.build(cagra.IndexParams(metric="sqeuclidean"), data)
        self._data = data
        # Without, each search would make its own, with a stream and workspaces. It serves one
        # search at a time.
        self._resources = Resources()
        self._lock = threading.Lock()

    def candidates(
        self, queries: np.ndarray, k: int, nprobe: int, allowed: np.ndarray | None
    ) -> np.ndarray:
        """The rows that the graph leads to, shape (q, k); -1 for none."""
        import cupy
        from cuvs.neighbors import cagra, filters

        queue = max(_LEAST_QUEUE, 1 << (k - 1).bit_length())
        options: dict[str, Any] = {}
        if allowed is not None:
            words = np.zeros(-(-len(self._file) // 32), dtype=np.uint32)
            words.view(np.uint8)[: len(allowed)] = allowed
            options["filter"] = filters.from_bitset(cupy.asarray(words))
        with self._lock:
            device_queries = cupy.asarray(queries.astype(np.float16))
            settings = cagra.SearchParams(itopk_size=queue)
            _, neighbours = cagra.search(
                settings, self._graph, device_queries, k, resources=self._resources, **options
            )
            self._resources.sync()
            rows = cupy.asnumpy(cupy.asarray(neighbours)).astype(np.int64)
        # Where there is none cuVS writes the largest number.
        return np.where(rows < len(self._file), rows, -1)

    def decode(self, rows: np.ndarray | slice) -> np.ndarray:
        """Vectors from the file."""
        return self._file.read(rows)
