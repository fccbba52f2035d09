"""Curate image(-text) datasets for training as one Dask dataframe, on CPU or GPU."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __version__="version")
