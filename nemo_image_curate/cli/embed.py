"""The command embed."""

from __future__ import annotations

from typing import Any

import click

from nemo_image_curate import catalog
from nemo_image_curate.catalog import Sees
from nemo_image_curate.cli.base import (
    Session,
    computes,
    json_option,
    main,
    orientation_option,
    output_option,
    retry_option,
    stage_options,
    threads_option,
)
from nemo_image_curate.cli.results import save


@main.command()
@click.argument("dataset")
@click.option(
    "--model",
    default="offline",
    show_default=True,
    metavar="NAME",
    help="'offline' or 'offline-conse' (images and texts), which need no download; a timm model "
    "name; or open_clip:ARCHITECTURE:TAG, open_clip:hf-hub:ORGANISATION/NAME, "
    "open_clip:local-dir:FOLDER; or aligned:MODEL, which the command learn made.",
)
@click.option("--pretrained", is_flag=True, help="Take the weights that timm names.")
@click.option("--checkpoint", metavar="FILE", help="Take the weights from this file.")
@click.option(
    "--checkpoint-encoder",
    metavar="NAME",
    help="What the checkpoint is a copy of, such as openai/clip-vit-large-patch14.",
)
@output_option
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@threads_option
@orientation_option
@click.option("--flip", is_flag=True, help="Embed each picture mirrored, too: see score --flip.")
@stage_options("images", "embeddings")
@click.option("--use-index-files", is_flag=True, help="Find images with the .idx files.")
@retry_option
@json_option
@computes
def embed(
    dataset: str,
    model: str,
    pretrained: bool,
    checkpoint: str | None,
    checkpoint_encoder: str | None,
    output: str | None,
    batch_size: int,
    threads: int,
    orientation: str,
    flip: bool,
    use_index_files: bool,
    stages: list[str],
    files: dict[str, str],
    retry: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Decode and embed every image; add scores and statistics in the same pass.

    Models with a text side embed the captions, too.
    """
    from nemo_image_curate.embedders.registry import named_embedder

    def chosen(sees: Sees, **options: Any) -> list[Any]:
        return [
            catalog.load(name)(**options, **({"model_path": files[name]} if name in files else {}))
            for name in catalog.offered(sees)
            if name in stages
        ]

    embedder = named_embedder(
        model,
        pretrained,
        checkpoint_path=checkpoint,
        checkpoint_encoder=checkpoint_encoder,
        batch_size=batch_size,
        num_threads_per_worker=threads,
        classifiers=chosen("embeddings"),
        image_stages=chosen("images", orientation=orientation),
        orientation=orientation,
        flip=flip,
        use_index_files=use_index_files,
    )
    with session.client():
        save(embedder(session.open(dataset)), output, as_json, retry=retry)
