"""Unit vectors and the products between them, in the precision that a device is fast at."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_image_curate import cluster

if TYPE_CHECKING:
    import torch

# bfloat16 has 8 significant bits: rounding both unit vectors moves a cosine by at most
# 2 * 2^-8 + 2^-16, rounding a result below 1 by at most 2^-9 (Higham, "Accuracy and stability of
# numerical algorithms", 2002, section 3.1).
COARSE_MARGIN = 2.6 * 2**-8
# Similarities are rounded to multiples of this, about float32's accuracy for a sum of squares:
# copies of one vector then have similarity 1, and the last bits of a sum decide nothing.
GRAIN = 2.0**-20
# Lengths between this and its inverse are what float32 squares can tell.
_SMALL = 1e-15
# Rows whose products with all centroids are held at once.
_ROWS = 4096


def unit(values: Any, device: str) -> tuple[torch.Tensor, np.ndarray]:
    """The directions of those vectors that have one.

    Parameters
    ----------
    values : numpy.ndarray or cupy.ndarray, shape (n, d)
    device : {"cpu", "cuda"}

    Returns
    -------
    vectors : torch.Tensor, shape (m, d), float32
        Of length 1.
    rows : numpy.ndarray of int64, shape (m,)
        Which rows they are; rows that are all zero, or hold NaN or infinity, are left out.
    """
    import torch

    with warnings.catch_warnings():
        # Arrow's memory is read-only, of which torch warns; nothing writes to it.
        warnings.simplefilter("ignore", UserWarning)
        x = torch.as_tensor(values, device=device).float()
    if not x.numel():
        return x.reshape(0, x.shape[1]), torch.empty(0, dtype=torch.int64).numpy()
    length = x.norm(dim=1)
    x = x / length[:, None]
    # The squares of other rows overflowed or vanished: divide by the largest value first.
    odd = ~((length > _SMALL) & (length < 1 / _SMALL))
    if not odd.any():
        return x, torch.arange(len(x)).numpy()
    given = torch.as_tensor(values, device=device)[odd].float()
    peak = given.abs().amax(1)
    scaled = given / peak[:, None]
    x[odd] = scaled / scaled.norm(dim=1, keepdim=True)
    good = ~odd
    good[odd] = torch.isfinite(peak) & (peak > 0)
    return x[good], good.nonzero().squeeze(1).cpu().numpy()


def coarse(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors in bfloat16 where the device multiplies it natively, else as they are."""
    return vectors.bfloat16() if cluster.has_bfloat16(vectors.device.type) else vectors


def multiply_rate(device: str) -> float:
    """Multiply-adds per second of one thread of a CPU, or of a GPU, for matrices as we use them."""
    import torch

    matrix = coarse(torch.ones(1024, 1024, device=device))
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        (matrix @ matrix).sum().item()
        began = time.perf_counter()
        for _ in range(4):
            product = matrix @ matrix
        product[0, 0].item()
        return 4 * 1024**3 / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)


def nearest(
    vectors: torch.Tensor, centroids: torch.Tensor, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n` centroids of highest cosine similarity for each vector, the nearest first.

    Parameters
    ----------
    vectors : torch.Tensor, shape (m, d), float32
    centroids : torch.Tensor, shape (k, d), float32
        Both of length 1.
    n : int
        At most k.

    Returns
    -------
    index : torch.Tensor of int64, shape (m, n)
    similarity : torch.Tensor of float32, shape (m, n)
        To the accuracy of `coarse`.
    """
    import torch

    fixed = coarse(centroids).T
    parts = []
    for start in range(0, len(vectors), _ROWS):
        products = (coarse(vectors[start : start + _ROWS]) @ fixed).float()
        parts.append(_top(products, n))
    if not parts:
        empty = torch.empty(0, n, device=vectors.device)
        return empty.long(), empty
    index, similarity = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return index, similarity


def _top(products: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    if products.is_cuda:
        similarity, index = products.topk(n, dim=1)
        return index, similarity
    # numpy's argmax is five times as fast as torch's on a CPU (measured), and `n` is small.
    table = products.numpy()
    found = []
    for _ in range(n):
        best = torch.from_numpy(table.argmax(axis=1))[:, None]
        found.append((best, products.gather(1, best)))
        products.scatter_(1, best, -torch.inf)
    index, similarity = (torch.cat(columns, dim=1) for columns in zip(*found, strict=True))
    return index, similarity
