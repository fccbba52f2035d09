"""Candidates from a CAGRA graph on a GPU (cuVS); it has never been run: no GPU was at hand.

Ootomo et al., "CAGRA: highly parallel graph construction and approximate nearest neighbor search
for GPUs", 2023. The graph is built from the file of vectors whenever the index is opened.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from nemo_image_curate import frames
from nemo_image_curate.errors import BackendError
from nemo_image_curate.index.kinds.engines import VectorFile

# cuVS takes powers of two, of at least this, up to 512 in its fastest mode.
_LEAST_QUEUE = 64


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


class CuvsEngine:
    """Vectors in float16 and a graph of their neighbours, on the GPU.

    Raises
    ------
    BackendError
        When there is no GPU, or no cuVS.
    """

    # There is nothing further to look at than the graph.
    lists = 1

    def __init__(self, vectors: VectorFile):
        require_cuvs()
        from cuvs.neighbors import cagra

        self._file = vectors
        data = vectors.half.cuda()
        # Vectors have length 1, so that the order is that of their products, too.
        self._graph = cagra.build(cagra.IndexParams(metric="sqeuclidean"), data)
        self._data = data
        # One search at a time: cuVS shares its handle.
        self._lock = threading.Lock()

    def candidates(
        self, queries: np.ndarray, k: int, probe: int, allowed: np.ndarray | None
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
            asked = cupy.asarray(queries.astype(np.float16))
            settings = cagra.SearchParams(itopk_size=queue)
            _, found = cagra.search(settings, self._graph, asked, k, **options)
            rows = cupy.asnumpy(cupy.asarray(found)).astype(np.int64)
        # Where there is none cuVS writes the largest number.
        return np.where(rows < len(self._file), rows, -1)

    def asked(self, query: np.ndarray) -> np.ndarray:
        """The query itself."""
        return query

    def stored(self, rows: np.ndarray | slice) -> np.ndarray:
        """Vectors from the file."""
        return self._file.read(rows)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors from the file."""
        return self._file.read(rows)
