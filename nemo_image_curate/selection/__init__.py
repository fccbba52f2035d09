"""Choose what to train on: top fractions, targets, balance, budgets, repeats."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__)
