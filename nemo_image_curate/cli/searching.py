"""Commands that search: index, search, serve."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.cli.base import (
    Session,
    backend_option,
    checkpoint_option,
    computes,
    embedding_option,
    json_option,
    main,
    print_json,
)

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.index.vector_index import VectorIndex
    from nemo_image_curate.search.live.store import ChromaStore
    from nemo_image_curate.search.searcher import Searcher

store_option = click.option(
    "--store", metavar="DIR", help="A live store, searched along with the dataset."
)
where_option = click.option(
    "--where", metavar="EXPR", help="Only rows for which this is true: 'width >= 256'."
)


@main.command()
@click.argument("dataset")
@embedding_option
@click.option("--text-embedding-column", default="text_embedding", show_default=True)
@click.option("--caption-column", default="caption", show_default=True)
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="By the number of rows, or flat (exact), ivf.",
)
@click.option(
    "--target-recall", type=click.FloatRange(0, 1, min_open=True), default=0.96, show_default=True
)
@click.option("--no-rerank", is_flag=True, help="Keep no vectors to score the best with exactly.")
@click.option("--rebuild", is_flag=True, help="Replace an index that is there already.")
@json_option
@computes
def index(
    dataset: str,
    embedding_column: str,
    text_embedding_column: str,
    caption_column: str,
    kind: str,
    target_recall: float,
    no_rerank: bool,
    rebuild: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Index embeddings, of images and of captions, and the words of captions, for search.

    Run it again after shards were added: they are added to the index that is there.
    """
    from nemo_image_curate.search.captions import build_captions

    # What was chosen, and what it will take.
    logging.getLogger("nemo_image_curate.search").setLevel(logging.INFO)
    options = {"kind": kind, "rerank": not no_rerank, "target_recall": target_recall}
    told: dict[str, Any] = {}
    with session.client():
        opened = session.open(dataset)
        for column in (embedding_column, text_embedding_column):
            if column == embedding_column or column in opened.metadata.columns:
                started = time.perf_counter()
                built = _index(opened, column, options, rebuild)
                seconds = round(time.perf_counter() - started, 1)
                told[column] = {**_summary(built), "seconds": seconds}
        if caption_column in opened.metadata.columns:
            captions = build_captions(opened, caption_column)
            told[caption_column] = {"captions": len(captions), "path": captions.path}
    if as_json:
        print_json(told)
        return
    for column, record in told.items():
        click.echo(column)
        for name, value in record.items():
            click.echo(
                f"  {name:<10} {value:,}" if isinstance(value, int) else f"  {name:<10} {value}"
            )


@main.command()
@click.argument("dataset")
@click.option("--text", metavar="TEXT", help="What the images show.")
@click.option("--image", metavar="FILE", help="An image that they are like.")
@click.option("--like", metavar="KEY", help="A sample of the dataset that they are like.")
@click.option("--negative-text", metavar="TEXT", help="What they do not show.")
@click.option("--text-weight", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--image-weight", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--negative-weight", type=click.FloatRange(min=0), default=0.5, show_default=True)
@click.option("-k", type=int, default=10, show_default=True, help="How many to show.")
@where_option
@click.option(
    "--collapse",
    type=click.FloatRange(0, 1),
    metavar="COSINE",
    help="Hide images that are as similar as this to a better one, such as 0.95.",
)
@click.option("--fuse-captions", is_flag=True, help="Look for the words in captions, too.")
@click.option("--captions", is_flag=True, help="Look for captions instead of images.")
@checkpoint_option
@store_option
@backend_option
@json_option
def search(
    dataset: str,
    captions: bool,
    checkpoint: str | None,
    store: str | None,
    backend: str,
    as_json: bool,
    **query: Any,
) -> None:
    """Find images by text, by an image, or by both; needs what the command index makes."""
    _, _, searcher = _searcher(dataset, backend, checkpoint, store)
    hits = searcher.search(**query, over="texts" if captions else "images")
    if as_json:
        print_json([hit.to_dict() for hit in hits])
        return
    for hit in hits:
        similar = f"  (+{hit.similar} alike)" if hit.similar else ""
        click.echo(
            f"{hit.score:.4f}  {hit.shard or 'store'}: {hit.key}{similar}  {hit.caption or ''}"
        )


@main.command()
@click.argument("dataset")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--ui", is_flag=True, help="Start the web page, too.")
@click.option("--ui-port", type=click.IntRange(0, 65535), default=8501, show_default=True)
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="DIR",
    help="Requests may name images below this folder; may be given again.",
)
@click.option("--max-upload", type=click.IntRange(min=1), default=32, show_default=True, help="MB.")
@checkpoint_option
@store_option
@backend_option
def serve(
    dataset: str,
    host: str,
    port: int,
    ui: bool,
    ui_port: int,
    roots: tuple[str, ...],
    max_upload: int,
    checkpoint: str | None,
    store: str | None,
    backend: str,
) -> None:
    """Serve searches over HTTP; with --store also take new images and texts.

    With NEMO_IMAGE_CURATE_TOKEN in the environment, clients must send it as a bearer token.
    """
    from nemo_image_curate.serve import Settings, run_service

    opened, live, searcher = _searcher(dataset, backend, checkpoint, store)
    settings = Settings(roots=roots, max_body=max_upload * 2**20)
    run_service(searcher, opened, live, settings, host=host, port=port, ui=ui, ui_port=ui_port)


def _index(
    opened: ImageTextPairDataset, column: str, options: dict[str, Any], rebuild: bool
) -> VectorIndex:
    from nemo_image_curate import storage
    from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path

    path = index_path(opened, column)
    if not rebuild and storage.stat(storage.join(path, "index.json")):
        there = VectorIndex.load(path)
        if options.items() <= there.recipe["options"].items():
            return there.add(opened)
    return build_index(opened, column, **options)


def _searcher(
    dataset: str, backend: str, checkpoint: str | None, store: str | None
) -> tuple[ImageTextPairDataset, ChromaStore | None, Searcher]:
    from nemo_image_curate import frames
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.embedders.registry import embedder_of
    from nemo_image_curate.search.live.store import ChromaStore
    from nemo_image_curate.search.searcher import Searcher

    opened = ImageTextPairDataset.from_webdataset(dataset, backend=backend)
    column = "image_embedding"
    frames.require_columns(opened.metadata, column)
    embedder = embedder_of(opened.provenance.get(column, {}), checkpoint)
    device = frames.device_of(opened.metadata)
    live = ChromaStore(store, embedder, device) if store else None
    return opened, live, Searcher.open(opened, embedder, live, device)


def _summary(built: VectorIndex) -> dict[str, Any]:
    recipe = built.recipe
    size = {f"{place} MB": round(count / 1e6, 1) for place, count in recipe["bytes"].items()}
    return {"kind": recipe["kind"], "vectors": len(built), **size, "recall@10": recipe["recall"]}
