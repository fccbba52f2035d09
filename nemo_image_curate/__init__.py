"""Curate image(-text) datasets for training as one Dask dataframe, on CPU or GPU."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.classifiers import (
        AestheticClassifier,
        ClipScore,
        ImageClassifier,
        NsfwClassifier,
        ZeroShotClassifier,
    )
    from nemo_image_curate.compute.client import get_client
    from nemo_image_curate.dataset import ImageTextPairDataset, inspect_dataset
    from nemo_image_curate.dedup import (
        ExactDedup,
        PerceptualDedup,
        PerceptualHash,
        SemanticClusters,
        SemanticDedup,
    )
    from nemo_image_curate.embedders import (
        ConseEmbedder,
        ImageEmbedder,
        OpenCLIPEmbedder,
        TextImageEmbedder,
        TimmImageEmbedder,
        embedder_of,
    )
    from nemo_image_curate.quality import ImageStatistics
    from nemo_image_curate.search import (
        ChromaStore,
        Searcher,
        VectorIndex,
        build_captions,
        build_index,
    )

# Imported at first use (PEP 562), so that importing the package loads nothing heavy.
_HOMES = {
    "AestheticClassifier": "classifiers",
    "ChromaStore": "search",
    "ClipScore": "classifiers",
    "ConseEmbedder": "embedders",
    "ExactDedup": "dedup",
    "ImageClassifier": "classifiers",
    "ImageEmbedder": "embedders",
    "ImageStatistics": "quality",
    "ImageTextPairDataset": "dataset",
    "NsfwClassifier": "classifiers",
    "OpenCLIPEmbedder": "embedders",
    "PerceptualDedup": "dedup",
    "PerceptualHash": "dedup",
    "Searcher": "search",
    "SemanticClusters": "dedup",
    "SemanticDedup": "dedup",
    "TextImageEmbedder": "embedders",
    "TimmImageEmbedder": "embedders",
    "VectorIndex": "search",
    "ZeroShotClassifier": "classifiers",
    "build_captions": "search",
    "build_index": "search",
    "embedder_of": "embedders",
    "get_client": "cluster",
    "inspect_dataset": "dataset",
}

__all__ = [
    "AestheticClassifier",
    "ChromaStore",
    "ClipScore",
    "ConseEmbedder",
    "ExactDedup",
    "ImageClassifier",
    "ImageEmbedder",
    "ImageStatistics",
    "ImageTextPairDataset",
    "NsfwClassifier",
    "OpenCLIPEmbedder",
    "PerceptualDedup",
    "PerceptualHash",
    "Searcher",
    "SemanticClusters",
    "SemanticDedup",
    "TextImageEmbedder",
    "TimmImageEmbedder",
    "VectorIndex",
    "ZeroShotClassifier",
    "__version__",
    "build_captions",
    "build_index",
    "embedder_of",
    "get_client",
    "inspect_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
