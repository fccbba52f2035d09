"""The command stats."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import (
    Session,
    computes,
    json_option,
    main,
    orientation_option,
    output_option,
    retry_option,
    threads_option,
)
from nemo_image_curate.cli.results import save


@main.command()
@click.argument("dataset")
@output_option
@threads_option
@orientation_option
@retry_option
@json_option
@computes
def stats(
    dataset: str,
    output: str | None,
    threads: int,
    orientation: str,
    retry: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Add size, format, brightness, contrast, sharpness and colorfulness."""
    from nemo_image_curate.quality.statistics import ImageStatistics

    with session.client():
        stage = ImageStatistics(num_threads_per_worker=threads, orientation=orientation)
        save(stage(session.open(dataset)), output, as_json, retry=retry)
