"""The command join."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main, output_option
from nemo_image_curate.cli.results import save


@main.command()
@click.argument("dataset")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option(
    "--on",
    default="uid",
    show_default=True,
    metavar="COLUMN",
    help="The column by which rows are found in the table.",
)
@click.option("--columns", metavar="A,B,...", help="The table's columns to add. Default: all.")
@click.option(
    "--array",
    "arrays",
    multiple=True,
    metavar="COLUMN=ARRAY",
    help="Add an array of STEM.npz beside each STEM.parquet: image_embedding=l14_img.",
)
@click.option("--no-columns", is_flag=True, help="Add nothing but arrays.")
@click.option(
    "--encoder",
    metavar="NAME",
    help="What made the embeddings: openai/clip-vit-large-patch14.",
)
@click.option("--work-dir", metavar="DIR", help="Intermediate files; shared by all workers.")
@output_option
@json_option
@computes
def join(
    dataset: str,
    tables: tuple[str, ...],
    on: str,
    columns: str | None,
    arrays: tuple[str, ...],
    no_columns: bool,
    encoder: str | None,
    work_dir: str | None,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Add columns of Parquet files of your own, by a column that names rows.

    TABLE is a Parquet file, a folder of them, a glob or a URL. Rows that it has not are null.
    """
    from nemo_image_curate.selection.joining import Join

    if no_columns and (columns is not None or not arrays):
        raise click.UsageError("--no-columns goes with --array, and without --columns.")
    pairs = [array.partition("=") for array in arrays]
    if not all(column and array for column, _, array in pairs):
        raise click.UsageError("--array takes COLUMN=ARRAY, such as image_embedding=l14_img.")
    names = columns.split(",") if columns is not None else [] if no_columns else None
    beside = {column: array for column, _, array in pairs}
    with session.client():
        stage = Join(list(tables), on, names, beside or None, encoder, work_dir=work_dir)
        save(stage(session.open(dataset)), output, as_json)
