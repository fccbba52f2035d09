"""The type of a request's body, and forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

FORM, JSON = "multipart/form-data", "application/json"


def content_type(request: Request) -> str:
    """The body's type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_only(request: Request) -> None:
    """Refuse bodies that are not said to be JSON."""
    if content_type(request) != JSON:
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json.")


@asynccontextmanager
async def opened_form(request: Request, max_files: int, max_fields: int) -> AsyncIterator[FormData]:
    """The form in the body; its files are closed in the end."""
    if "boundary=" not in request.headers["content-type"].lower():
        raise HTTPException(
            400, "the form has no boundary: leave Content-Type to the library that sends the form."
        )
    try:
        form = await request.form(max_files=max_files, max_fields=max_fields)
    except UnicodeError as error:
        # Python knows character sets that nothing can be read in, such as "undefined".
        raise HTTPException(400, f"the form cannot be read: {error}. Send it as UTF-8.") from error
    try:
        yield form
    finally:
        await form.close()
