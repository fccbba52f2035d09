"""What a query may be given as, and the one vector that it becomes."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_image_curate.decode.inputs import ImageInput
from nemo_image_curate.errors import ConfigError

# Directions whose weighted sum is this much shorter than their weights cancel each other out:
# what is left of float32 vectors is rounding.
_VANISHING = 1e-5
# The bounds of a query's numbers, also over HTTP: at least so much; `collapse` is above the one and
# at most the other.
MIN_K = 1
MIN_WEIGHT = 0
COLLAPSE_ABOVE, COLLAPSE_UP_TO = 0, 1


@dataclass(frozen=True)
class Query:
    """What `Searcher.search` is asked; its parameters are explained there."""

    text: str | None = None
    image: ImageInput | None = None
    like: str | None = None
    like_shard: str | None = None
    negative_text: str | None = None
    text_weight: float = 1.0
    image_weight: float = 1.0
    negative_weight: float = 0.5
    k: int = 10
    where: str | None = None
    collapse: float | None = None
    fuse_captions: bool = False
    over: str = "images"

    def check(self) -> None:
        """Refuse what no searcher could answer.

        Raises
        ------
        ConfigError
        """
        for name in ("text", "like", "like_shard", "negative_text", "where"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name}={value!r} should be a text.")
        if self.text is None and self.image is None and self.like is None:
            raise ConfigError(
                "a query needs a text, an image, or the key of a stored image (like=)"
                + ("; negative_text alone finds nothing." if self.negative_text else ".")
            )
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < MIN_K:
            raise ConfigError(f"k={self.k!r} should be a positive integer.")
        for name in ("text_weight", "image_weight", "negative_weight"):
            weight = getattr(self, name)
            if not (_is_number(weight) and MIN_WEIGHT <= weight <= sys.float_info.max):
                raise ConfigError(
                    f"{name}={weight!r} should be a number not below 0; what images should not "
                    "show goes into negative_text."
                )
        collapse = self.collapse
        if collapse is not None and not (
            _is_number(collapse) and COLLAPSE_ABOVE < collapse <= COLLAPSE_UP_TO
        ):
            raise ConfigError(
                f"collapse={collapse!r} should be a cosine similarity above 0, at most 1."
            )
        if self.over not in ("images", "texts"):
            raise ConfigError(f"over={self.over!r} should be 'images' or 'texts'.")
        if self.fuse_captions and self.text is None:
            raise ConfigError("fuse_captions=True needs a text to look for in the captions.")


def direction(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """The unit vector that a weighted sum of unit vectors points to.

    Parameters
    ----------
    parts : sequence of (weight, vector)
        Vectors of float32, shape (d,), length 1; those to move away from have negative weights.

    Returns
    -------
    numpy.ndarray of float32, shape (d,)

    Raises
    ------
    ConfigError
        When all weights are 0, or the vectors cancel each other out.
    """
    scale = sum(abs(weight) for weight, _ in parts)
    if not scale:
        raise ConfigError("all weights of the query are 0: nothing is left to look for.")
    weighted = [weight / scale * vector.astype(np.float64) for weight, vector in parts]
    total = np.sum(weighted, axis=0)
    length = float(np.linalg.norm(total))
    if length < _VANISHING:
        raise ConfigError(
            "the parts of the query cancel each other out: the negative says what the text or "
            "image says. Change it, or its weight."
        )
    unit: np.ndarray = (total / length).astype(np.float32)
    return unit


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
