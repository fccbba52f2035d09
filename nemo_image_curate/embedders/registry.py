"""Embedders by a short name, and by what a dataset records of a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_image_curate.embedders import aligned_file
from nemo_image_curate.embedders.aligned import AlignedEmbedder
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.conse import ConseEmbedder
from nemo_image_curate.embedders.open_clip import OpenCLIPEmbedder
from nemo_image_curate.embedders.recorded import (
    check_recorded,
    recorded_encoder,
    recorded_options,
)
from nemo_image_curate.embedders.timm import TimmImageEmbedder
from nemo_image_curate.errors import ConfigError


def embedder_of(record: Mapping[str, Any], checkpoint_path: str | None = None) -> ImageEmbedder:
    """The embedder whose images and texts compare with a column.

    Parameters
    ----------
    record : mapping
        The column's provenance, ``dataset.provenance["image_embedding"]``.
    checkpoint_path : str, optional
        The weights file, when the column was made with one: records do not hold places of files.
        Of an `AlignedEmbedder` its folder; without it, the copy in the weights' home is taken.

    Raises
    ------
    ConfigError
        When the record names none of this package's embedders, or the weights are not those.
    """
    if record.get("stage") != "AlignedEmbedder":
        return recorded_encoder(record, checkpoint_path)
    options, model = recorded_options(record), str(record.get("model"))
    if checkpoint_path is not None and aligned_file.is_model(checkpoint_path):
        return check_recorded(_aligned(checkpoint_path, None, options), record)
    return check_recorded(_aligned(model, checkpoint_path, options), record)


def _aligned(model: str, checkpoint_path: str | None, options: dict[str, Any]) -> AlignedEmbedder:
    """The embedder of a model that was learned, whose image encoder may need its weights."""
    image_encoder = None
    if checkpoint_path is not None:
        image_encoder = recorded_encoder(
            aligned_file.read_model(model).image_encoder, checkpoint_path
        )
    return AlignedEmbedder(model, image_encoder=image_encoder, **options)


def named_embedder(
    model: str,
    pretrained: bool = False,
    checkpoint_path: str | None = None,
    checkpoint_encoder: str | None = None,
    **options: Any,
) -> ImageEmbedder:
    """The embedder that a short name means, as commands and recipes give it.

    Parameters
    ----------
    model : str
        ``offline`` or ``offline-conse``, which need no download; a name that timm knows; or
        ``open_clip:ARCHITECTURE:TAG``, ``open_clip:hf-hub:ORGANISATION/NAME``,
        ``open_clip:local-dir:FOLDER``; or ``aligned:FOLDER``, which `AlignedEmbedder.fit` wrote.
    pretrained : bool, default False
        Take the weights that timm names.
    checkpoint_path, checkpoint_encoder : str, optional
        Weights of one's own, and which encoder they are of.
    **options
        Further ones of the embedder.

    Raises
    ------
    ConfigError
        For options that do not go with the name.
    """
    family, _, name = model.partition(":")
    if model == "offline-conse":
        if pretrained or checkpoint_path or checkpoint_encoder:
            raise ConfigError("the offline model brings its own weights; give no others.")
        return ConseEmbedder(**options)
    if family == "aligned":
        if pretrained or checkpoint_encoder:
            raise ConfigError("an aligned model names its encoders; give at most a checkpoint.")
        return _aligned(name, checkpoint_path, options)
    options |= {"checkpoint_path": checkpoint_path, "checkpoint_encoder": checkpoint_encoder}
    if family != "open_clip":
        return TimmImageEmbedder(model, pretrained=pretrained, **options)
    if pretrained:
        raise ConfigError("--pretrained is for timm; name a tag: open_clip:ViT-B-32:TAG.")
    if name.startswith(("hf-hub:", "local-dir:")):
        return OpenCLIPEmbedder(name, **options)
    architecture, _, tag = name.partition(":")
    return OpenCLIPEmbedder(architecture, tag or None, **options)
