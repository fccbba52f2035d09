"""Why an image has no pixels: what ``image_error`` says.

``missing``: there are no bytes. ``too large: ...``: refused before it is decoded. ``decode: ...``:
the bytes are no image, or a broken one. ``embed: ...``: a model made nothing of the pixels. Rows
are counted by what stands before the colon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nemo_image_curate.errors import ImageError

MISSING = "missing"
TOO_LARGE = "too large"
NO_DIRECTION = "embed: the model gave no direction (zeros or NaN)"


def reason_of(error: ImageError) -> str:
    """The reason that an image left no pixels."""
    text = str(error)
    return text if text.startswith(f"{TOO_LARGE}: ") else f"decode: {text}"


def may_pass(kind: str) -> bool:
    """Whether what failed may go well another time: an image that is too large stays so."""
    return kind.partition(":")[0] != TOO_LARGE


def count_by_kind(reasons: Iterable[object]) -> dict[str, int]:
    """How many rows have which kind of reason, by kind."""
    return dict(sorted(Counter(str(reason).partition(":")[0] for reason in reasons).items()))
