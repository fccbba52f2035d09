"""The dataset: tar shards and one lazy frame of their metadata."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, ExportSummary="dataset.exporting")
