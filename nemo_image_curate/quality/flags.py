"""`ImageQuality`: what is wrong with a picture, as scores, flags and facts of its file."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.quality import measures
from nemo_image_curate.quality.blur import blurry_scores
from nemo_image_curate.quality.thresholds import image_thresholds
from nemo_image_curate.stages.base import Consume, PixelStage

if TYPE_CHECKING:
    import torch

_SIDE = 256
_DARK_PERCENT, _LIGHT_PERCENT = 99, 5
# Pillow's entropy of 3 colours side by side, of which CleanVision takes a tenth.
_INFORMATION = 0.1
_FILE = {
    "aspect_ratio": pa.float32(),
    "megapixels": pa.float32(),
    "bytes_per_pixel": pa.float32(),
    "image_mode": pa.string(),
    "bit_depth": pa.int32(),
    "exif_orientation": pa.int32(),
}
_SCORES = ("dark_score", "light_score", "low_information_score", "blurry_score")
_SIDES = ("top", "bottom", "left", "right")
_BORDERS = (*(f"border_{side}" for side in _SIDES), "border_fraction")
_FLAGS = (
    *("is_dark", "is_light", "is_blank", "is_blurry", "is_low_information"),
    *("is_odd_aspect_ratio", "is_grayscale"),
)


@dataclass(eq=False)
class ImageQuality(PixelStage):
    """Adds scores and flags of what may be wrong with each image, and facts of its file.

    Call it with a dataset, or hand it to an embedder's `image_stages`: then it costs no decoding
    of its own. What is measured of pixels is so of the whole image scaled to 256 x 256.

    Parameters
    ----------
    thresholds : mapping of str to float, optional
        Changes to `nemo_image_curate.quality.thresholds.IMAGE_THRESHOLDS`, by name, such as
        ``{"dark": 0.25}``. All are recorded with the columns.

    Columns
    -------
    aspect_ratio : float32
        Width over height.
    megapixels : float32
        Millions of pixels; see `OddSize`.
    bytes_per_pixel : float32
        Of the encoded file.
    image_mode : string
        What kind of pixels the file has, as Pillow calls it: ``RGB``, ``L`` (gray), ``CMYK``.
    bit_depth : int32
        Bits of each sample in the file; of colours by number those of the numbers.
    exif_orientation : int32
        1 to 8, as the file's EXIF says, whether or not it is followed; 1 where it says nothing.
    entropy : float32
        Shannon's, in bits, of the histogram of luma (ITU-R BT.601) in 256 levels: 0 to 8.
    dark_score : float32
        The perceived brightness, 0 to 1, that 99 % of the pixels do not exceed.
    light_score : float32
        1 less the perceived brightness that 5 % of the pixels do not exceed.
    low_information_score : float32
        A tenth of the entropy of the histograms of the three colours side by side, at most 1.
    blurry_score : float32
        From edges and the spread of luma; see `nemo_image_curate.quality.blur`.
    border_top, border_bottom, border_left, border_right : float32
        How far a border of one colour reaches into the picture, as a part of its height or width.
    border_fraction : float32
        The part of the picture that is such a border; 1 for a picture of one colour.
    is_dark, is_light, is_low_information, is_blurry : bool
        The score is below its threshold.
    is_blank : bool
        Nearly all of the picture is of one colour.
    is_odd_aspect_ratio : bool
        The shorter side is short.
    is_grayscale : bool
        All pixels are gray, whatever the file's mode.

    All are null where the image could not be decoded.

    Notes
    -----
    Scores and their thresholds are those of CleanVision 0.3.7, which lower ones are worse; the
    perceived brightness of a pixel is sqrt(0.241 r^2 + 0.691 g^2 + 0.068 b^2). CleanVision looks
    at full-size pixels, so that its flags differ near thresholds: of 700 photographs, small
    pictures and spoiled ones 7 of 2,800. Those are drawings in few colours with many edges, which
    get colours in between when they are scaled. Four differences are intended:

    - Pixels are as they are seen: of CMYK, colours by number and 16 bits CleanVision takes the
      stored numbers, and what is transparent as it is below.
    - Gray pictures have three equal colours; CleanVision's entropy of a file in mode ``L`` lacks
      their log2(3), so that the same picture has another flag as RGB.
    - ``is_grayscale`` is about pixels, CleanVision's about the file's mode.
    - What is odd in size depends on all images, and is a stage of its own, `OddSize`.

    Examples
    --------
    >>> ds = ImageQuality(thresholds={"dark": 0.25})(ds)  # doctest: +SKIP
    >>> ds = ds.filter("not is_blank and not is_dark and border_fraction < 0.3")  # doctest: +SKIP
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)

    thumbnail_size = _SIDE

    def check(self) -> None:
        """Refuse thresholds that there are not with `ConfigError`."""
        image_thresholds(self.thresholds)

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        measured = dict.fromkeys(("entropy", *_SCORES, *_BORDERS), pa.float32())
        return _FILE | measured | dict.fromkeys(_FLAGS, pa.bool_())

    def config(self) -> dict[str, Any]:
        """The side of the pictures that are measured, and all thresholds."""
        return {"side": _SIDE, "thresholds": image_thresholds(self.thresholds)}

    def load(self, device: str) -> Consume:
        """The function from a decoded batch to column values."""
        return functools.partial(_of_batch, thresholds=image_thresholds(self.thresholds))


def _of_batch(batch: DecodedBatch, thresholds: Mapping[str, float]) -> dict[str, list[Any]]:
    headers = [header for row in batch.decoded if (header := batch.headers[row]) is not None]
    sizes = [(header.width, header.height) for header in headers]
    values: dict[str, list[Any]] = {
        "aspect_ratio": [width / height for width, height in sizes],
        "megapixels": [width * height / 1e6 for width, height in sizes],
        "bytes_per_pixel": [header.n_bytes / (header.width * header.height) for header in headers],
        "image_mode": [header.mode for header in headers],
        "bit_depth": [header.bit_depth for header in headers],
        "exif_orientation": [header.exif_orientation for header in headers],
    }
    images = batch.thumbnails[_SIDE]
    colors = measures.color_measures(images, (_DARK_PERCENT, _LIGHT_PERCENT))
    measured = {name: of_all.tolist() for name, of_all in colors.items()}
    values |= _scores(measured) | _borders(images, thresholds["border"])
    values["blurry_score"] = blurry_scores(images, sizes)
    for name in _SCORES:
        flag = name.removesuffix("_score")
        values[f"is_{flag}"] = [score < thresholds[flag] for score in values[name]]
    return values | {
        "is_blank": [part >= thresholds["blank"] for part in measured["main_color"]],
        "is_grayscale": [spread <= thresholds["grayscale"] for spread in measured["color_spread"]],
        "is_odd_aspect_ratio": [
            min(size) / max(size) < thresholds["odd_aspect_ratio"] for size in sizes
        ],
    }


def _scores(measured: Mapping[str, list[Any]]) -> dict[str, list[float]]:
    return {
        "entropy": measured["entropy"],
        "dark_score": [dark for dark, _ in measured["brightness"]],
        "light_score": [1 - light for _, light in measured["brightness"]],
        "low_information_score": [
            min(1.0, _INFORMATION * bits) for bits in measured["color_entropy"]
        ],
    }


def _borders(images: torch.Tensor, spread: float) -> dict[str, list[float]]:
    widths = measures.border_widths(images, spread).tolist()
    parts = [[width / _SIDE for width in sides] for sides in widths]
    columns = {
        f"border_{side}": list(of_all)
        for side, of_all in zip(_SIDES, zip(*parts, strict=True), strict=True)
    }
    inside = [
        max(0, 1 - top - bottom) * max(0, 1 - left - right) for top, bottom, left, right in parts
    ]
    return columns | {"border_fraction": [1 - part for part in inside]}
