"""Find duplicates: exact, perceptual, semantic."""

from nemo_image_curate.dedup.semantic import SemanticClusters, SemanticDedup

__all__ = ["SemanticClusters", "SemanticDedup"]
