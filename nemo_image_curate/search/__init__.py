"""Search by vectors: saved indexes over embedding columns, live stores, and queries of both."""

from nemo_image_curate.index.hits import Hit, Searchable
from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path
from nemo_image_curate.search.captions import CaptionIndex, build_captions
from nemo_image_curate.search.live.store import ChromaStore
from nemo_image_curate.search.searcher import Searcher

__all__ = [
    "CaptionIndex",
    "ChromaStore",
    "Hit",
    "Searchable",
    "Searcher",
    "VectorIndex",
    "build_captions",
    "build_index",
    "index_path",
]
