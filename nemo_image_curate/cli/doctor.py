"""The command doctor."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import json_option, main
from nemo_image_curate.cli.results import print_json


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show versions, devices and the weights cache, and what works on this machine."""
    from nemo_image_curate.doctor import examine

    record = examine()
    if as_json:
        print_json(record)
        return
    for part, lines in record.items():
        click.echo(part)
        for name, value in lines.items():
            click.echo(f"  {name:<24} {value}")
