"""The command score."""

from __future__ import annotations

from typing import Any

import click

from nemo_image_curate import catalog
from nemo_image_curate.cli.base import (
    Session,
    computes,
    embedding_option,
    json_option,
    main,
    output_option,
    stage_options,
)
from nemo_image_curate.cli.results import save


@main.command()
@click.argument("dataset")
@stage_options("embeddings", "pairs", weights=True)
@embedding_option
@click.option("--text-embedding-column", default="text_embedding", show_default=True)
@click.option(
    "--flip", is_flag=True, help="--clip: also of the mirrored pictures, which embed --flip embeds."
)
@click.option(
    "--no-check-encoder",
    is_flag=True,
    help="Score embeddings that are not recorded to be of the right model.",
)
@output_option
@json_option
@computes
def score(
    dataset: str,
    stages: list[str],
    files: dict[str, str],
    embedding_column: str,
    text_embedding_column: str,
    flip: bool,
    no_check_encoder: bool,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Score embeddings that are there already."""
    if flip and "ClipScore" not in stages:
        raise click.UsageError("--flip goes with --clip.")
    chosen: list[Any] = []
    for name in catalog.offered("embeddings", "pairs"):
        if name not in stages:
            continue
        options: dict[str, Any] = {"check_encoder": not no_check_encoder}
        if catalog.PUBLIC[name].sees == "pairs":
            options["image_embedding_column"] = embedding_column
            options["text_embedding_column"] = text_embedding_column
            if name == "ClipScore":
                options["flip"] = flip
        else:
            options["embedding_column"] = embedding_column
            if name in files:
                options["model_path"] = files[name]
        chosen.append(catalog.load(name)(**options))
    if not chosen:
        flags = [f"--{entry.option}" for entry in catalog.offered("embeddings", "pairs").values()]
        raise click.UsageError(f"say what to score: {', '.join(flags)}.")
    with session.client():
        scored = session.open(dataset)
        for stage in chosen:
            scored = stage(scored)
        save(scored, output, as_json)
