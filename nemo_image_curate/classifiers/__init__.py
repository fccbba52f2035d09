"""Stages that score embeddings."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__)
