"""One self-contained HTML file that shows a dataset: a module for each section."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__)
