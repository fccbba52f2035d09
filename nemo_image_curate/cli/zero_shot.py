"""The command zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nemo_image_curate.cli.base import (
    NamedNumber,
    Session,
    checkpoint_option,
    computes,
    embedding_option,
    json_option,
    main,
    output_option,
)
from nemo_image_curate.cli.results import save


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
@click.option(
    "--threshold",
    "thresholds",
    type=NamedNumber("LABEL", "dog=0.25"),
    multiple=True,
    help="--multi-label: from which score on an image shows a label: column label_is_NAME. Repeat.",
)
@click.option(
    "--examples",
    metavar="FILE|COLUMN",
    help="--multi-label: choose thresholds by these: a table of key, [shard,] label, which has all "
    "that a sample shows with | between, and is empty for none of the labels.",
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1, min_open=True),
    help="--examples: reach this precision. Default: the best F1.",
)
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
    thresholds: tuple[tuple[str, float], ...],
    examples: str | None,
    precision: float | None,
    label_column: str,
    embedding_column: str,
    checkpoint: str | None,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Label images by how near texts are: columns label and label_score.

    With --multi-label one column label_NAME for each label, and label_is_NAME for each that has a
    threshold.
    """
    if precision is not None and examples is None:
        raise click.UsageError("--precision goes with --examples.")
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
            thresholds=dict(thresholds) or None,
            pred_column=label_column,
            embedding_column=embedding_column,
        )
        record: dict[str, Any] = {}
        if examples is not None:
            chosen = stage.choose_thresholds(opened, examples, precision)
            stage.thresholds = chosen.thresholds | dict(thresholds)
            record["thresholds"] = stage.thresholds
            if not as_json:
                click.echo(chosen)
        save(stage(opened), output, as_json, extra=record)


def _labels(text: str) -> dict[str, list[str]]:
    """Labels as typed: ``cat,dog=dog|puppy`` or ``@FILE``."""
    if text.startswith("@"):
        try:
            entries = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--labels: cannot read {text[1:]}: {error}") from error
    else:
        entries = text.split(",")
    labels: dict[str, list[str]] = {}
    for entry in filter(None, map(str.strip, entries)):
        name, _, words = entry.partition("=")
        if name.strip() in labels:
            raise click.UsageError(f"--labels: {name.strip()!r} is there twice.")
        labels[name.strip()] = [word.strip() for word in (words or name).split("|")]
    return labels
