"""Products of unit vectors in the precision that a device is fast at, and the nearest by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_image_curate.compute import devices

if TYPE_CHECKING:
    import torch

# bfloat16 has 8 significant bits: rounding both unit vectors moves a cosine by at most
# 2 * 2^-8 + 2^-16, rounding a result below 1 by at most 2^-9 (Higham, "Accuracy and stability of
# numerical algorithms", 2002, section 3.1).
COARSE_MARGIN = 2.6 * 2**-8
# Similarities are rounded to multiples of this, about float32's accuracy for a sum of squares:
# copies of one vector then have similarity 1, and the last bits of a sum decide nothing.
GRAIN = 2.0**-20
# Rows whose products with all centroids are held at once.
_ROWS = 4096


def coarse(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors in bfloat16 where the device multiplies it natively, else as they are."""
    return vectors.bfloat16() if devices.has_bfloat16(vectors.device.type) else vectors


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
    columns_by_rank = []
    for _ in range(n):
        best = torch.from_numpy(table.argmax(axis=1))[:, None]
        columns_by_rank.append((best, products.gather(1, best)))
        products.scatter_(1, best, -torch.inf)
    index, similarity = (
        torch.cat(columns, dim=1) for columns in zip(*columns_by_rank, strict=True)
    )
    return index, similarity
