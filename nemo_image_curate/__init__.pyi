# ci/public_names.py makes this file from nemo_image_curate/catalog.py.
from nemo_image_curate.classifiers.base import ImageClassifier
from nemo_image_curate.classifiers.clip_score import ClipScore
from nemo_image_curate.classifiers.laion import AestheticClassifier, NsfwClassifier
from nemo_image_curate.classifiers.linear_probe import LinearProbe
from nemo_image_curate.classifiers.zero_shot import ZeroShotClassifier
from nemo_image_curate.compute.client import get_client
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.inspecting import inspect_dataset
from nemo_image_curate.dataset.looking.contact_sheet import grid
from nemo_image_curate.decode.images import load_image, resize, to_rgb
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.dedup.decontaminate import Decontaminate
from nemo_image_curate.dedup.exact import ExactDedup
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.dedup.semantic import SemanticClusters, SemanticDedup
from nemo_image_curate.embedders.aligned import AlignedEmbedder
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.conse import ConseEmbedder
from nemo_image_curate.embedders.open_clip import OpenCLIPEmbedder
from nemo_image_curate.embedders.registry import embedder_of
from nemo_image_curate.embedders.text_image import TextImageEmbedder, TextTower, similarity
from nemo_image_curate.embedders.timm import TimmImageEmbedder
from nemo_image_curate.index.vector_index import VectorIndex, build_index
from nemo_image_curate.quality.caption_quality import CaptionQuality
from nemo_image_curate.quality.captions import CaptionStatistics
from nemo_image_curate.quality.digest import ImageDigest
from nemo_image_curate.quality.flags import ImageQuality
from nemo_image_curate.quality.odd_size import OddSize
from nemo_image_curate.quality.perceptual_hash import PerceptualHash
from nemo_image_curate.quality.statistics import ImageStatistics
from nemo_image_curate.recipe.origin import recipe_of
from nemo_image_curate.recipe.plan import plan_recipe
from nemo_image_curate.recipe.recipe import Recipe
from nemo_image_curate.recipe.running import run_recipe
from nemo_image_curate.report.page import write_report
from nemo_image_curate.search.captions import build_captions
from nemo_image_curate.search.live.store import ChromaStore, MilvusStore
from nemo_image_curate.search.query import Query
from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.selection.balanced import BalancedSample
from nemo_image_curate.selection.caption_counts import RepeatedCaptions
from nemo_image_curate.selection.cluster_budget import ClusterBudget
from nemo_image_curate.selection.cluster_target import ClusterTarget
from nemo_image_curate.selection.comparison import compare_with_random
from nemo_image_curate.selection.concepts import ConceptBalance
from nemo_image_curate.selection.coverage import concept_coverage
from nemo_image_curate.selection.datacomp import DataCompFilter
from nemo_image_curate.selection.hierarchical import HierarchicalClusters
from nemo_image_curate.selection.imagenet_words import ImageNetWords
from nemo_image_curate.selection.joining import Join
from nemo_image_curate.selection.listed import SelectionFile
from nemo_image_curate.selection.neg_clip_loss import NegClipLoss
from nemo_image_curate.selection.neighbourhood import Typicality, Uniqueness
from nemo_image_curate.selection.queries import build_queries
from nemo_image_curate.selection.retrieval import Retrieve, retrieve
from nemo_image_curate.selection.soft_cap import SoftCapSample
from nemo_image_curate.selection.subsets.compare import compare_subsets
from nemo_image_curate.selection.subsets.result import SubsetComparison
from nemo_image_curate.selection.target_similarity import TargetSimilarity
from nemo_image_curate.selection.top_fraction import TopFraction
from nemo_image_curate.stages.base import ColumnStage, PixelStage, Stage
from nemo_image_curate.version import __version__

__all__ = [
    "AestheticClassifier",
    "AlignedEmbedder",
    "BalancedSample",
    "CaptionQuality",
    "CaptionStatistics",
    "ChromaStore",
    "ClipScore",
    "ClusterBudget",
    "ClusterTarget",
    "ColumnStage",
    "ConceptBalance",
    "ConseEmbedder",
    "DataCompFilter",
    "Decontaminate",
    "ExactDedup",
    "HierarchicalClusters",
    "ImageClassifier",
    "ImageDigest",
    "ImageEmbedder",
    "ImageNetWords",
    "ImageQuality",
    "ImageStatistics",
    "ImageTextPairDataset",
    "Join",
    "LinearProbe",
    "MilvusStore",
    "NegClipLoss",
    "NsfwClassifier",
    "OddSize",
    "OpenCLIPEmbedder",
    "PerceptualDedup",
    "PerceptualHash",
    "PixelStage",
    "Preprocessing",
    "Query",
    "Recipe",
    "RepeatedCaptions",
    "Retrieve",
    "Searcher",
    "SelectionFile",
    "SemanticClusters",
    "SemanticDedup",
    "SoftCapSample",
    "Stage",
    "SubsetComparison",
    "TargetSimilarity",
    "TextImageEmbedder",
    "TextTower",
    "TimmImageEmbedder",
    "TopFraction",
    "Typicality",
    "Uniqueness",
    "VectorIndex",
    "ZeroShotClassifier",
    "__version__",
    "build_captions",
    "build_index",
    "build_queries",
    "compare_subsets",
    "compare_with_random",
    "concept_coverage",
    "embedder_of",
    "get_client",
    "grid",
    "inspect_dataset",
    "load_image",
    "plan_recipe",
    "recipe_of",
    "resize",
    "retrieve",
    "run_recipe",
    "similarity",
    "to_rgb",
    "write_report",
]
