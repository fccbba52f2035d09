"""Errors as problem details (RFC 9457): one shape for whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from nemo_image_curate.errors import (
    BackendError,
    CurateError,
    DatasetError,
    EncoderMismatchError,
    WeightsError,
)
from nemo_image_curate.serve.batching import BusyError

MEDIA_TYPE = "application/problem+json"
# The others of ours are about what the request says: 422.
_STATUSES = (
    # There is no such image, or no such shard.
    (DatasetError, 404),
    # Nothing that a client could ask otherwise.
    (EncoderMismatchError, 503),
    (BackendError, 503),
    (WeightsError, 503),
)
_TYPE = "urn:nemo-image-curate:"


def problem(
    status: int,
    detail: str,
    kind: str = "about:blank",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """A response that says what is wrong.

    Parameters
    ----------
    status : int
    detail : str
        For people: what, and what to do about it.
    kind : str
        For programs: a URI for this kind of problem; ``about:blank`` says no more than `status`.
    headers : mapping, optional
    **more
        Further members.
    """
    body = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    content = json.dumps(body | more, ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, status, headers, MEDIA_TYPE)


@contextmanager
def wrong_form() -> Iterator[None]:
    """Have what a model refuses answered as FastAPI answers for those that it knows of."""
    try:
        yield
    except ValidationError as error:
        errors = [{**part, "loc": ("body", *part["loc"])} for part in error.errors()]
        raise RequestValidationError(errors) from error


def install(app: FastAPI) -> None:
    """Have an application answer every error this way."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(CurateError, _ours)
    app.add_exception_handler(BusyError, _busy)


async def _http(request: Request, error: Any) -> Response:
    detail = str(error.detail)
    # What Python's reader of JSON stumbled over, FastAPI does not say.
    if detail == "There was an error parsing the body":
        detail = (
            "the body cannot be read: send JSON in UTF-8, not nested a thousand deep, and without "
            "numbers of thousands of digits."
        )
    # Of no route Starlette says no more than the status does.
    if detail == HTTPStatus(error.status_code).phrase:
        path = request.url.path
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = f"there is nothing at {path}; /docs lists what there is."
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{path} is not for {request.method}; /docs lists what there is."
    return problem(error.status_code, detail, headers=error.headers)


async def _validation(request: Request, error: Any) -> Response:
    # Not "input" and "ctx": the first repeats what was sent, the second may not be JSON.
    errors = [{name: part[name] for name in ("loc", "msg", "type")} for part in error.errors()]
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    detail = f"{where}: {first['msg']}" if where else str(first["msg"])
    return problem(422, detail, f"{_TYPE}ValidationError", errors=errors)


async def _ours(request: Request, error: Any) -> Response:
    status = next((code for kind, code in _STATUSES if isinstance(error, kind)), 422)
    return problem(status, str(error), f"{_TYPE}{type(error).__name__}")


async def _busy(request: Request, error: Any) -> Response:
    detail = "too many queries are waiting for the encoder. Try again in a moment."
    return problem(503, detail, headers={"Retry-After": "1"})
