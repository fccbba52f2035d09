"""The nearest of some centroids, by products in the precision that a device is fast at."""

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
# Rows whose products with all centroids are held at once. A CPU's caches hold few: with 3,000
# centroids a core did 79 billion operations a second with 1,024 rows, 68 with 4,096 (bare: 82).
_ROWS = {"cpu": 1024, "cuda": 4096}


def coarse(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors in bfloat16 where the device multiplies it natively, else as they are."""
    return vectors.bfloat16() if devices.has_bfloat16(vectors.device.type) else vectors


def nearest(
    vectors: torch.Tensor, centroids: torch.Tensor, n: int, spherical: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n` nearest centroids of each vector, the nearest first.

    Parameters
    ----------
    vectors : torch.Tensor, shape (m, d), float32
    centroids : torch.Tensor, shape (k, d), float32
    n : int
        At most k.
    spherical : bool, default True
        All are of length 1 and compared by their cosine, to the accuracy of `coarse`; else by
        Euclidean distance, in float32.

    Returns
    -------
    index : torch.Tensor of int64, shape (m, n)
    similarity : torch.Tensor of float32, shape (m, n)
        The cosine; or x.c - |c|^2 / 2, which is half of what the squared distance of the centroid
        is less than that of zero.
    """
    import torch

    convert = coarse if spherical else torch.Tensor.float
    columns = convert(centroids).T
    lead = None if spherical else centroids.square().sum(dim=1) / 2
    parts = []
    for part in vectors.split(_ROWS[vectors.device.type]):
        products = (convert(part) @ columns).float()
        parts.append(top(products if lead is None else products - lead, n))
    index, similarity = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return index, similarity


def top(similarity: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of the `n` largest values of each row, and those values; changes `similarity`."""
    import torch

    if similarity.is_cuda:
        # Of equal values `max` finds the first, as NumPy does, and `topk` any.
        best = similarity.max(dim=1, keepdim=True) if n == 1 else similarity.topk(n, dim=1)
        return best.indices, best.values
    # numpy's argmax is five times as fast as torch's on a CPU (measured), and `n` is small.
    table = similarity.numpy()
    columns = []
    for _ in range(n):
        index = torch.from_numpy(table.argmax(axis=1))[:, None]
        columns.append((index, similarity.gather(1, index)))
        similarity.scatter_(1, index, -torch.inf)
    index, values = (torch.cat(tensors, dim=1) for tensors in zip(*columns, strict=True))
    return index, values
