"""The command filter."""

from __future__ import annotations

from typing import Any

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main, samples_option
from nemo_image_curate.cli.results import finish


@main.command(name="filter")
@click.argument("dataset")
@click.option(
    "--where",
    metavar="EXPR",
    help="Over the columns, such as: 'aesthetic_score > 5 and width >= 256'.",
)
@click.option(
    "--selection",
    metavar="FILE",
    help="The samples that this file lists, as often as it says; select writes such files.",
)
@click.option(
    "--multiplicity",
    metavar="COLUMN",
    help="Write each sample as often as this column says; not where it is 0 or null.",
)
@click.option("--output", required=True, metavar="DIR", help="An empty or new folder for shards.")
@samples_option
@click.option("--old-id-column", metavar="NAME", help="Keep the old keys in this column.")
@json_option
@computes
def filter_(
    dataset: str,
    where: str | None,
    selection: str | None,
    multiplicity: str | None,
    output: str,
    samples_per_shard: int,
    old_id_column: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Write the samples for which an expression is true as new, clean shards."""
    if where is None and selection is None and multiplicity is None:
        raise click.UsageError("say what stays: --where, --selection, --multiplicity.")
    record: dict[str, Any] = {}
    with session.client():
        opened = chosen = session.open(dataset)
        if selection is not None:
            from nemo_image_curate.selection.listed import SelectionFile

            stage = SelectionFile(selection)
            if multiplicity is None and "multiplicity" in stage.columns():
                multiplicity = "multiplicity"
            chosen = stage(chosen)
            n_selected = int(chosen.metadata["selected"].sum().compute())
            record["not_in_dataset"] = stage.listed() - n_selected
            chosen = chosen.filter("selected")
        if where is not None:
            chosen = chosen.filter(where)
        done = chosen.to_webdataset(
            output,
            samples_per_shard=samples_per_shard,
            old_id_col=old_id_column,
            multiplicity=multiplicity,
        )
        account = opened.account()
    if multiplicity is not None:
        record["written"] = done.samples
    if not done.rows:
        rows = done.filtered + done.missing
        click.echo(f"nothing is kept of {rows:,} rows: {done.path} has no shards.", err=True)
    finish(
        {
            "samples": done.rows + done.filtered + done.missing,
            "kept": done.rows,
            "rejected": done.filtered,
            "missing": done.missing,
            **record,
            "shards": done.shards,
            "output": done.path,
        },
        account,
        done.path,
        as_json,
        nothing_read=account.with_image == 0,
        written=done.rows,
        dropped_by_condition=done.filtered - done.null,
        dropped_by_null=done.null,
        null_columns=done.null_columns,
        missing=done.missing,
    )
