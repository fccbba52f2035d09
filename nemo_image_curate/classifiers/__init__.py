"""Stages that score embeddings."""

from nemo_image_curate.classifiers.aesthetic import AestheticClassifier
from nemo_image_curate.classifiers.base import ImageClassifier
from nemo_image_curate.classifiers.clip_score import ClipScore
from nemo_image_curate.classifiers.nsfw import NsfwClassifier
from nemo_image_curate.classifiers.zero_shot import ZeroShotClassifier

__all__ = [
    "AestheticClassifier",
    "ClipScore",
    "ImageClassifier",
    "NsfwClassifier",
    "ZeroShotClassifier",
]
