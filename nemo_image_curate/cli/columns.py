"""Commands that add columns: embed, stats, score, zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.cli.base import (
    Session,
    checkpoint_option,
    computes,
    embedding_option,
    json_option,
    main,
    output_option,
    save,
    threads_option,
)

if TYPE_CHECKING:
    from nemo_image_curate.embedders.base import ImageEmbedder


@main.command()
@click.argument("dataset")
@click.option(
    "--model",
    default="offline",
    show_default=True,
    metavar="NAME",
    help="'offline' or 'offline-conse' (images and texts), which need no download; a timm model "
    "name; or open_clip:ARCHITECTURE:TAG, open_clip:hf-hub:ORGANISATION/NAME, "
    "open_clip:local-dir:FOLDER.",
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
@click.option("--aesthetic", is_flag=True, help="Add aesthetic_score (needs CLIP ViT-L/14).")
@click.option("--nsfw", is_flag=True, help="Add nsfw_score (needs CLIP ViT-L/14).")
@click.option("--stats", is_flag=True, help="Add width, height, sharpness and the like.")
@click.option("--use-index-files", is_flag=True, help="Find images with the .idx files.")
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
    aesthetic: bool,
    nsfw: bool,
    stats: bool,
    use_index_files: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Decode and embed every image; add scores and statistics in the same pass.

    Models with a text side embed the captions, too.
    """
    from nemo_image_curate.classifiers.laion import AestheticClassifier, NsfwClassifier
    from nemo_image_curate.quality.statistics import ImageStatistics

    wanted = [(aesthetic, AestheticClassifier), (nsfw, NsfwClassifier)]
    embedder = _embedder(
        model,
        pretrained,
        checkpoint_path=checkpoint,
        checkpoint_encoder=checkpoint_encoder,
        batch_size=batch_size,
        num_threads_per_worker=threads,
        classifiers=[make() for asked, make in wanted if asked],
        image_stages=[ImageStatistics()] if stats else [],
        use_index_files=use_index_files,
    )
    with session.client():
        save(embedder(session.open(dataset)), output, as_json)


@main.command()
@click.argument("dataset")
@output_option
@threads_option
@json_option
@computes
def stats(
    dataset: str,
    output: str | None,
    threads: int,
    as_json: bool,
    session: Session,
) -> None:
    """Add size, format, brightness, contrast, sharpness and colorfulness."""
    from nemo_image_curate.quality.statistics import ImageStatistics

    with session.client():
        stage = ImageStatistics(num_threads_per_worker=threads)
        save(stage(session.open(dataset)), output, as_json)


@main.command()
@click.argument("dataset")
@click.option("--aesthetic", is_flag=True, help="Add aesthetic_score.")
@click.option("--nsfw", is_flag=True, help="Add nsfw_score.")
@click.option("--clip", is_flag=True, help="Add clip_score, of images with their captions.")
@embedding_option
@click.option("--text-embedding-column", default="text_embedding", show_default=True)
@click.option("--aesthetic-weights", metavar="FILE", help="The published file, if not downloaded.")
@click.option("--nsfw-weights", metavar="FILE", help="The published file, if not downloaded.")
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
    aesthetic: bool,
    nsfw: bool,
    clip: bool,
    embedding_column: str,
    text_embedding_column: str,
    aesthetic_weights: str | None,
    nsfw_weights: str | None,
    no_check_encoder: bool,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Score embeddings that are there already."""
    from nemo_image_curate.classifiers.clip_score import ClipScore
    from nemo_image_curate.classifiers.laion import AestheticClassifier, NsfwClassifier

    asked = [
        (aesthetic, AestheticClassifier, aesthetic_weights),
        (nsfw, NsfwClassifier, nsfw_weights),
    ]
    stages: list[Any] = [
        make(embedding_column=embedding_column, model_path=path, check_encoder=not no_check_encoder)
        for wanted, make, path in asked
        if wanted
    ]
    if clip:
        stages.append(
            ClipScore(embedding_column, text_embedding_column, check_encoder=not no_check_encoder)
        )
    if not stages:
        raise click.UsageError("say what to score: --aesthetic, --nsfw, --clip.")
    with session.client():
        scored = session.open(dataset)
        for stage in stages:
            scored = stage(scored)
        save(scored, output, as_json)


@main.command(name="zero-shot")
@click.argument("dataset")
@click.option(
    "--labels",
    required=True,
    metavar="LABEL,LABEL...",
    help="Labels with commas between, or @FILE with one in each line. A label may give the words "
    "that prompts name it by: dog=dog|puppy.",
)
@click.option(
    "--templates",
    default="openai-80",
    show_default=True,
    metavar="NAME|TEXT",
    help="one, simple-7, openai-80, or a template such as 'a painting of a {}.'.",
)
@click.option("--multi-label", is_flag=True, help="Score each label by itself.")
@click.option("--label-column", default="label", show_default=True, help="Names the columns.")
@embedding_option
@checkpoint_option
@output_option
@json_option
@computes
def zero_shot(
    dataset: str,
    labels: str,
    templates: str,
    multi_label: bool,
    label_column: str,
    embedding_column: str,
    checkpoint: str | None,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Label images by how near texts are: columns label and label_score.

    With --multi-label one column label_NAME for each label.
    """
    from nemo_image_curate import frames
    from nemo_image_curate.classifiers.zero_shot import ZeroShotClassifier
    from nemo_image_curate.embedders.registry import embedder_of

    with session.client():
        opened = session.open(dataset)
        frames.require_columns(opened.metadata, embedding_column)
        stage = ZeroShotClassifier(
            embedder_of(opened.provenance.get(embedding_column, {}), checkpoint),
            _labels(labels),
            [templates] if "{}" in templates else templates,
            multi_label=multi_label,
            pred_column=label_column,
            embedding_column=embedding_column,
        )
        save(stage(opened), output, as_json)


def _labels(text: str) -> dict[str, list[str]]:
    """Labels as typed: ``cat,dog=dog|puppy`` or ``@FILE``."""
    if text.startswith("@"):
        try:
            given = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--labels: cannot read {text[1:]}: {error}") from error
    else:
        given = text.split(",")
    labels: dict[str, list[str]] = {}
    for one in filter(None, map(str.strip, given)):
        name, _, words = one.partition("=")
        if name.strip() in labels:
            raise click.UsageError(f"--labels: {name.strip()!r} is there twice.")
        labels[name.strip()] = [word.strip() for word in (words or name).split("|")]
    return labels


def _embedder(model: str, pretrained: bool, **options: Any) -> ImageEmbedder:
    """The embedder that --model names."""
    from nemo_image_curate.embedders.conse import ConseEmbedder
    from nemo_image_curate.embedders.open_clip import OpenCLIPEmbedder
    from nemo_image_curate.embedders.timm import TimmImageEmbedder

    family, _, name = model.partition(":")
    if family != "open_clip" and model != "offline-conse":
        return TimmImageEmbedder(model, pretrained=pretrained, **options)
    if pretrained:
        raise click.UsageError("--pretrained is for timm; name a tag: open_clip:ViT-B-32:TAG.")
    if family == "open_clip":
        if name.startswith(("hf-hub:", "local-dir:")):
            return OpenCLIPEmbedder(name, **options)
        architecture, _, tag = name.partition(":")
        return OpenCLIPEmbedder(architecture, tag or None, **options)
    if any([options.pop("checkpoint_path"), options.pop("checkpoint_encoder")]):
        raise click.UsageError("the offline model brings its own weights; give no others.")
    return ConseEmbedder(**options)
