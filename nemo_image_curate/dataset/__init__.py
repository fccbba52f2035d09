"""The dataset: tar shards and one lazy frame of their metadata."""

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.exporting import ExportSummary
from nemo_image_curate.dataset.inspecting import inspect_dataset

__all__ = ["ExportSummary", "ImageTextPairDataset", "inspect_dataset"]
