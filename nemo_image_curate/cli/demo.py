"""The command demo."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main
from nemo_image_curate.cli.results import print_json


@main.command()
@click.argument(
    "folder", required=False, metavar="[DIR]", type=click.Path(exists=True, file_okay=False)
)
@click.option("--output", default="demo-output", show_default=True, metavar="DIR")
@json_option
@computes
def demo(
    folder: str | None,
    output: str,
    as_json: bool,
    session: Session,
) -> None:
    """Run the whole job offline on photographs that packages carry, or on those in DIR."""
    from nemo_image_curate.demo import run_demo

    with session.client():
        result = run_demo(folder, output)
    if as_json:
        print_json(result.record)
    else:
        click.echo(result.table)
