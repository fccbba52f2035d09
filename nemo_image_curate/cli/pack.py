"""The command pack."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import json_option, main, report, samples_option


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

    files = packing.find_images(images)
    texts = packing.read_captions(captions) if captions else None
    tars = packing.pack(files, output, texts, samples_per_shard)
    captioned = sum(name in texts or path.name in texts for path, name in files) if texts else 0
    report(
        {"samples": len(files), "captioned": captioned, "shards": len(tars), "output": output},
        as_json,
    )
