"""Curate image(-text) datasets for training as one Dask dataframe, on CPU or GPU."""
