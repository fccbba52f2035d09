"""Commands about samples and shards: pack, inspect, filter."""

from __future__ import annotations

import dataclasses

import click

from nemo_image_curate.cli.base import (
    Session,
    computes,
    json_option,
    main,
    print_json,
    report,
    samples_option,
)


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--output", required=True, metavar="DIR", help="An empty or new folder.")
@click.option(
    "--captions",
    metavar="CSV",
    type=click.Path(exists=True, dir_okay=False),
    help="File names and captions, with a header such as image,caption.",
)
@samples_option
@json_option
def pack(
    images: tuple[str, ...],
    output: str,
    captions: str | None,
    samples_per_shard: int,
    as_json: bool,
) -> None:
    """Pack image files, or folders of them, into shards."""
    from nemo_image_curate.shards import pack as packing

    found = packing.find_images(images)
    texts = packing.read_captions(captions) if captions else None
    tars = packing.pack(found, output, texts, samples_per_shard)
    captioned = sum(name in texts or path.name in texts for path, name in found) if texts else 0
    report(
        {"samples": len(found), "captioned": captioned, "shards": len(tars), "output": output},
        as_json,
    )


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
        found = inspect_dataset(session.open(dataset, skip_unreadable=True))
    if as_json:
        print_json(found)
        return
    columns = ", ".join(f"{name} ({kind})" for name, kind in found["columns"].items())
    faults = ", ".join(f"{count:,} {kind}" for kind, count in found["counts"].items()) or "none"
    report(
        {
            "path": found["path"],
            "shards": found["shards"],
            "samples": found["samples"],
            "columns": columns,
            "faults": faults,
        },
        False,
    )
    for fault in found["faults"]:
        click.echo(f"  {fault['shard']}: {fault['kind']}: {fault['key']}: {fault['detail']}")


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
        kept = opened.filter(where)
        done = kept.to_webdataset(
            output, samples_per_shard=samples_per_shard, old_id_col=old_id_column
        )
        total = len(opened)
    report(
        {
            "samples": total,
            "kept": done.samples,
            "rejected": total - done.samples - done.missing,
            "missing": done.missing,
            "shards": done.shards,
            "output": done.path,
        },
        as_json,
    )
