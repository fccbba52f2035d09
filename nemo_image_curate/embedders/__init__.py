"""Stages that turn images into an embedding column."""

from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.timm import TimmImageEmbedder

__all__ = ["ImageEmbedder", "TimmImageEmbedder"]
