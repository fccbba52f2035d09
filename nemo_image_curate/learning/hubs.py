"""`Hubs`: pictures that are near to every text are brought down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# How much nearness to the crowd of texts is looked at where it is largest, and how much of it is
# taken off a picture's cosines. Of 5, 10, 20, 40 and 0.3, 0.6, 1 the best and what is between, on
# photographs of Flickr8k: R@10 of text to image among 1,000 is 0.035 higher than without.
_SHARPNESS, _STRENGTH = 15.0, 0.8
# The length of both sides' added values; of nearness what is beyond its square is cut.
_ROOM = 0.5


@dataclass(frozen=True)
class Hubs:
    """Takes off the cosines of a picture how near it is to texts in general.

    In spaces of many dimensions some points are near to everything, and are found by every text
    (Radovanović et al., "Hubs in Space", 2010). What is taken off is a picture's own: it is one
    more value of its vector, which a constant of texts meets, so that cosines alone decide.

    Attributes
    ----------
    crowd : torch.Tensor, shape (b, d)
        What texts there are: the mean vectors of some pictures' captions.
    level : torch.Tensor, scalar
        The mean nearness of the pictures that were learned from.

    Notes
    -----
    Nearness is the logarithm of the mean of exponentials, as in Bogolin et al., "Cross Modal
    Retrieval with Querybank Normalisation", 2022, formula 3, whose scores this gives up to a
    monotone function at a strength of 1.
    """

    crowd: torch.Tensor
    level: torch.Tensor

    @classmethod
    def of(cls, images: torch.Tensor, crowd: torch.Tensor) -> Hubs:
        """Those of a space, of vectors of pictures (n, d) and of texts (b, d)."""
        return cls(crowd, _nearness(images, crowd).mean())

    def images(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, d + 2) of such (n, d)."""
        import torch

        nearness = _STRENGTH * (_nearness(vectors, self.crowd) - self.level)
        taken_off = (-nearness / _ROOM).clamp(-_ROOM, _ROOM)
        rest = (_ROOM**2 - taken_off.square()).clamp_min(0).sqrt()
        return _unit(torch.cat([vectors, taken_off[:, None], rest[:, None]], 1))

    def texts(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, d + 2) of such (n, d)."""
        from torch.nn.functional import pad

        return _unit(pad(pad(vectors, (0, 1), value=_ROOM), (0, 1)))


def _nearness(vectors: torch.Tensor, crowd: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.logsumexp(_SHARPNESS * vectors @ crowd.T, dim=1) / _SHARPNESS


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import normalize

    return normalize(vectors, dim=1)
