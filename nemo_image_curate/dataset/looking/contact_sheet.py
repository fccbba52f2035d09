"""Pictures side by side as one image."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from nemo_image_curate.dataset.looking.thumbnails import SIDE, Thumbnail
from nemo_image_curate.decode.images import load_image
from nemo_image_curate.decode.inputs import ImageInput

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
    cells = []
    for picture, label in zip(pictures, labels, strict=True):
        if picture.jpeg is None:
            cells.append(_reason(f"{label}: {picture.reason}", side))
        else:
            cells.append(Image.open(io.BytesIO(picture.jpeg)))
    return _sheet(cells, side, across)


def grid(images: Sequence[ImageInput], side: int = SIDE, across: int | None = None) -> Image.Image:
    """Images in rows, each made small in the middle of a square.

    Parameters
    ----------
    images : sequence of path, bytes, data URL or PIL.Image.Image
        As for `load_image`. For rows of a dataset there is ``dataset.show``.
    side : int, default 160
        Of the squares, in pixels; smaller images stay as they are.
    across : int, optional
        Images of a row. Default: about as many as there are rows.

    Returns
    -------
    PIL.Image.Image
        RGB, on white; one pixel when there are no images.

    Raises
    ------
    ConfigError, DatasetError, ImageError
        When one cannot be used; see `load_image`.
    """
    cells = []
    for image in images:
        small = load_image(image)
        small.thumbnail((side, side))
        cells.append(small)
    return _sheet(cells, side, across)


def _sheet(cells: Sequence[Image.Image], side: int, across: int | None) -> Image.Image:
    n = len(cells)
    across = max(1, min(across or math.ceil(math.sqrt(n)), n or 1))
    down = -(-n // across)
    step = side + _GAP
    size = (max(1, across * step - _GAP if n else 1), max(1, down * step - _GAP))
    sheet = Image.new("RGB", size, "white")
    for place, cell in enumerate(cells):
        left, top = place % across * step, place // across * step
        sheet.paste(cell, (left + (side - cell.width) // 2, top + (side - cell.height) // 2))
    return sheet


def _reason(text: str, side: int) -> Image.Image:
    cell = Image.new("RGB", (side, side), _EMPTY)
    # The font that Pillow falls back to has no other letters.
    plain = text.encode("ascii", "replace").decode()
    lines = textwrap.wrap(plain, max(1, side // _LETTERS - 1))
    ImageDraw.Draw(cell).multiline_text((_LETTERS, _LETTERS), "\n".join(lines), fill=_WORDS)
    return cell
