"""Find duplicates: exact, perceptual, semantic."""

from nemo_image_curate.dedup.exact import ExactDedup
from nemo_image_curate.dedup.hashes import PerceptualHash
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.dedup.semantic import SemanticClusters, SemanticDedup

__all__ = [
    "ExactDedup",
    "PerceptualDedup",
    "PerceptualHash",
    "SemanticClusters",
    "SemanticDedup",
]
