"""The direction of a vector: the one rule by which embeddings are brought to length 1."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def directions(vectors: torch.Tensor) -> torch.Tensor:
    """Each row scaled to length 1.

    Parameters
    ----------
    vectors : torch.Tensor, shape (n, d), float32 or float64

    Returns
    -------
    torch.Tensor, shape (n, d), of the same type
        NaN in all columns of a row that is all zero, or holds NaN or infinity. Every other row has
        a direction: if its squares leave the range of the type, it is divided by its largest
        value first.
    """
    import torch

    if not vectors.numel():
        return vectors
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    unit: torch.Tensor = vectors / lengths
    # Lengths between this (6e-16 in float32) and its inverse are what squares can tell.
    small = torch.finfo(vectors.dtype).tiny ** 0.4
    # A GPU would have to be waited for.
    if not vectors.is_cuda:
        shortest, longest = lengths.aminmax()
        # As floats: a single query waits for each step here.
        if float(shortest) > small and float(longest) < 1 / small:
            return unit
    # 0 / 0 and inf / inf are NaN.
    scaled = vectors / vectors.abs().amax(dim=1, keepdim=True)
    scaled /= torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return torch.where((lengths > small) & (lengths < 1 / small), unit, scaled)


def unit_vectors(values: Any, device: str) -> tuple[torch.Tensor, np.ndarray]:
    """The directions of those vectors that have one.

    Parameters
    ----------
    values : numpy.ndarray or cupy.ndarray, shape (n, d), float32
    device : {"cpu", "cuda"}

    Returns
    -------
    vectors : torch.Tensor, shape (m, d), float32
        Of length 1.
    row_numbers : numpy.ndarray of int64, shape (m,)
        Their rows among the n; those that are all zero, or hold NaN or infinity, are left out.
    """
    import torch

    with warnings.catch_warnings():
        # Arrow's memory is read-only, of which torch warns; nothing writes to it.
        warnings.simplefilter("ignore", UserWarning)
        unit = directions(torch.as_tensor(values, device=device).float())
    if not unit.numel():
        return unit.reshape(0, unit.shape[1]), np.empty(0, dtype=np.int64)
    has_direction = unit[:, 0].isfinite()
    if has_direction.all():
        return unit, np.arange(len(unit))
    return unit[has_direction], has_direction.nonzero().squeeze(1).cpu().numpy()
