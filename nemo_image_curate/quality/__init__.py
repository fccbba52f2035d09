"""Quality of images without a model."""

from nemo_image_curate.quality.statistics import ImageStatistics

__all__ = ["ImageStatistics"]
