"""A grid of pictures with their captions, as HTML for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ImageError

_THUMBNAIL = 192


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
        table = frames.to_arrow(rows)
        keys, shards = table[dataset.id_col].to_pylist(), table[SHARD_COLUMN].to_pylist()
        texts = table[captions].to_pylist() if captions in names else [None] * len(keys)
        places = [f"{shard}: {key}" for shard, key in zip(shards, keys, strict=True)]
        pictures = [reason(f"{place}: missing") for place in places]
        for row, content, problem in dataset.tars.image_bytes(keys, shards, use_index_files=True):
            if content is not None:
                pictures[row] = picture(content, places[row])
            else:
                pictures[row] = reason(f"{places[row]}: {problem}")
        cells = map(_cell, pictures, keys, texts)
        style = "display:flex;flex-wrap:wrap;gap:8px;font:12px sans-serif"
        return cls(f'<div style="{style}">{"".join(cells)}</div>', keys)


def _cell(picture: str, key: str | None, caption: object) -> str:
    words = "" if caption is None else str(caption)
    text = f"<b>{html.escape(str(key))}</b><br>{html.escape(words)}"
    return f'<figure style="width:{_THUMBNAIL}px;margin:0">{picture}<br>{text}</figure>'


def reason(text: str) -> str:
    """HTML that stands in the place of a picture."""
    return f"<em>{html.escape(text)}</em>"


def picture(content: bytes, place: str) -> str:
    """An image as HTML that needs no file, at most 192 pixels wide and high.

    Parameters
    ----------
    content : bytes
        Encoded.
    place : str
        Where it is from, for what stands in its place when it cannot be decoded.
    """
    try:
        image = Image.fromarray(decode_rgb(content))
    except ImageError as error:
        return reason(f"{place}: {error}")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
