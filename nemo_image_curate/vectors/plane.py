"""The plane of most variance through a sample of vectors: two principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plane:
    """A plane through the mean of vectors, along their two principal components.

    Attributes
    ----------
    mean : numpy.ndarray, shape (d,), float64
    axes : numpy.ndarray, shape (2, d), float64
        Of length 1, at right angles, that of more variance first; the largest value of each is
        positive, so that a map is not mirrored from one run to the next. Zero where vectors have
        fewer dimensions.
    explained : tuple of float
        The fraction of the variance along each axis.
    """

    mean: np.ndarray
    axes: np.ndarray
    explained: tuple[float, float]

    @classmethod
    def of(cls, vectors: np.ndarray) -> Plane:
        """The principal plane of some vectors.

        Parameters
        ----------
        vectors : numpy.ndarray, shape (n, d)
            At least one. Takes O(n d + d^2) memory.

        Notes
        -----
        The eigenvectors of the covariance (Pearson, "On lines and planes of closest fit to
        systems of points in space", 1901), in float64.
        """
        mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - mean
        variances, components = np.linalg.eigh(centred.T @ centred)
        axes = np.zeros((2, vectors.shape[1]))
        explained = np.zeros(2)
        highest = slice(None, -3, -1)
        leading = components.T[highest]
        axes[: len(leading)] = leading
        total = variances.clip(min=0).sum()
        if total > 0:
            explained[: len(leading)] = variances[highest].clip(min=0) / total
        largest = np.abs(axes).argmax(axis=1)
        axes *= np.where(axes[range(2), largest] < 0, -1, 1)[:, None]
        return cls(mean, axes, (float(explained[0]), float(explained[1])))

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Where vectors lie on the plane, shape (n, 2), float32."""
        points: np.ndarray = ((vectors - self.mean) @ self.axes.T).astype(np.float32)
        return points
