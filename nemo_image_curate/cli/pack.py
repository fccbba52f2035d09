"""The command pack."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import json_option, main, samples_option
from nemo_image_curate.cli.results import end, report, write_run


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--output", required=True, metavar="DIR", help="An empty or new folder.")
@click.option(
    "--captions",
    metavar="CSV",
    type=click.Path(exists=True, dir_okay=False),
    help="File names and captions, with a header such as image,caption. They count more than "
    "NAME.txt beside NAME.jpg.",
)
@click.option(
    "--encoding", metavar="NAME", help="Of the captions, if not UTF-8: latin-1, shift_jis ..."
)
@click.option(
    "--image-column",
    metavar="NAME",
    help="Of Parquet files: the column of the images, if that is not clear.",
)
@samples_option
@json_option
def pack(
    images: tuple[str, ...],
    output: str,
    captions: str | None,
    encoding: str | None,
    image_column: str | None,
    samples_per_shard: int,
    as_json: bool,
) -> None:
    """Pack image files, or folders of them, into shards.

    Images are known by their bytes. NAME.txt, NAME.caption, NAME.cls and NAME.json give the caption
    and columns of the image beside them. Parquet files with a column of images, as Hugging Face
    datasets are, give their other columns.
    """
    from nemo_image_curate.shards import pack as packing
    from nemo_image_curate.shards import parquet_images

    tables = parquet_images.find_tables(images)
    if tables and (captions or encoding):
        raise click.UsageError("--captions and --encoding are for image files, not for Parquet.")
    if image_column and not tables:
        raise click.UsageError("--image-column is for Parquet files.")
    if tables:
        summary = parquet_images.pack_tables(tables, output, samples_per_shard, image_column)
    else:
        texts = packing.read_captions(captions, encoding) if captions else None
        files = packing.find_images(images)
        summary = packing.pack(files, output, texts, samples_per_shard, encoding=encoding)
    record = {**summary.to_dict(), "output": output}
    write_run(record, output)
    report(record, as_json)
    end(nothing_read=not summary.samples)
