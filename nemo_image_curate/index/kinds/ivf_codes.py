"""Vectors as codes of one byte for each of their principal components, in lists around centres."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

# What leaving components out adds to the cosine of two vectors of the dataset: standard deviation.
# The candidates that are scored again make up for it.
TAIL_NOISE = 0.012
# Components at least, in steps of what the processor takes at once.
LEAST, STEP = 32, 16
# The largest value of a code: FAISS keeps it as a signed byte.
_PEAK = 127
# Vectors that are encoded at once.
_ROWS = 8192


def projection(
    samples: Iterable[np.ndarray], dim: int, width: int, exact_later: bool
) -> np.ndarray:
    """The matrix whose rows are the directions that codes are made of.

    The principal components of the sample, not centred, as cosines are not either: no other
    choice of so many directions changes the products of such vectors less. Then a random rotation,
    after which one scale suits them all.

    Parameters
    ----------
    samples : iterable of numpy.ndarray, shape (m, d), float32
        Of length 1.
    dim : int
        Their width.
    width : int
        How many components.
    exact_later : bool
        The best candidates are scored again with whole vectors: only as many components as change
        products by `TAIL_NOISE` or more when they are left out, up to `width`.

    Returns
    -------
    numpy.ndarray, shape (w, d), float64
        Orthonormal rows.
    """
    moment, count = np.zeros((dim, dim)), 0
    for sample in samples:
        wide = sample.astype(np.float64)
        moment += wide.T @ wide
        count += len(wide)
    power, components = np.linalg.eigh(moment / max(1, count))
    power, components = power[::-1], components[:, ::-1]
    if exact_later:
        # Products of the left-out parts of two such vectors have this standard deviation.
        noise = np.sqrt(np.cumsum(power[::-1].clip(0) ** 2)[::-1])
        enough = (w for w in range(LEAST, width, STEP) if noise[w] <= TAIL_NOISE)
        width = next(enough, width)
    mixed, signs = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))
    rotation = mixed * np.sign(np.diag(signs))
    matrix: np.ndarray = rotation @ components[:, :width].T
    return matrix


def new_index(matrix: np.ndarray, peak: float, centres: np.ndarray) -> Any:
    """An empty FAISS index: a linear transform and an inverted file of bytes.

    Parameters
    ----------
    matrix : numpy.ndarray, shape (w, d)
        From `projection`.
    peak : float
        The largest projected value to be expected; larger ones are cut off.
    centres : numpy.ndarray, shape (l, w), float32

    Returns
    -------
    faiss.IndexPreTransform
    """
    import faiss

    width, dim = matrix.shape
    transform = faiss.LinearTransform(dim, width, False)
    scaled = (matrix * (_PEAK / peak)).astype(np.float32)
    faiss.copy_array_to_vector(scaled.ravel(), transform.A)
    transform.is_trained = True
    quantizer = faiss.IndexFlatIP(width)
    quantizer.add(centres)
    # Signed bytes are multiplied as they are, a third faster than SQ8's decoded values.
    kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
    lists = faiss.IndexIVFScalarQuantizer(
        quantizer, width, len(centres), kind, faiss.METRIC_INNER_PRODUCT, False
    )
    lists.train(centres)
    index = faiss.IndexPreTransform(transform, lists)
    for owner, owned in ((lists, quantizer), (index, transform), (index, lists)):
        owned.this.disown()
        owner.own_fields = True
    return index


class Codes:
    """A FAISS index as made by `new_index`.

    Attributes
    ----------
    matrix : numpy.ndarray, shape (w, d), float32
        Orthonormal rows.
    scale : float
        A code is the projected vector times this.
    lists : faiss.IndexIVFScalarQuantizer
    """

    def __init__(self, index: Any):
        import faiss

        self.index = index
        transform = faiss.downcast_VectorTransform(index.chain.at(0))
        scaled = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
        self.scale = float(np.linalg.norm(scaled[0]))
        self.matrix = scaled / np.float32(self.scale)
        self.lists = faiss.downcast_index(index.index)

    def encode(self, vectors: np.ndarray) -> Iterator[np.ndarray]:
        """The number of its list and the code of each vector, as FAISS writes them, in blocks."""
        for start in range(0, len(vectors), _ROWS):
            values = np.array(vectors[start : start + _ROWS]) @ self.matrix.T * self.scale
            yield self.lists.sa_encode(np.rint(values).clip(-_PEAK, _PEAK))

    def project(self, query: np.ndarray) -> np.ndarray:
        """A vector's components, shape (w,)."""
        components: np.ndarray = self.matrix @ query
        return components

    def round_query(self, components: np.ndarray) -> np.ndarray:
        """A query's components (w,) as the whole numbers that FAISS compares codes with."""
        # Each query has a scale of its own: captions may lie off where images are.
        largest = float(abs(components).max()) or 1.0
        whole_numbers: np.ndarray = np.rint(components * np.float32(_PEAK / largest))
        return whole_numbers

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """The components of stored vectors, shape (m, w), about as they were.

        Needs the direct map of `lists`.
        """
        codes: np.ndarray = self.lists.reconstruct_batch(rows)
        return codes / np.float32(self.scale)
