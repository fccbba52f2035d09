"""Find duplicates: exact, perceptual, semantic."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, PerceptualHash="quality.perceptual_hash")
