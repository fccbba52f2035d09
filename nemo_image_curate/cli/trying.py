"""Commands to try things out: demo, doctor."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import (
    Session,
    computes,
    json_option,
    main,
    print_json,
)


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


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show versions, devices and the weights cache, and what works on this machine."""
    from nemo_image_curate.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
        return
    for part, lines in found.items():
        click.echo(part)
        for name, value in lines.items():
            click.echo(f"  {name:<24} {value}")
