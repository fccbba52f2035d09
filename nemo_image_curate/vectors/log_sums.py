"""Sums of exponentials over many products of vectors, none of which is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.vectors.neighbours import blocks_of

if TYPE_CHECKING:
    import torch

# Queries, and vectors, whose products are held at once: 4 MB on a CPU, which its cache takes; a
# GPU would wait for each small step.
_ROWS = {"cpu": 1024, "cuda": 4096}
_COLUMNS = {"cpu": 1024, "cuda": 8192}
# Queries are filled up to a multiple of this: products of few are rounded otherwise (of 3 and less
# with MKL, seen).
_ROW_UNIT = 16


def log_sums(
    queries: torch.Tensor, files: Sequence[Path], temperature: float, device: str
) -> np.ndarray:
    """For each query x the log of the sum of exp(x . y_j / T) over all vectors y_j in files.

    Parameters
    ----------
    queries : torch.Tensor, shape (m, d), float32
    files : sequence of Path
        ``.npy``, shape (n_i, d), float32.
    temperature : float
        T.
    device : {"cpu", "cuda"}

    Returns
    -------
    numpy.ndarray of float64, shape (m,)
        -inf where there are no vectors.

    Notes
    -----
    Products are in float32: their error moves a result, times T, by no more than themselves
    (3e-7 for unit vectors; in bfloat16 it would be 2e-3, measured). Powers of two are summed less
    a whole number, the largest exponent so far, so that nothing overflows; and in float64, so that
    the order of blocks hardly shows.
    """
    import torch

    m = len(queries)
    padded = math.ceil(m / _ROW_UNIT) * _ROW_UNIT
    exponents = torch.zeros(padded, queries.shape[1], device=device)
    # Of 2: products of vectors with these are x . y / (T ln 2).
    exponents[:m] = queries.to(device) * (1 / (temperature * math.log(2)))
    largest = torch.full((padded, 1), -torch.inf, device=device)
    sums = torch.zeros(padded, dtype=torch.float64, device=device)
    for _, block in blocks_of(files, device, _COLUMNS[device]):
        columns = block.T
        for start in range(0, padded, _ROWS[device]):
            chunk = slice(start, start + _ROWS[device])
            products = exponents[chunk] @ columns
            before = largest[chunk].clone()
            largest[chunk] = torch.maximum(before, products.amax(dim=1, keepdim=True).ceil())
            powers = products.sub_(largest[chunk]).exp2_()
            sums[chunk] *= (before - largest[chunk]).double().exp2()[:, 0]
            sums[chunk] += powers.sum(dim=1, dtype=torch.float64)
    logs: np.ndarray = ((sums.log2() + largest[:, 0]) * math.log(2)).cpu().numpy()
    return logs[:m]
