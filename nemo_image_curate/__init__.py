"""Curate image(-text) datasets for training as one Dask dataframe, on CPU or GPU."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.classifiers import AestheticClassifier, ImageClassifier, NsfwClassifier
    from nemo_image_curate.cluster import get_client
    from nemo_image_curate.dataset import ImageTextPairDataset, inspect_dataset
    from nemo_image_curate.dedup import (
        ExactDedup,
        PerceptualDedup,
        PerceptualHash,
        SemanticClusters,
        SemanticDedup,
    )
    from nemo_image_curate.embedders import ImageEmbedder, TimmImageEmbedder
    from nemo_image_curate.quality import ImageStatistics

# Imported at first use (PEP 562), so that importing the package loads nothing heavy.
_HOMES = {
    "AestheticClassifier": "classifiers",
    "ExactDedup": "dedup",
    "ImageClassifier": "classifiers",
    "ImageEmbedder": "embedders",
    "ImageStatistics": "quality",
    "ImageTextPairDataset": "dataset",
    "NsfwClassifier": "classifiers",
    "PerceptualDedup": "dedup",
    "PerceptualHash": "dedup",
    "SemanticClusters": "dedup",
    "SemanticDedup": "dedup",
    "TimmImageEmbedder": "embedders",
    "get_client": "cluster",
    "inspect_dataset": "dataset",
}

__all__ = [
    "AestheticClassifier",
    "ExactDedup",
    "ImageClassifier",
    "ImageEmbedder",
    "ImageStatistics",
    "ImageTextPairDataset",
    "NsfwClassifier",
    "PerceptualDedup",
    "PerceptualHash",
    "SemanticClusters",
    "SemanticDedup",
    "TimmImageEmbedder",
    "__version__",
    "get_client",
    "inspect_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
