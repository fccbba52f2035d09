"""Encoders made again of what a dataset, or a model that was learned on them, records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.conse import ConseEmbedder
from nemo_image_curate.embedders.offline_features import OfflineFeatures
from nemo_image_curate.embedders.open_clip import OpenCLIPEmbedder
from nemo_image_curate.embedders.timm import TimmImageEmbedder
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models.known_encoders import ENCODERS

_OFFLINE: dict[Any, Any] = {
    "ConseEmbedder": ConseEmbedder,
    "OfflineFeatures": OfflineFeatures,
}
_CLASSES: dict[str, Any] = {
    "OpenCLIPEmbedder": OpenCLIPEmbedder,
    "TimmImageEmbedder": TimmImageEmbedder,
}


def recorded_encoder(
    record: Mapping[str, Any], checkpoint_path: str | None = None
) -> ImageEmbedder:
    """The embedder of a record, of those that need no other; see `registry.embedder_of`."""
    stage, encoder, model = (record.get(name) for name in ("stage", "encoder", "model"))
    if stage in _OFFLINE:
        return check_recorded(_OFFLINE[stage](**recorded_options(record)), record)
    if stage not in _CLASSES or not isinstance(model, str):
        origin = f"made by {stage!r}" if stage else "of unknown origin"
        raise ConfigError(
            f"the embeddings are {origin}; give the embedder that made them as embedder=."
        )
    embedder = _CLASSES[stage](
        model,
        record.get("pretrained"),
        checkpoint_path=checkpoint_path,
        checkpoint_encoder=encoder if checkpoint_path and encoder in ENCODERS else None,
        **recorded_options(record),
    )
    return check_recorded(embedder, record)


def recorded_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options that all embedders have. Columns may be older than these: as it was then."""
    return {
        "autocast": record.get("autocast", True),
        "orientation": record.get("orientation", "stored"),
    }


def check_recorded(embedder: ImageEmbedder, record: Mapping[str, Any]) -> ImageEmbedder:
    """The embedder, if it is the one of a record.

    Raises
    ------
    ConfigError
    """
    encoder = record.get("encoder")
    if embedder.encoder() != encoder or embedder.weights_sha256() != record.get("weights_sha256"):
        raise ConfigError(
            f"the embeddings were made by {encoder!r} with other weights than these "
            f"({embedder.encoder()!r}). Give the right file as checkpoint_path= (--checkpoint)."
        )
    return embedder
