"""Vectors as codes of one byte for each of their principal components, in lists around centres."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from nemo_image_curate.index.kinds.base import LEAST, STEP, TAIL_NOISE, Plan

# The largest value of a code: FAISS keeps it as a signed byte.
_PEAK = 127
# Vectors that are encoded at once.
_ROWS = 8192


def projection(samples: Iterable[np.ndarray], plan: Plan) -> np.ndarray:
    """The matrix whose rows are the directions that codes are made of.

    The principal components of the sample, not centred, as cosines are not either: no other
    choice of so many directions changes the products of such vectors less. As many as are needed
    to change them by `TAIL_NOISE`, up to the plan's width. Then a random rotation, after which
    one scale suits them all.

    Parameters
    ----------
    samples : iterable of numpy.ndarray, shape (m, d), float32
        Of length 1.
    plan : Plan

    Returns
    -------
    numpy.ndarray, shape (w, d), float64
        Orthonormal rows.
    """
    moment, count = np.zeros((plan.dim, plan.dim)), 0
    for sample in samples:
        wide = sample.astype(np.float64)
        moment += wide.T @ wide
        count += len(wide)
    power, directions = np.linalg.eigh(moment / max(1, count))
    power, directions = power[::-1], directions[:, ::-1]
    width = plan.width
    if plan.rerank:
        # Products of the left-out parts of two such vectors have this standard deviation.
        noise = np.sqrt(np.cumsum(power[::-1].clip(0) ** 2)[::-1])
        enough = (w for w in range(LEAST, width, STEP) if noise[w] <= TAIL_NOISE)
        width = next(enough, width)
    mixed, signs = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))
    rotation: np.ndarray = mixed * np.sign(np.diag(signs))
    return rotation @ directions[:, :width].T


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
        found: np.ndarray = self.matrix @ query
        return found

    def ask(self, projected: np.ndarray) -> np.ndarray:
        """Components (w,) as the whole numbers that FAISS compares codes with."""
        # Each query has a scale of its own: captions may lie off where images are.
        largest = float(abs(projected).max()) or 1.0
        asked: np.ndarray = np.rint(projected * np.float32(_PEAK / largest))
        return asked

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """The components of stored vectors, shape (m, w), about as they were.

        Needs the direct map of `lists`.
        """
        found: np.ndarray = self.lists.reconstruct_batch(rows) / np.float32(self.scale)
        return found
