"""`Head`: two affine maps into one space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Head:
    """An affine map for the features of pictures and one for those of texts, into one space.

    Attributes
    ----------
    image_weight : torch.Tensor, shape (d, d_image)
    image_bias : torch.Tensor, shape (d,)
    text_weight : torch.Tensor, shape (d, d_text)
    text_bias : torch.Tensor, shape (d,)
    """

    image_weight: torch.Tensor
    image_bias: torch.Tensor
    text_weight: torch.Tensor
    text_bias: torch.Tensor

    @classmethod
    def given(cls, d_image: int, d_text: int, image_values: slice, text_values: slice) -> Head:
        """The space that some of both features share already, such as CLIP's."""
        import torch

        weights = torch.eye(d_image)[image_values], torch.eye(d_text)[text_values]
        zero = torch.zeros(len(weights[0]))
        return cls(weights[0], zero, weights[1], zero)

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, d) of features (n, d_image)."""
        return affine_unit(features, self.image_weight, self.image_bias)

    def texts(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors of unit length (n, d) of features (n, d_text)."""
        return affine_unit(features, self.text_weight, self.text_bias)


def affine_unit(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The directions (n, d) of an affine map of features."""
    from torch.nn import functional

    return functional.normalize(functional.linear(features, weight, bias), dim=-1)
