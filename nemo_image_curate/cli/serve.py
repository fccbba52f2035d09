"""The command serve."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import (
    backend_option,
    checkpoint_option,
    image_member_option,
    main,
    tars_option,
)
from nemo_image_curate.cli.searching import open_searcher, store_option


@main.command()
@click.argument("dataset")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--ui", is_flag=True, help="Start the web page, too.")
@click.option("--ui-port", type=click.IntRange(0, 65535), default=8501, show_default=True)
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="DIR",
    help="Requests may name images below this folder; may be given again.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="HOST",
    help="A name that the service is called by, such as images.example.org; may be given again.",
)
@click.option("--max-upload", type=click.IntRange(min=1), default=32, show_default=True, help="MB.")
@checkpoint_option
@store_option
@tars_option
@image_member_option
@backend_option
def serve(
    dataset: str,
    host: str,
    port: int,
    ui: bool,
    ui_port: int,
    roots: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    max_upload: int,
    checkpoint: str | None,
    store: str | None,
    backend: str,
    image_member: str | None,
    tars: str | None,
) -> None:
    """Serve searches over HTTP; with --store also take new images and texts.

    With NEMO_IMAGE_CURATE_TOKEN in the environment, clients must send it as a bearer token.
    """
    from nemo_image_curate.serve import Settings, run_service

    opened, live, searcher = open_searcher(dataset, backend, checkpoint, store, image_member, tars)
    settings = Settings(roots=roots, allowed_hosts=allowed_hosts, max_body=max_upload * 2**20)
    run_service(searcher, opened, live, settings, host=host, port=port, ui=ui, ui_port=ui_port)
