"""The nearest centroid of each vector, decided for each by itself: whatever is beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_image_curate.vectors.nearest import top

if TYPE_CHECKING:
    import torch

# Rows whose products with all centroids are held at once.
_ROWS = 4096
# Cosines are sums of multiples of this, which 64 bits hold in any order of 2^18 summands.
COSINE_GRAIN = 2.0**-44
# What float64 decides is rounded to this share of what float32 cannot tell, so that the lowest
# number stands for centroids that are equal.
_GRAIN = 2.0**-26


def homes(
    vectors: torch.Tensor, centroids: torch.Tensor, spherical: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centroid of each vector, and how far it is.

    `nearest` is faster, and its last bits depend on how many vectors there are. Here float32 finds
    the two nearest, and where its rounding may have exchanged them float64 decides.

    Parameters
    ----------
    vectors : torch.Tensor, shape (m, d), float32
    centroids : torch.Tensor, shape (k, d), float32
        At least one.
    spherical : bool, default True
        All are of length 1.

    Returns
    -------
    index : torch.Tensor of int64, shape (m,)
    distance : torch.Tensor of float64, shape (m,)
        1 - cosine if `spherical`, else Euclidean.
    """
    import torch

    index = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    distance = torch.empty(len(vectors), dtype=torch.float64, device=vectors.device)
    # Products of vectors far from zero would hide how far they are from each other.
    origin = torch.zeros(()) if spherical else centroids.double().mean(dim=0)
    columns = (centroids.double() - origin.to(vectors.device)).T
    lead = torch.zeros(()) if spherical else columns.square().sum(dim=0) / 2
    lead = lead.to(vectors.device)
    reach = columns.square().sum(dim=0).amax().sqrt()
    # A sum of d products is off by d 2^-24 of the lengths at most (Higham, "Accuracy and stability
    # of numerical algorithms", 2002, section 3.1); two are compared.
    rounding = 4 * (len(columns) + 2) * 2.0**-24
    coarse_columns, coarse_lead = columns.float(), lead.float()
    for start in range(0, len(vectors), _ROWS):
        part = vectors[start : start + _ROWS].double() - origin.to(vectors.device)
        margin = rounding * reach * (part.square().sum(dim=1).sqrt() + reach)
        scores = part.float() @ coarse_columns - coarse_lead
        nearest_two, scores_of_two = top(scores, min(2, len(centroids)))
        home = nearest_two[:, 0]
        gap = scores_of_two[:, 0] - scores_of_two[:, -1]
        close = (gap <= margin).nonzero().squeeze(1) if len(centroids) > 1 else home[:0]
        exact = part[close] @ columns - lead
        grain = (margin[close] * _GRAIN).clamp(min=torch.finfo(torch.float64).tiny)
        home[close] = (exact / grain[:, None]).round().argmax(dim=1)
        index[start : start + _ROWS] = home
        members = vectors[start : start + _ROWS]
        distance[start : start + _ROWS] = _distances(members, centroids[home], spherical)
    return index, distance


def cosines(vectors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The cosine of each of some vectors with another one, the same in any company.

    Parameters
    ----------
    vectors, others : torch.Tensor, shape (m, d), float32
        Of length 1, d at most 2^18.

    Returns
    -------
    torch.Tensor of int64, shape (m,)
        In units of `COSINE_GRAIN`.
    """
    import torch

    parts = [torch.empty(0, dtype=torch.int64, device=vectors.device)]
    for start in range(0, len(vectors), _ROWS):
        rows = slice(start, start + _ROWS)
        # Two numbers of 24 bits: float64 has their product exactly.
        products = vectors[rows].double() * others[rows].double()
        parts.append((products / COSINE_GRAIN).round().long().sum(dim=1))
    return torch.cat(parts)


def _distances(vectors: torch.Tensor, centroids: torch.Tensor, spherical: bool) -> torch.Tensor:
    if spherical:
        return 1 - cosines(vectors, centroids).double() * COSINE_GRAIN
    return (vectors.double() - centroids.double()).square().sum(dim=1).sqrt()
