"""`OfflineFeatures`: what models of PyPI packages tell of a picture, for projections to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.conse import ConseEmbedder, class_means
from nemo_image_curate.embedders.precision import optimise
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models.offline import (
    OFFLINE_MEAN,
    OFFLINE_STD,
    OFFLINE_TIMM_NAME,
    offline_state_dict,
)
from nemo_image_curate.models.torchvision_compat import import_timm

if TYPE_CHECKING:
    import torch

# Sides of the squares that a picture is squashed to. All three beside each other find 2 points of
# R@10 more than the best of them alone (Flickr8k).
_SIDES = (224, 320, 448)
# Values of ConSE's vectors.
_CONSE = 384


@dataclass(eq=False)
class OfflineFeatures(ImageEmbedder):
    """EfficientNet-Lite0's features at three scales, and ConSE's vector, side by side.

    Each part has the same length; 4,224 values. Meant to be learned from, not to be compared as
    they are.

    Parameters
    ----------
    model_name : {"offline-features"}
    **options
        As for `ImageEmbedder`.

    Attributes
    ----------
    conse_values : slice
        Which of the values are ConSE's vector, whose space is that of `ConseEmbedder`'s texts.
    """

    model_name: str = "offline-features"

    requires = ConseEmbedder.requires
    conse_values: ClassVar[slice] = slice(-_CONSE, None)

    def check(self) -> None:
        """Refuse unusable settings, and other models than the one there is."""
        if self.model_name != "offline-features":
            raise ConfigError(
                f"model_name={self.model_name!r}: OfflineFeatures has one model, "
                "'offline-features'."
            )
        super().check()

    def preprocessing(self) -> Preprocessing:
        """The whole picture as a square of the largest scale; the others are made of it."""
        return Preprocessing(_SIDES[-1], "squash", 1.0, "bicubic", OFFLINE_MEAN, OFFLINE_STD)

    def encoder(self) -> str:
        """One name: all models are fixed."""
        return "offline/features"

    def weights_sha256(self) -> str:
        """That of ConSE, which stands on the same files."""
        return ConseEmbedder().weights_sha256()

    def load_embedding_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Pixels to all parts, side by side."""
        network = import_timm().create_model(OFFLINE_TIMM_NAME)
        network.load_state_dict(offline_state_dict())
        return optimise(_parts(network, class_means(device)), device, self.autocast, _SIDES[-1])


def _parts(network: Any, means: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
    import torch
    from torch.nn.functional import interpolate, normalize

    class Parts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            pooled, conse = [], None
            for side in _SIDES:
                scaled = pixels
                if side != _SIDES[-1]:
                    scaled = interpolate(pixels, (side, side), mode="bicubic", antialias=True)
                features = self.network.forward_features(scaled)
                pooled.append(features.mean((2, 3)))
                if conse is None:
                    conse = means(self.network.forward_head(features))
            return torch.cat([normalize(part, dim=1) for part in (*pooled, conse)], dim=1)

    return Parts()
