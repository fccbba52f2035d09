"""Links to stored images: a browser that follows one sends no token, so they are signed by it."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from urllib.parse import quote, urlencode

from itsdangerous import TimestampSigner

IMAGES = "/images/"
_HOUR = 3600


def image_url(token: str | None, key: str, shard: str | None) -> str:
    """The path of a stored image; with a token one that works without it for 1 to 2 hours."""
    path = IMAGES + quote(key, safe="")
    query = {} if shard is None else {"shard": shard}
    if token:
        image = _name(key, shard)
        query["signature"] = _Signer.of(token).sign(image).decode().removeprefix(f"{image}.")
    return f"{path}?{urlencode(query)}" if query else path


def is_signed(token: str, key: str, shard: str | None, signature: str) -> bool:
    """Whether a signature is that of `image_url` for an image, and of this hour or the last."""
    signed = f"{_name(key, shard)}.{signature}"
    return _Signer.of(token).validate(signed, max_age=_HOUR)


def _name(key: str, shard: str | None) -> str:
    # As JSON no image's name is the beginning of another's. It is ASCII.
    return json.dumps([key, shard])


class _Signer(TimestampSigner):
    @classmethod
    def of(cls, token: str) -> _Signer:
        return cls(token, salt="nemo_image_curate image", digest_method=hashlib.sha256)

    def get_timestamp(self) -> int:
        # Whole hours: the same link again can be answered from a browser's cache.
        return int(time.time()) // _HOUR * _HOUR

    def verify_signature(self, value: str | bytes, sig: str | bytes) -> bool:
        # To the letter: the base64 of 32 bytes has four spellings, and more with what is no base64.
        signature = sig.encode() if isinstance(sig, str) else sig
        return secrets.compare_digest(self.get_signature(value), signature)
