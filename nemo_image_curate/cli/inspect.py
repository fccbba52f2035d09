"""The command inspect."""

from __future__ import annotations

import dataclasses

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main, print_json, report


@main.command()
@click.argument("dataset")
@json_option
@computes
def inspect(
    dataset: str,
    as_json: bool,
    session: Session,
) -> None:
    """Read all tar headers and sidecars; list samples, columns and every fault found."""
    from nemo_image_curate.dataset.inspecting import inspect_dataset

    session = dataclasses.replace(session, backend="cpu")
    with session.client():
        record = inspect_dataset(session.open(dataset, skip_unreadable=True))
    if as_json:
        print_json(record)
        return
    columns = ", ".join(f"{name} ({kind})" for name, kind in record["columns"].items())
    faults = ", ".join(f"{count:,} {kind}" for kind, count in record["counts"].items()) or "none"
    report(
        {
            "path": record["path"],
            "shards": record["shards"],
            "samples": record["samples"],
            "columns": columns,
            "faults": faults,
        },
        False,
    )
    for fault in record["faults"]:
        click.echo(f"  {fault['shard']}: {fault['kind']}: {fault['key']}: {fault['detail']}")
