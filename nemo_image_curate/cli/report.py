"""The command report."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main
from nemo_image_curate.cli.decontaminate import references as named
from nemo_image_curate.cli.results import report as tell


class _Threshold(click.ParamType[tuple[str, float]]):
    """COLUMN=NUMBER."""

    name = "column=number"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        column, _, text = str(value).rpartition("=")
        try:
            return column, float(text) if column else self.fail("")
        except (ValueError, click.BadParameter):
            self.fail(f"{value!r} is not like aesthetic_score=5.0.", param, ctx)


@main.command()
@click.argument("dataset")
@click.option(
    "-o", "--output", required=True, metavar="FILE", help="The HTML file to write; may be a URL."
)
@click.option("--against", metavar="DATASET", help="Another dataset, or run, to compare with.")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="NAME=DATASET",
    help="A dataset that decontaminate was given, to show leaks beside what they are copies of.",
)
@click.option(
    "--comparison", metavar="FILE", help="Show what compare --output wrote: which subset is better."
)
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="EXPR",
    help="Show what this condition would drop; may be given several times.",
)
@click.option(
    "--column", "columns", multiple=True, metavar="NAME", help="Show these columns. Default: all."
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    type=_Threshold(),
    metavar="COLUMN=NUMBER",
    help="Where to look for the borderline of a column. Default: that of --where, or the median.",
)
@click.option(
    "--pictures",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    metavar="N",
    help="Of each strip.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random choices.")
@json_option
@computes
def report(
    dataset: str,
    output: str,
    against: str | None,
    references: tuple[str, ...],
    comparison: str | None,
    conditions: tuple[str, ...],
    columns: tuple[str, ...],
    thresholds: tuple[tuple[str, float], ...],
    pictures: int,
    seed: int,
    as_json: bool,
    session: Session,
) -> None:
    """Show a dataset as one HTML file: funnel, histograms, pictures, what is broken."""
    import time

    from nemo_image_curate import storage
    from nemo_image_curate.dedup.references import open_references
    from nemo_image_curate.report.page import write_report

    started = time.perf_counter()
    elsewhere = dataclasses.replace(session, tars=None)
    with session.client_if_asked():
        write_report(
            session.open(dataset),
            output,
            against=None if against is None else elsewhere.open(against),
            references=open_references(named(references), session.backend) if references else None,
            comparison=comparison,
            where=conditions,
            columns=columns,
            thresholds=dict(thresholds),
            pictures=pictures,
            seed=seed,
        )
    written = storage.stat(storage.normalise(output))
    record = {
        "output": output,
        "bytes": written.size if written else 0,
        "seconds": round(time.perf_counter() - started, 1),
    }
    tell(record, as_json)
