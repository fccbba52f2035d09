"""Stages that score embeddings."""

from nemo_image_curate.classifiers.aesthetic import AestheticClassifier
from nemo_image_curate.classifiers.base import ImageClassifier
from nemo_image_curate.classifiers.nsfw import NsfwClassifier

__all__ = ["AestheticClassifier", "ImageClassifier", "NsfwClassifier"]
