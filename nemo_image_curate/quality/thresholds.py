"""From which value on a picture is flagged: data, each with its source."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nemo_image_curate.errors import ConfigError


@dataclass(frozen=True)
class Threshold:
    """A default threshold.

    Attributes
    ----------
    value : float
    meaning : str
        When a picture is flagged.
    source : str
    """

    value: float
    meaning: str
    source: str


_CLEANVISION = "CleanVision 0.3.7, issue_managers/image_property_issue_manager.py"
# What a picture is compared with, by the name of its flag without ``is_``, or of what is measured.
IMAGE_THRESHOLDS: Mapping[str, Threshold] = MappingProxyType(
    {
        "dark": Threshold(0.32, "dark_score is below", _CLEANVISION),
        "light": Threshold(0.05, "light_score is below", _CLEANVISION),
        "low_information": Threshold(0.3, "low_information_score is below", _CLEANVISION),
        "blurry": Threshold(0.29, "blurry_score is below", _CLEANVISION),
        "odd_aspect_ratio": Threshold(
            0.35, "the shorter side is less than this part of the longer one", _CLEANVISION
        ),
        "blank": Threshold(
            0.99,
            "so much of the picture, or more, is within 8 levels of each colour",
            "ours: 0 of 1,500 photographs of Flickr8k",
        ),
        "grayscale": Threshold(
            4.0,
            "no pixel's colours differ by more levels",
            "JFIF: two units of rounding in Cb or Cr are up to 4 levels of a colour",
        ),
        "border": Threshold(
            8.0,
            "rows or columns from an edge on belong to the border while all of their pixels are "
            "within so many levels of each colour",
            "ours: what JPEG at quality 75 leaves of a border of one colour",
        ),
    }
)


def image_thresholds(changed: Mapping[str, float]) -> dict[str, float]:
    """All thresholds of pictures, some of them changed.

    Raises
    ------
    ConfigError
        For a name that does not exist, naming the nearest, and for what is no finite number.
    """
    if not isinstance(changed, Mapping):
        raise ConfigError(f"thresholds={changed!r} should be a mapping of names to numbers.")
    for name, value in changed.items():
        if name not in IMAGE_THRESHOLDS:
            near = difflib.get_close_matches(name, IMAGE_THRESHOLDS, 1)
            hint = (
                f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(IMAGE_THRESHOLDS)
            )
            raise ConfigError(f"no threshold {name!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
            raise ConfigError(f"threshold {name}={value!r} should be a finite number.")
    defaults = {name: threshold.value for name, threshold in IMAGE_THRESHOLDS.items()}
    return defaults | {name: float(value) for name, value in changed.items()}
