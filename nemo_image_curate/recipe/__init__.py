"""A whole curation in one YAML file: checked, planned, run, gone on with, and written out."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__)
