"""Pictures of rows side by side as one image."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from nemo_image_curate.dataset.looking.thumbnails import Thumbnail

_GAP = 4
# A place without a picture, and what is written there.
_EMPTY, _WORDS = (230, 232, 235), (87, 96, 106)
_LETTERS = 6


def contact_sheet(
    pictures: Sequence[Thumbnail], labels: Sequence[str], side: int, across: int | None = None
) -> Image.Image:
    """Thumbnails in rows, each in the middle of a square.

    Parameters
    ----------
    pictures : sequence of Thumbnail, length n
        Where one has no picture, the label and the reason are written.
    labels : sequence of str, length n
    side : int
        Of the squares, in pixels.
    across : int, optional
        Pictures of a row. Default: about as many as there are rows.

    Returns
    -------
    PIL.Image.Image
        RGB, on white; one pixel when there are no pictures.
    """
    n = len(pictures)
    across = max(1, min(across or math.ceil(math.sqrt(n)), n or 1))
    down = -(-n // across)
    step = side + _GAP
    size = (max(1, across * step - _GAP if n else 1), max(1, down * step - _GAP))
    sheet = Image.new("RGB", size, "white")
    for place, (one, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = place % across * step, place // across * step
        if one.jpeg is None:
            cell = _reason(f"{label}: {one.reason}", side)
        else:
            cell = Image.open(io.BytesIO(one.jpeg))
        sheet.paste(cell, (left + (side - cell.width) // 2, top + (side - cell.height) // 2))
    return sheet


def _reason(text: str, side: int) -> Image.Image:
    cell = Image.new("RGB", (side, side), _EMPTY)
    # The font that Pillow falls back to has no other letters.
    plain = text.encode("ascii", "replace").decode()
    lines = textwrap.wrap(plain, max(1, side // _LETTERS - 1))
    ImageDraw.Draw(cell).multiline_text((_LETTERS, _LETTERS), "\n".join(lines), fill=_WORDS)
    return cell
