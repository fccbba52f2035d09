"""Stages that turn images into an embedding column, and texts into one of the same space."""

from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.conse import ConseEmbedder
from nemo_image_curate.embedders.open_clip import OpenCLIPEmbedder
from nemo_image_curate.embedders.registry import embedder_of
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower
from nemo_image_curate.embedders.timm import TimmImageEmbedder

__all__ = [
    "ConseEmbedder",
    "ImageEmbedder",
    "OpenCLIPEmbedder",
    "TextImageEmbedder",
    "TextTower",
    "TimmImageEmbedder",
    "embedder_of",
]
