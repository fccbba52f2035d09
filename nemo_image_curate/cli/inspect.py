"""The command inspect."""

from __future__ import annotations

import dataclasses

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main
from nemo_image_curate.cli.results import end, list_faults, print_json, report


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
    account = record["account"]
    nothing_read = account["with_image"] == 0 and bool(record["samples"] or record["faults"])
    if as_json:
        print_json(record)
        end(nothing_read)
        return
    columns = ", ".join(f"{name} ({kind})" for name, kind in record["columns"].items())
    report(
        {
            "path": record["path"],
            "shards": record["shards"],
            "samples": record["samples"],
            "columns": columns,
            "account": account,
        },
        False,
    )
    list_faults(record["faults"])
    end(nothing_read)
