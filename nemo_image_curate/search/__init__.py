"""From a query to its answer: by text, image or both, over saved indexes and live stores."""

from nemo_image_curate.catalog import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    CaptionIndex="search.captions",
    Hit="index.hits",
    Searchable="index.hits",
    VectorIndex="index.vector_index",
    build_index="index.vector_index",
    index_path="index.vector_index",
)
