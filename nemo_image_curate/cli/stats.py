"""The command stats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.cli.base import (
    NamedNumber,
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

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.stages.base import PixelStage


@main.command()
@click.argument("dataset")
@click.option(
    "--quality",
    is_flag=True,
    help="Also scores and flags: dark, light, blank, blurry, low information, odd aspect ratio, "
    "grayscale; borders; and mode, bit depth and orientation of files.",
)
@click.option(
    "--threshold",
    "thresholds",
    type=NamedNumber("NAME", "dark=0.25"),
    multiple=True,
    help="--quality: where a flag begins. May be given several times.",
)
@click.option(
    "--odd-size", is_flag=True, help="Flag odd sizes, by the columns that --quality has saved."
)
@click.option(
    "--captions",
    is_flag=True,
    help="Lengths, languages and flags of captions, and how many rows have the same one.",
)
@click.option("--caption-column", default="caption", show_default=True)
@output_option
@threads_option
@orientation_option
@retry_option
@json_option
@computes
def stats(
    dataset: str,
    quality: bool,
    thresholds: tuple[tuple[str, float], ...],
    odd_size: bool,
    captions: bool,
    caption_column: str,
    output: str | None,
    threads: int,
    orientation: str,
    retry: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Add size, format, brightness, contrast, sharpness and colorfulness.

    With --captions or --odd-size alone images are not looked at. Told is how many rows have each
    flag.
    """
    if thresholds and not quality:
        raise click.UsageError("--threshold goes with --quality.")
    if odd_size and quality:
        raise click.UsageError("--odd-size looks at what --quality has saved: run it after that.")
    stages: list[Any] = []
    if odd_size:
        stages += _odd_size()
    if captions:
        stages += _captions(caption_column)
    if quality or not stages:
        stages.append(_images(quality, dict(thresholds), threads, orientation))
    with session.client():
        measured = session.open(dataset)
        for stage in stages:
            measured = stage(measured)
        flags = [name for stage in stages for name in _flags(stage)]
        save(measured, output, as_json, retry=retry, measure=lambda saved: _count(saved, flags))


def _images(quality: bool, thresholds: dict[str, float], threads: int, orientation: str) -> Any:
    """One pass over the images, for all that is measured of them."""
    from nemo_image_curate.quality.flags import ImageQuality
    from nemo_image_curate.quality.statistics import ImageStatistics
    from nemo_image_curate.stages.image_pass import ImagePass

    stages: list[PixelStage] = [ImageStatistics(orientation=orientation)]
    if quality:
        stages.append(ImageQuality(thresholds, orientation=orientation))
    return ImagePass(tuple(stages), num_threads=threads, orientation=orientation)


def _captions(column: str) -> list[Any]:
    from nemo_image_curate.quality.caption_quality import CaptionQuality
    from nemo_image_curate.quality.captions import CaptionStatistics
    from nemo_image_curate.selection.caption_counts import RepeatedCaptions

    return [stage(column) for stage in (RepeatedCaptions, CaptionStatistics, CaptionQuality)]


def _odd_size() -> list[Any]:
    from nemo_image_curate.quality.odd_size import OddSize

    return [OddSize()]


def _flags(stage: Any) -> list[str]:
    """The columns of a stage that are true or false."""
    import pyarrow as pa

    return [name for name, kind in stage.columns().items() if pa.types.is_boolean(kind)]


def _count(
    saved: ImageTextPairDataset, flags: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How many rows have each flag, for the record and for people."""
    if not flags:
        return {}, {}
    import dask

    frame = saved.metadata[list(flags)]
    has_flag, known = (counts.to_dict() for counts in dask.compute(frame.sum(), frame.count()))
    width = max(map(len, flags))
    parts = {name: has_flag[name] / max(1, known[name]) for name in flags}
    lines = [f"  {name:<{width}}  {has_flag[name]:>11,}  {parts[name]:>6.1%}" for name in flags]
    return (
        {"flags": {name: int(has_flag[name]) for name in flags}},
        {"flags": "\n" + "\n".join(lines)},
    )
