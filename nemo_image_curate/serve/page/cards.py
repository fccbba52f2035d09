"""What searches found, and what is told, as HTML: every text from elsewhere is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo_image_curate import html

# Characters of a caption in the name of a picture, and of a key below it.
_ALT, _KEY = 120, 40
# Shows a picture: its JPEG, the reason why there is none, or None while it is on its way.
Picture = bytes | str | None


def grid(hits: Sequence[dict[str, Any]], pictures: Sequence[Picture], service: str) -> str:
    """Hits side by side, the best first; each is a link to its original at the service.

    Parameters
    ----------
    hits : sequence of dict
        As the service answers.
    pictures : sequence of bytes, str or None
        A JPEG of each hit; the reason why there is none; None while it is on its way.
    service : str
        The URL of the service for a browser.
    """
    cells = (_cell(*pair, service) for pair in zip(hits, pictures, strict=True))
    return f'<ol class="hits">{"".join(cells)}</ol>'


def _cell(hit: dict[str, Any], picture: Picture, service: str) -> str:
    caption, key = hit["caption"], _shortened(hit["key"], _KEY)
    words = f'<p class="words">{html.escape(caption)}</p>' if caption else _NO_CAPTION
    alike = f", {hit['similar']} more alike" if hit["similar"] else ""
    facts = f"<b>{hit['score']:.3f}</b>{alike} · {html.escape(key)}"
    image = _picture(picture, _shortened(caption or hit["key"], _ALT))
    return (
        f'<li><a href="{html.escape(service + hit["url"])}" target="_blank" '
        f'title="The original, in a new tab">{image}</a>{words}<div class="facts">{facts}</div>'
        f"<details><summary>All columns</summary>{_columns(hit)}</details></li>"
    )


_NO_CAPTION = '<p class="words none">no caption</p>'


def _picture(picture: Picture, alt: str) -> str:
    if isinstance(picture, bytes):
        inside = html.picture(picture, alt)
    else:
        inside = "" if picture is None else html.reason(f"cannot be shown: {picture}")
    return f'<div class="picture">{inside}</div>'


def _columns(hit: dict[str, Any]) -> str:
    """All that the service tells of a hit."""
    facts = {"score": hit["score"], "key": hit["key"], "shard": hit["shard"]}
    rows = [(name, html.number(value)) for name, value in (facts | hit["metadata"]).items()]
    return html.table(["column", "value"], rows)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def count_line(count: int, seconds: float) -> str:
    """How many were found, and how long the service took; read out by screen readers."""
    images = "1 image" if count == 1 else f"{count:,} images"
    return f'<p class="told" role="status"><b>{images}</b>, the best first; {seconds:.2f} s</p>'


def served(stats: dict[str, Any]) -> str:
    """What is searched, and by which encoder."""
    counts = f"{stats['images']:,} images, {stats['texts']:,} texts"
    return f'<p class="told">{counts}<br>{html.escape(stats["encoder"] or "")}</p>'


def hint(*lines: str) -> str:
    """What to do next, in sentences."""
    return _box("hint", "status", lines)


def problem(*lines: str) -> str:
    """What went wrong and what to do about it, in sentences."""
    return _box("problem", "alert", lines)


def _box(kind: str, role: str, lines: Sequence[str]) -> str:
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    return f'<div class="{kind}" role="{role}">{paragraphs}</div>'
