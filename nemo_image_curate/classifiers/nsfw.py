"""`NsfwClassifier`: LAION's NSFW detector on CLIP embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nemo_image_curate.classifiers.heads import nsfw_head
from nemo_image_curate.classifiers.published_head import PublishedHead
from nemo_image_curate.models.encoders import CLIP_VIT_L_14

if TYPE_CHECKING:
    import torch


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

    def __init__(
        self,
        embedding_column: str = "image_embedding",
        pred_column: str = "nsfw_score",
        model_path: str | None = None,
        check_encoder: bool = True,
        trained_on: str = CLIP_VIT_L_14,
        version: str = "v1",
    ):
        super().__init__(
            embedding_column, pred_column, model_path, check_encoder, trained_on, version
        )

    def build(self, state_dict: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The head, (B, d) unit embeddings to (B,) scores."""
        return nsfw_head(state_dict)
