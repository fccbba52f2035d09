"""The command filter."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main, samples_option
from nemo_image_curate.cli.results import finish


@main.command(name="filter")
@click.argument("dataset")
@click.option(
    "--where",
    required=True,
    metavar="EXPR",
    help="Over the columns, such as: 'aesthetic_score > 5 and width >= 256'.",
)
@click.option("--output", required=True, metavar="DIR", help="An empty or new folder for shards.")
@samples_option
@click.option("--old-id-column", metavar="NAME", help="Keep the old keys in this column.")
@json_option
@computes
def filter_(
    dataset: str,
    where: str,
    output: str,
    samples_per_shard: int,
    old_id_column: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Write the samples for which an expression is true as new, clean shards."""
    with session.client():
        opened = session.open(dataset)
        filtered = opened.filter(where)
        done = filtered.to_webdataset(
            output, samples_per_shard=samples_per_shard, old_id_col=old_id_column
        )
        account = opened.account()
    finish(
        {
            "samples": done.samples + done.filtered + done.missing,
            "kept": done.samples,
            "rejected": done.filtered,
            "missing": done.missing,
            "shards": done.shards,
            "output": done.path,
        },
        account,
        done.path,
        as_json,
        nothing_read=account.with_image == 0,
        written=done.samples,
        dropped_by_condition=done.filtered - done.null,
        dropped_by_null=done.null,
        null_columns=done.null_columns,
        missing=done.missing,
    )
