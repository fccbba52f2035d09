"""`OfflineFeatures`: what models that PyPI packages carry tell of a picture, to be learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
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

# Sides of the squares that a picture is squashed to, and the one whose stages are looked at.
_SIDES, _SIDE_OF_STAGES = (224, 320, 448), 320
# Values of ConSE's vectors; and of what is taken of a look of the network: mean and deviation of
# the channels of its stages, the mean of its last map, and the logits of classes.
_CONSE, _STAGES, _POOLED, _CLASSES = 384, 1568, 1280, 1000


@dataclass(eq=False)
class OfflineFeatures(ImageEmbedder):
    """EfficientNet-Lite0's features at three scales, ConSE's vector, and statistics of its stages.

    5,792 values side by side: the mean over the last map at 224, 320 and 448 pixels, each of unit
    length; ConSE's vector; mean and standard deviation of each channel of the network's 7 stages
    at 320 pixels. Meant to be learned from, not to be compared as they are.

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

    _: KW_ONLY
    normalize_embeddings: bool = False

    requires = ConseEmbedder.requires
    conse_values: ClassVar[slice] = slice(len(_SIDES) * _POOLED, len(_SIDES) * _POOLED + _CONSE)

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
        # Traced with small pictures, which is quick: of any multiple of 32 it pads the same way.
        look = optimise(_looked_at(network), device, self.autocast, 64)
        means = class_means(device)

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            import torch
            from torch.nn.functional import interpolate, normalize

            by_side = {}
            for side in _SIDES:
                is_whole = side == _SIDES[-1]
                scaled = (
                    pixels
                    if is_whole
                    else interpolate(pixels, (side, side), mode="bicubic", antialias=True)
                )
                by_side[side] = look(scaled).split([_STAGES, _POOLED, _CLASSES], dim=1)
            pooled = [part for _, part, _ in by_side.values()]
            conse = means(by_side[_SIDES[0]][2])
            stages = by_side[_SIDE_OF_STAGES][0]
            return torch.cat([*(normalize(part, dim=1) for part in (*pooled, conse)), stages], 1)

        return embed


def _looked_at(network: Any) -> torch.nn.Module:
    """What is taken of one look of a network: of its stages, its last map, and its logits."""
    import torch

    class LookedAt(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features, parts = network.bn1(network.conv_stem(pixels)), []
            for block in network.blocks:
                features = block(features)
                parts += [features.mean((2, 3)), features.std((2, 3))]
            last = network.bn2(network.conv_head(features))
            return torch.cat([*parts, last.mean((2, 3)), network.forward_head(last)], dim=1)

    return LookedAt()
