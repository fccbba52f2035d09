"""The type of a request's body."""

from __future__ import annotations

from fastapi import Request
from starlette.exceptions import HTTPException

FORM, JSON = "multipart/form-data", "application/json"


def content_type(request: Request) -> str:
    """The body's type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_only(request: Request) -> None:
    """Refuse bodies that are not said to be JSON."""
    if content_type(request) != JSON:
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json.")
