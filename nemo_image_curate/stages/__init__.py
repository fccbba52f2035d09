"""What is called with a dataset and adds columns: the contract, and the pass over the images."""

from nemo_image_curate.stages.base import ColumnStage, PixelStage, Stage, no_effect

__all__ = ["ColumnStage", "PixelStage", "Stage", "no_effect"]
