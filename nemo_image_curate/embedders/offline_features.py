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

# The side of the square that a picture is squashed to. Features of 224, 320 and 448 pixels beside
# each other find 1 point of R@10 more (Flickr8k), for three times the work.
_SIDE = 320
# Values of the network's last map, of ConSE's vector, of the stages, and the logits of classes.
_POOLED, _CONSE, _STAGES, _CLASSES = 1280, 384, 1568, 1000


@dataclass(eq=False)
class OfflineFeatures(ImageEmbedder):
    """EfficientNet-Lite0's features, ConSE's vector, and statistics of the network's stages.

    3,232 values side by side, of one look at 320 pixels: the mean over the last map and ConSE's
    vector, each of unit length; mean and standard deviation of each channel of the 7 stages. Meant
    to be learned from, not to be compared as they are.

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
    conse_values: ClassVar[slice] = slice(_POOLED, _POOLED + _CONSE)

    def check(self) -> None:
        """Refuse unusable settings, and other models than the one there is."""
        if self.model_name != "offline-features":
            raise ConfigError(
                f"model_name={self.model_name!r}: OfflineFeatures has one model, "
                "'offline-features'."
            )
        super().check()

    def preprocessing(self) -> Preprocessing:
        """The whole picture, as a square."""
        return Preprocessing(_SIDE, "squash", 1.0, "bicubic", OFFLINE_MEAN, OFFLINE_STD)

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
            from torch.nn.functional import normalize

            pooled, logits, stages = look(pixels).split([_POOLED, _CLASSES, _STAGES], dim=1)
            return torch.cat([normalize(pooled), normalize(means(logits)), stages], dim=1)

        return embed


def _looked_at(network: Any) -> torch.nn.Module:
    """What is taken of a look of the network: of its last map, its logits, and of its stages."""
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
            return torch.cat([last.mean((2, 3)), network.forward_head(last), *parts], dim=1)

    return LookedAt()
