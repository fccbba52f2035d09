"""LAION's classifiers of CLIP embeddings: `AestheticClassifier`, `NsfwClassifier`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_image_curate.classifiers.base import ImageClassifier
from nemo_image_curate.classifiers.laion_heads import HEADS, Head
from nemo_image_curate.classifiers.laion_networks import aesthetic_head, nsfw_head
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models import weights
from nemo_image_curate.models.known_encoders import CLIP_VIT_L_14
from nemo_image_curate.models.state_dicts import load_state_dict
from nemo_image_curate.stages.base import no_effect

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class PublishedHead(ImageClassifier):
    """A classifier that runs one of the heads in `HEADS`.

    Parameters
    ----------
    embedding_column : str, default "image_embedding"
    pred_column : str, optional
    model_path : str, optional
        The published file as it is; default: the weights cache, or a download.
    check_encoder : bool, default True
    trained_on : str
        The encoder that the head was trained on; embeddings of others are refused.
    version : str, optional
    """

    kind: ClassVar[str]
    default_column: ClassVar[str]
    default_version: ClassVar[str]

    # The file counts by its hash, wherever it lies.
    model_path: str | None = no_effect(None)
    trained_on: str = CLIP_VIT_L_14
    version: str = "v1"

    # Not the order of the fields: this one is published.
    def __init__(
        self,
        embedding_column: str = "image_embedding",
        pred_column: str | None = None,
        model_path: str | None = None,
        check_encoder: bool = True,
        trained_on: str = CLIP_VIT_L_14,
        version: str | None = None,
    ):
        super().__init__(pred_column or self.default_column, embedding_column, check_encoder)
        self.model_path = model_path
        self.trained_on = trained_on
        self.version = version or self.default_version

    def head(self) -> Head:
        """The published head that the parameters name."""
        head = HEADS.get((self.kind, self.version, self.trained_on))
        if head is None:
            known = [
                f"{version} for {encoder}" for kind, version, encoder in HEADS if kind == self.kind
            ]
            raise ConfigError(
                f"there is no {self.kind} head {self.version!r} for {self.trained_on!r}. "
                f"Published: {'; '.join(known)}."
            )
        return head

    def encoder(self) -> str:
        """The encoder that the head was trained on."""
        return self.head().encoder

    def embedding_dim(self) -> int:
        """The width of that encoder's embeddings."""
        return self.head().embedding_dim

    def weights_sha256(self) -> str:
        """Hash of the weights file."""
        return weights.sha256_of(weights.fetch(self.head().weights, self.model_path))

    def build(self, state_dict: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The network with its weights."""
        raise ConfigError(f"{type(self).__name__} does not define build(state_dict).")

    def load_model(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head on a device."""
        path = weights.fetch(self.head().weights, self.model_path)
        return self.build(load_state_dict(path)).to(device)


class AestheticClassifier(PublishedHead):
    """Adds how much people would like an image, from about 1 to 10 (not bounded).

    Parameters
    ----------
    embedding_column : str, default "image_embedding"
        Used when called with a dataset; in an embedder's pass its own column is scored.
    pred_column : str, default "aesthetic_score"
        ``float32``; null where there is no embedding.
    model_path : str, optional
        The published file as it is; default: the weights cache, or a download.
    check_encoder : bool, default True
        Refuse embeddings that are not recorded to be of the encoder that the head was trained on.
    trained_on : str
        That encoder: ``openai/clip-vit-large-patch14`` or another that has a published head.
    version : str, default "v2"
        ``v2`` (ViT-L/14 only) or ``v1``.

    Raises
    ------
    ConfigError
        When used: when there is no published head for this encoder and version.
    WeightsError
        When used: when the weights cannot be had.

    References
    ----------
    Schuhmann, improved-aesthetic-predictor, 2022 (v2); LAION-AI, aesthetic-predictor, 2022 (v1).
    """

    kind = "aesthetic"
    default_column = "aesthetic_score"
    default_version = "v2"

    def build(self, state_dict: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The head, (B, d) unit embeddings to (B,) scores."""
        return aesthetic_head(state_dict)


class NsfwClassifier(PublishedHead):
    """Adds the probability, 0 to 1, that an image is not safe for work.

    Parameters
    ----------
    embedding_column : str, default "image_embedding"
        Used when called with a dataset; in an embedder's pass its own column is scored.
    pred_column : str, default "nsfw_score"
        ``float32``; null where there is no embedding.
    model_path : str, optional
        The published file as it is; default: the weights cache, or a download.
    check_encoder : bool, default True
        Refuse embeddings that are not recorded to be of the encoder that the head was trained on.
    trained_on : str
        That encoder: ``openai/clip-vit-large-patch14`` or another that has a published head.
    version : str, default "v1"

    Raises
    ------
    ConfigError
        When used: when there is no published head for this encoder and version.
    WeightsError
        When used: when the weights cannot be had.

    References
    ----------
    LAION-AI, CLIP-based-NSFW-Detector, 2022.
    """

    kind = "nsfw"
    default_column = "nsfw_score"
    default_version = "v1"

    def build(self, state_dict: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The head, (B, d) unit embeddings to (B,) scores."""
        return nsfw_head(state_dict)
