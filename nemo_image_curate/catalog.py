"""The one list of public names: where each is defined, and which stages commands offer.

A new classifier, statistic or other stage is one file, its test, and one line here: the lazy
names of the package, options of commands, recorded stages and the reference in ``docs/`` follow.
Plain data, so that ``import nemo_image_curate`` and ``--help`` load nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

_PACKAGE = "nemo_image_curate"

# What a stage looks at, which decides the commands that offer it: decoded images (embed), image
# embeddings (embed and score), the embeddings of images and captions (score).
Sees = Literal["images", "embeddings", "pairs"]


@dataclass(frozen=True)
class Entry:
    """A public name.

    Attributes
    ----------
    module : str
        Where it is defined, below the package.
    sees : {"images", "embeddings", "pairs"}, optional
        For stages that commands offer by an option.
    option : str
        The option's name, without dashes.
    help : str
        What the option adds.
    takes_file : bool
        Whether the option names the file that the stage is made of, its `model_path`.
    """

    module: str
    sees: Sees | None = None
    option: str = ""
    help: str = ""
    takes_file: bool = False


PUBLIC: dict[str, Entry] = {
    "AestheticClassifier": Entry(
        "classifiers.laion", "embeddings", "aesthetic", "aesthetic_score (needs CLIP ViT-L/14)"
    ),
    "AlignedEmbedder": Entry("embedders.aligned"),
    "BalancedSample": Entry("selection.balanced"),
    "CaptionQuality": Entry("quality.caption_quality"),
    "CaptionStatistics": Entry("quality.captions"),
    "ChromaStore": Entry("search.live.store"),
    "ClipScore": Entry(
        "classifiers.clip_score", "pairs", "clip", "clip_score, of images with their captions"
    ),
    "ClusterBudget": Entry("selection.cluster_budget"),
    "ClusterTarget": Entry("selection.cluster_target"),
    "ColumnStage": Entry("stages.base"),
    "ConceptBalance": Entry("selection.concepts"),
    "ConseEmbedder": Entry("embedders.conse"),
    "DataCompFilter": Entry("selection.datacomp"),
    "Decontaminate": Entry("dedup.decontaminate"),
    "ExactDedup": Entry("dedup.exact"),
    "HierarchicalClusters": Entry("selection.hierarchical"),
    "ImageClassifier": Entry("classifiers.base"),
    "ImageDigest": Entry("quality.digest"),
    "ImageEmbedder": Entry("embedders.base"),
    "ImageNetWords": Entry("selection.imagenet_words"),
    "ImageQuality": Entry(
        "quality.flags", "images", "quality", "scores and flags: dark, light, blurry, blank..."
    ),
    "ImageStatistics": Entry(
        "quality.statistics", "images", "stats", "width, height, sharpness and the like"
    ),
    "ImageTextPairDataset": Entry("dataset.dataset"),
    "Join": Entry("selection.joining"),
    "LinearProbe": Entry(
        "classifiers.linear_probe",
        "embeddings",
        "probe",
        "the classes of a classifier of one's own, which the command probe made",
        takes_file=True,
    ),
    "MilvusStore": Entry("search.live.store"),
    "NegClipLoss": Entry(
        "selection.neg_clip_loss",
        "pairs",
        "neg-clip-loss",
        "neg_clip_loss, the same less what other pairs have",
    ),
    "NsfwClassifier": Entry(
        "classifiers.laion", "embeddings", "nsfw", "nsfw_score (needs CLIP ViT-L/14)"
    ),
    "OddSize": Entry("quality.odd_size"),
    "OpenCLIPEmbedder": Entry("embedders.open_clip"),
    "PerceptualDedup": Entry("dedup.perceptual"),
    "PerceptualHash": Entry(
        "quality.perceptual_hash", "images", "hashes", "phash and dhash, for perceptual dedup"
    ),
    "PixelStage": Entry("stages.base"),
    "Preprocessing": Entry("decode.preprocessing"),
    "Query": Entry("search.query"),
    "Recipe": Entry("recipe.recipe"),
    "RepeatedCaptions": Entry("selection.caption_counts"),
    "Retrieve": Entry("selection.retrieval"),
    "Searcher": Entry("search.searcher"),
    "SelectionFile": Entry("selection.listed"),
    "SemanticClusters": Entry("dedup.semantic"),
    "SemanticDedup": Entry("dedup.semantic"),
    "SoftCapSample": Entry("selection.soft_cap"),
    "Stage": Entry("stages.base"),
    "SubsetComparison": Entry("selection.subsets.result"),
    "TargetSimilarity": Entry("selection.target_similarity"),
    "TextImageEmbedder": Entry("embedders.text_image"),
    "TextTower": Entry("embedders.text_image"),
    "TimmImageEmbedder": Entry("embedders.timm"),
    "TopFraction": Entry("selection.top_fraction"),
    "Typicality": Entry("selection.neighbourhood"),
    "Uniqueness": Entry("selection.neighbourhood"),
    "VectorIndex": Entry("index.vector_index"),
    "ZeroShotClassifier": Entry("classifiers.zero_shot"),
    "build_captions": Entry("search.captions"),
    "build_index": Entry("index.vector_index"),
    "compare_subsets": Entry("selection.subsets.compare"),
    "compare_with_random": Entry("selection.comparison"),
    "build_queries": Entry("selection.queries"),
    "concept_coverage": Entry("selection.coverage"),
    "embedder_of": Entry("embedders.registry"),
    "get_client": Entry("compute.client"),
    "grid": Entry("dataset.looking.contact_sheet"),
    "inspect_dataset": Entry("dataset.inspecting"),
    "load_image": Entry("decode.images"),
    "plan_recipe": Entry("recipe.plan"),
    "recipe_of": Entry("recipe.origin"),
    "resize": Entry("decode.images"),
    "retrieve": Entry("selection.retrieval"),
    "run_recipe": Entry("recipe.running"),
    "similarity": Entry("embedders.text_image"),
    "to_rgb": Entry("decode.images"),
    "write_report": Entry("report.page"),
}


def load(name: str) -> Any:
    """The object of a public name."""
    return getattr(importlib.import_module(f"{_PACKAGE}.{PUBLIC[name].module}"), name)


def offered(*sees: Sees) -> dict[str, Entry]:
    """The stages that look at one of these, by name."""
    return {name: entry for name, entry in PUBLIC.items() if entry.sees in sees}


def lazy_names(
    package: str, **more: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package with the names defined below it.

    They are imported at first use (PEP 562), so that importing the package loads nothing heavy.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    **more : str
        Further names, and the modules that they are defined in.
    """
    below = package.removeprefix(_PACKAGE).removeprefix(".")
    modules = {
        name: entry.module
        for name, entry in PUBLIC.items()
        if not below or entry.module.partition(".")[0] == below
    } | more

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{_PACKAGE}.{modules[name]}"), name)

    names = sorted(modules)
    return get, lambda: names, names
