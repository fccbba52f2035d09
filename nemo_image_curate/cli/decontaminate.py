"""The command decontaminate."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from nemo_image_curate.cli.base import (
    Session,
    computes,
    embedding_option,
    json_option,
    main,
    orientation_option,
    output_option,
)
from nemo_image_curate.cli.results import save

_SIGNALS = ("exact", "perceptual", "semantic")
against_help = "The other dataset, or NAME=DATASET; may be given several times."
report_option = click.option(
    "--report", metavar="FILE.html", help="Write a page of the leaks, and beside it the clean list."
)


def references(against: tuple[str, ...]) -> dict[str, str] | list[str]:
    """What ``--against`` names: places with the names before ``=``, or all without."""
    named = [_named(text) for text in against]
    if not any(name for name, _ in named):
        return [place for _, place in named]
    if not all(name for name, _ in named):
        raise click.UsageError("give each --against a name, as in --against val=DATASET, or none.")
    if len({name for name, _ in named}) < len(named):
        raise click.UsageError("two of --against have the same name.")
    return {str(name): place for name, place in named}


def _named(text: str) -> tuple[str | None, str]:
    name, equals, place = text.partition("=")
    # Folders of tables are called so: split=train.
    if not equals or not name or "/" in name or os.path.exists(text):
        return None, text
    return name, place


def _signals(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    by = tuple(name.strip() for value in values for name in value.split(","))
    if unknown := set(by) - set(_SIGNALS):
        raise click.BadParameter(
            f"{sorted(unknown)[0]!r} is not one of {', '.join(map(repr, _SIGNALS))}."
        )
    return by


@main.command()
@click.argument("dataset")
@click.option("--against", required=True, multiple=True, metavar="DATASET", help=against_help)
@click.option(
    "--by",
    multiple=True,
    default=_SIGNALS,
    callback=_signals,
    metavar="SIGNAL",
    help="exact, perceptual or semantic; several with commas. Default: all three.",
)
@click.option(
    "--of",
    type=click.Choice(["bytes", "pixels"]),
    default="bytes",
    show_default=True,
    help="exact: compare files as they are, or what they decode to.",
)
@orientation_option
@click.option(
    "--eps",
    type=click.FloatRange(0, 1),
    help="semantic: leaks have a cosine similarity of at least 1 - eps. Default: 0.05.",
)
@click.option("--preset", metavar="NAME", help="semantic: a published eps, such as sscd-0.90.")
@click.option(
    "--radius",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    help="perceptual: bits of 64 that may differ.",
)
@click.option("--flips/--no-flips", default=True, show_default=True, help="Mirrored copies count.")
@click.option("--group", is_flag=True, help="Groups of duplicates go with any leak among them.")
@click.option(
    "--group-column",
    multiple=True,
    metavar="COLUMN",
    help="The same with groups that a column names, such as duplicate_of.",
)
@embedding_option
@click.option(
    "--check-encoder/--no-check-encoder",
    default=True,
    help="Refuse embeddings of different encoders; warn where nothing records which.",
)
@click.option("--work-dir", metavar="DIR", help="Intermediate files; shared by all workers.")
@click.option("--prefix", default="", metavar="TEXT", help="Put before the columns' names.")
@report_option
@output_option
@json_option
@computes
def decontaminate(
    dataset: str,
    against: tuple[str, ...],
    by: tuple[str, ...],
    eps: float | None,
    preset: str | None,
    group: bool,
    group_column: tuple[str, ...],
    report: str | None,
    output: str | None,
    as_json: bool,
    session: Session,
    **options: Any,
) -> None:
    """Mark rows that are in another dataset, too: columns is_leak, leak_of and leak_by.

    Such as test sets, a validation split, or the set that new shards come to. Nothing is removed;
    do that with: filter DATASET --where "not is_leak" --output DIR
    """
    from nemo_image_curate.dedup.leak_presets import preset_named

    if eps is not None and preset:
        raise click.UsageError("give --eps or --preset, not both.")
    if group and group_column:
        raise click.UsageError("give --group or --group-column, not both.")
    if preset:
        chosen = preset_named(preset)
        options |= {"eps": chosen.eps, "encoder": chosen.encoder}
    elif eps is not None:
        options["eps"] = eps
    options |= {"by": by, "group": group_column or group}
    mark(session, dataset, against, options, report, output, as_json)


def mark(
    session: Session,
    dataset: str,
    against: tuple[str, ...],
    options: dict[str, Any],
    report: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Find leaks, save the dataset with them, and tell how many of which kind there are.

    Parameters
    ----------
    session : Session
    dataset : str
    against : tuple of str
        As `references` takes them.
    options : dict
        Parameters of `Decontaminate`.
    report : str or None
        Where the page goes, if one is wanted.
    output : str or None
    as_json : bool
    """
    from nemo_image_curate.dedup.decontaminate import Decontaminate
    from nemo_image_curate.dedup.leak_summary import summarise

    started = time.perf_counter()
    stage = Decontaminate(references(against), **options)
    with session.client():
        marked = stage(session.open(dataset))
        summary = stage.report(marked, report) if report else summarise(marked, stage.prefix)
        counts = summary.counts() | ({"report": report} if report else {})
        save(marked, output, as_json, counts, started)
