"""`Guard`: what is refused before a request's body is read."""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemo_image_curate.serve.documentation import FILES, PAGE
from nemo_image_curate.serve.links import IMAGES, is_signed
from nemo_image_curate.serve.problems import problem
from nemo_image_curate.serve.settings import Settings

# The documentation holds no data, and a browser could not send the token for it.
_OPEN = frozenset({"/health", PAGE, "/openapi.json"})


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
        path = scope["path"]
        is_open = path in _OPEN or path.startswith(f"{FILES}/")
        if token and not is_open and not self._may_pass(scope, headers, token):
            return problem(
                401,
                "this service wants a token: send the header Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if scope["method"] == "POST" and self._is_foreign(headers):
            return problem(403, f"requests from pages of {headers['origin']} are not allowed.")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.settings.max_body:
            return problem(413, _too_large(self.settings.max_body))
        return None

    def _may_pass(self, scope: Scope, headers: Headers, token: str) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(credentials.strip(), token):
            return True
        if scope["method"] != "GET" or not scope["path"].startswith(IMAGES):
            return False
        # As the endpoint reads them: of several the same one counts.
        query = QueryParams(scope["query_string"])
        key = scope["path"][len(IMAGES) :]
        return is_signed(token, key, query.get("shard"), query.get("signature", ""))

    def _is_foreign(self, headers: Headers) -> bool:
        """Whether a browser sends this for a page of another site.

        Such a page may send a form with a file to any address, a local one too, and be kept only
        from reading the answer.
        """
        origin = headers.get("origin")
        if origin is None or {origin, "*"} & set(self.settings.cors_origins):
            return False
        host = headers.get("host")
        return origin not in (f"http://{host}", f"https://{host}")


def _same(first: str, second: str) -> bool:
    # Takes as long wherever they differ.
    return secrets.compare_digest(first.encode(), second.encode())


def _too_large(limit: int) -> str:
    return f"the request has more than {limit} bytes, which is the limit of this service."
