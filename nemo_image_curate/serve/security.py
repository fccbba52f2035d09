"""What is refused before a request's body is read, and what happens when its client goes away."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemo_image_curate.serve.problems import problem
from nemo_image_curate.serve.settings import Settings

# The documentation holds no data, and a browser could not send the token for it.
_OPEN = frozenset({"/health", "/docs", "/openapi.json"})
IMAGES = "/images/"
_HOUR = 3600


def image_url(token: str | None, key: str, shard: str | None) -> str:
    """The path of a stored image; with a token one that works without it for 1 to 2 hours.

    A browser that follows a link sends no token. The signature, an HMAC-SHA256 with the token as
    its key, is for this image alone.
    """
    path = IMAGES + quote(key, safe="")
    query = {} if shard is None else {"shard": shard}
    if token:
        # Whole hours: the same link again can be answered from a browser's cache.
        expires = str((int(time.time()) // _HOUR + 2) * _HOUR)
        query |= {"expires": expires, "signature": _signature(token, key, shard or "", expires)}
    return f"{path}?{urlencode(query)}" if query else path


def _signature(token: str, key: str, shard: str, expires: str) -> str:
    # The lengths keep ("a", "bc") and ("ab", "c") apart.
    said = f"{len(key)} {len(shard)} {key}{shard}{expires}"
    return hmac.new(token.encode(), said.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware: token, other web sites' requests, and the size of the body."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, send)
            return
        limit, seen = self.settings.max_body, 0

        async def counting() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # Not only what the header says: a chunked body has no Content-Length.
            if seen > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        await self.app(scope, counting, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        token = self.settings.token
        if token and scope["path"] not in _OPEN and not self._may_pass(scope, headers, token):
            return problem(
                401,
                "this service wants a token: send the header Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if scope["method"] == "POST" and self._is_foreign(headers):
            return problem(403, f"requests from pages of {headers['origin']} are not allowed.")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.settings.max_body:
            return problem(413, _too_large(self.settings.max_body))
        return None

    def _may_pass(self, scope: Scope, headers: Headers, token: str) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), token):
            return True
        if scope["method"] != "GET" or not scope["path"].startswith(IMAGES):
            return False
        query = parse_qs(scope["query_string"].decode("latin-1"))
        shard, expires, signature = (
            query.get(name, [""])[0] for name in ("shard", "expires", "signature")
        )
        key = scope["path"][len(IMAGES) :]
        return (
            expires.isascii()
            and expires.isdigit()
            and _same(signature, _signature(token, key, shard, expires))
            and int(expires) > time.time()
        )

    def _is_foreign(self, headers: Headers) -> bool:
        """Whether a browser sends this for a page of another site.

        Such a page may send a form with a file to any address, a local one too, and be kept only
        from reading the answer.
        """
        origin = headers.get("origin")
        if origin is None or {origin, "*"} & set(self.settings.cors_origins):
            return False
        return urlsplit(origin).netloc != headers.get("host")


def _same(given: str, wanted: str) -> bool:
    # Takes as long wherever they differ.
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))


def _too_large(limit: int) -> str:
    return f"the request has more than {limit} bytes, which is the limit of this service."


class HangUp:
    """ASGI middleware: work for a client that has gone is given up."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        whole, answering = asyncio.Event(), False

        async def receiving() -> Message:
            message = await receive()
            if not message.get("more_body"):
                whole.set()
            return message

        async def sending(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        async def gone() -> None:
            # Before the body has come the application reads, and sees it for itself.
            await whole.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        asking = asyncio.ensure_future(self.app(scope, receiving, sending))
        watching = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({asking, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and not answering:
                asking.cancel()
                await asyncio.wait({asking})
            if not asking.cancelled():
                await asking
        finally:
            asking.cancel()
            watching.cancel()
