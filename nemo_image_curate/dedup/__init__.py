"""Find duplicates: exact, perceptual, semantic."""

from nemo_image_curate.dedup.exact import ExactDedup
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.dedup.semantic import SemanticClusters, SemanticDedup
from nemo_image_curate.quality.perceptual_hash import PerceptualHash

__all__ = [
    "ExactDedup",
    "PerceptualDedup",
    "PerceptualHash",
    "SemanticClusters",
    "SemanticDedup",
]
