"""A grid of pictures with their captions, as HTML for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ImageError
from nemo_image_curate.shards.reader import TarShard

_THUMBNAIL = 192
# Not all that Pillow opens: PostScript would start Ghostscript.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")


@dataclass(frozen=True)
class Gallery:
    """Pictures as one HTML fragment.

    Attributes
    ----------
    html : str
    keys : list of str
    """

    html: str
    keys: list[str]

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str) -> None:
        """Write the grid as an HTML file that needs no other file."""
        page = f"<!doctype html><meta charset=utf-8><title>samples</title>{self.html}"
        storage.write_bytes(storage.normalise(path), page.encode())

    @classmethod
    def of(cls, dataset: Any, samples: int | Sequence[str], captions: str) -> Gallery:
        """The pictures of some rows of a dataset, in the order of its frame."""
        frame = dataset.metadata
        names = [dataset.id_col, SHARD_COLUMN]
        names += [captions] if captions in frame.columns else []
        frame = frame[names]
        if isinstance(samples, int):
            rows = frame.head(samples, npartitions=-1)
        else:
            rows = frame[frame[dataset.id_col].isin(list(samples))].compute()
        records = frames.to_arrow(rows).to_pylist()
        cells: dict[int, str] = {}
        for shard in dict.fromkeys(record[SHARD_COLUMN] for record in records):
            numbers = [n for n, record in enumerate(records) if record[SHARD_COLUMN] == shard]
            with TarShard(storage.join(dataset.path, shard), use_index_file=True) as opened:
                members = [opened.index.image(records[n][dataset.id_col]) for n in numbers]
                for n, data in zip(numbers, opened.read(members), strict=True):
                    record = records[n]
                    key, text = record[dataset.id_col], record.get(captions)
                    cells[n] = _cell(data, f"{shard}: {key}", key, text)
        body = "".join(cells[n] for n in sorted(cells))
        style = "display:flex;flex-wrap:wrap;gap:8px;font:12px sans-serif"
        keys = [record[dataset.id_col] for record in records]
        return cls(f'<div style="{style}">{body}</div>', keys)


def open_image(data: bytes, where: str) -> Image.Image:
    """The picture in some bytes, decoded.

    Raises
    ------
    ImageError
        Naming the sample, when the bytes are no picture or one of too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
            raise ImageError(f"{where}: too large: {image.width}x{image.height} pixels")
        image.load()
    except UnidentifiedImageError as error:
        raise ImageError(f"{where}: not an image") from error
    except ImageError:
        raise
    # Pillow's readers raise whatever damaged bytes lead them to.
    except Exception as error:
        raise ImageError(f"{where}: {error}") from error
    return image


def _cell(data: bytes | None, where: str, key: str | None, caption: object) -> str:
    try:
        picture = _thumbnail(data, where)
    except ImageError as error:
        picture = f"<em>{html.escape(str(error))}</em>"
    words = "" if caption is None else str(caption)
    text = f"<b>{html.escape(str(key))}</b><br>{html.escape(words)}"
    return f'<figure style="width:{_THUMBNAIL}px;margin:0">{picture}<br>{text}</figure>'


def _thumbnail(data: bytes | None, where: str) -> str:
    if data is None:
        raise ImageError(f"{where}: missing")
    image = open_image(data, where).convert("RGB")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
