"""What search and serve share: a searcher of a dataset, with a live store if there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nemo_image_curate.cli.base import open_dataset

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.embedders.base import ImageEmbedder
    from nemo_image_curate.search.live.base import LiveStore
    from nemo_image_curate.search.query import Query
    from nemo_image_curate.search.searcher import Searcher

# With fewer captions there is too little to learn.
_FEWEST_CAPTIONS = 500

store_option = click.option(
    "--store",
    metavar="PLACE",
    help="A live store, searched along with the dataset: a folder (Chroma), a path that ends in "
    ".db, or the URI of a Milvus cluster.",
)


def open_searcher(
    dataset: str,
    backend: str,
    checkpoint: str | None,
    store: str | None,
    image_member: str | None = None,
    tars: str | None = None,
    query: Query | None = None,
) -> tuple[ImageTextPairDataset, LiveStore | None, Searcher]:
    """A dataset, the live store that is named, and what searches both.

    For a `query` with texts an encoder without a text side is refused, before an index is asked
    for; for one without texts and images no encoder is made.
    """
    from nemo_image_curate import frames
    from nemo_image_curate.embedders.registry import embedder_of
    from nemo_image_curate.embedders.text_image import require_text_side
    from nemo_image_curate.search.live.store import open_store
    from nemo_image_curate.search.searcher import Searcher

    opened = open_dataset(dataset, tars, backend, image_member)
    column = "image_embedding"
    frames.require_columns(opened.metadata, column)
    device = frames.device_of(opened.metadata)
    if query and query.text is query.negative_text is query.image is store is None:
        return opened, None, Searcher.open(opened, device=device)
    embedder = embedder_of(opened.provenance.get(column, {}), checkpoint)
    if query and (query.text or query.negative_text):
        require_text_side(embedder)
    live = open_store(store, embedder, device) if store else None
    return opened, live, Searcher.open(opened, embedder, live, device)


def learn_advice(dataset: ImageTextPairDataset, embedder: ImageEmbedder) -> str | None:
    """A line for those whose captions could make texts find more, as the files' footers tell."""
    from nemo_image_curate.dataset.looking.summary import summarise
    from nemo_image_curate.embedders.conse import ConseEmbedder
    from nemo_image_curate.embedders.text_image import TextImageEmbedder

    if isinstance(embedder, TextImageEmbedder) and not isinstance(embedder, ConseEmbedder):
        return None
    summary = summarise(dataset)
    captions = next((column for column in summary.columns if column.name == "caption"), None)
    if captions is None or captions.nulls is None or summary.rows is None:
        return None
    captioned = summary.rows - captions.nulls
    if captioned < max(_FEWEST_CAPTIONS, summary.rows / 2):
        return None
    return (
        f"{captioned:,} rows have captions: nemo-image-curate learn {dataset.metadata_path} "
        "--output MODEL makes an encoder that finds more by text."
    )
