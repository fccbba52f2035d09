"""The command index."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.cli.base import Session, computes, embedding_option, json_option, main
from nemo_image_curate.cli.results import finish

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.index.vector_index import VectorIndex
    from nemo_image_curate.search.live.base import LiveStore


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
@click.option(
    "--store",
    metavar="PLACE",
    help="Load the embeddings into a live store instead of indexes: a folder (Chroma), a path "
    "that ends in .db, or the URI of a Milvus cluster.",
)
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
    store: str | None,
    rebuild: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Index embeddings, of images and of captions, and the words of captions, for search.

    Run it again after shards were added: they are added to the index that is there.
    """
    from nemo_image_curate.compute import progress
    from nemo_image_curate.search.captions import build_captions

    # What was chosen, and what it will take.
    logging.getLogger("nemo_image_curate.index").setLevel(logging.INFO)
    options = {"kind": kind, "rerank": not no_rerank, "target_recall": target_recall}
    summaries: dict[str, Any] = {}
    with session.client(), contextlib.ExitStack() as stack:
        opened = session.open(dataset)
        live = None
        if store:
            live = _live_store(opened, embedding_column, store)
            stack.callback(live.close)
        there = set(opened.metadata.columns)
        vectors = [embedding_column, *({text_embedding_column} & there)]
        columns = [*vectors, *({caption_column} & there)]
        for number, column in enumerate(vectors, 1):
            started = time.perf_counter()
            with progress.stage(column, number, len(columns)):
                if live is not None:
                    over = "images" if column == embedding_column else "texts"
                    summary = _load(live, opened, column, over)
                else:
                    summary = _summary(_index(opened, column, options, rebuild))
            seconds = round(time.perf_counter() - started, 1)
            summaries[column] = {**summary, "seconds": seconds}
        if caption_column in there:
            with progress.stage(caption_column, len(columns), len(columns)):
                captions = build_captions(opened, caption_column)
            summaries[caption_column] = {"captions": len(captions), "path": captions.path}
        account = opened.account()
    if not as_json:
        for column, record in summaries.items():
            click.echo(column)
            for name, value in record.items():
                text = f"{value:,}" if isinstance(value, int) else value
                click.echo(f"  {name:<10} {text}")
    finish(summaries, account, opened.metadata_path, as_json, shown={})


def _index(
    opened: ImageTextPairDataset, column: str, options: dict[str, Any], rebuild: bool
) -> VectorIndex:
    from nemo_image_curate import storage
    from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path

    path = index_path(opened, column)
    if not rebuild and storage.stat(storage.join(path, "index.json")):
        index = VectorIndex.load(path)
        if options.items() <= index.recipe["options"].items():
            return index.add(opened)
    return build_index(opened, column, **options)


def _live_store(opened: ImageTextPairDataset, column: str, place: str) -> LiveStore:
    from nemo_image_curate.embedders.registry import embedder_of
    from nemo_image_curate.search.live.store import open_store

    return open_store(place, embedder_of(opened.provenance.get(column, {})))


def _load(live: LiveStore, opened: ImageTextPairDataset, column: str, over: str) -> dict[str, Any]:
    loaded = live.add_dataset(opened, column, over)
    return {"rows": loaded.rows, "added": loaded.added, **loaded.left_out}


def _summary(built: VectorIndex) -> dict[str, Any]:
    recipe = built.recipe
    size = {f"{place} MB": round(count / 1e6, 1) for place, count in recipe["bytes"].items()}
    return {"kind": recipe["kind"], "vectors": len(built), **size, "recall@10": recipe["recall"]}
