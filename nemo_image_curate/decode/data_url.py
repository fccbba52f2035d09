"""Images in data URLs."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote

from nemo_image_curate.decode.reasons import TOO_LARGE
from nemo_image_curate.errors import ConfigError, ImageError


def data_url_content(url: str, max_bytes: int) -> bytes:
    """The bytes in a data URL (RFC 2397), such as ``data:image/png;base64,iVBORw0...``.

    Raises
    ------
    ConfigError
        When it is no data URL, or not one in base64.
    ImageError
        When it holds more than `max_bytes`.
    """
    head, comma, payload = url.partition(",")
    if head[:5].lower() != "data:" or not comma:
        raise ConfigError(f"{url[:40]!r} is no data URL: data:image/jpeg;base64,... is.")
    if not head.lower().endswith(";base64"):
        raise ConfigError(f"the data URL {head[:60]!r},... is not in base64.")
    # Before anything of that size is made; lines and escapes do not make base64 twice its content.
    check_size(len(payload) // 2, max_bytes)
    try:
        content = base64.b64decode("".join(unquote(payload).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"the data URL {head[:60]!r},... is broken: {error}.") from error
    check_size(len(content), max_bytes)
    return content


def check_size(size: int, max_bytes: int) -> None:
    """Refuse an encoded image of too many bytes with `ImageError`."""
    if size > max_bytes:
        raise ImageError(f"{TOO_LARGE}: {size} bytes, limit {max_bytes}")
