"""The endpoints that add to the live store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from nemo_image_curate.search.live.base import LiveStore
from nemo_image_curate.serve.content_type import content_type, json_only
from nemo_image_curate.serve.models import (
    MAX_ITEMS,
    Added,
    AddedItems,
    NewImages,
    NewTexts,
    Uploads,
)
from nemo_image_curate.serve.openapi import IMAGES_BODY, QUERY_ERRORS
from nemo_image_curate.serve.service import service_of

# Images embedded at once: queries by image wait at most so long.
_CHUNK = 16


async def live_store(request: Request) -> LiveStore:
    """The store that takes what is added."""
    store = service_of(request).store
    if store is None:
        raise HTTPException(
            409,
            "this service has no store to add to. Start it with one: nemo-image-curate serve "
            "DATASET --store PLACE, or create_app(..., store=ChromaStore(PLACE, embedder)).",
        )
    return store


router = APIRouter(tags=["index"], responses=QUERY_ERRORS)
Store = Annotated[LiveStore, Depends(live_store)]


@router.post("/index/images", openapi_extra=IMAGES_BODY)
async def index_images(request: Request, store: Store) -> AddedItems:
    """Add images, as files of a form, or named or carried by JSON.

    An image that cannot be decoded is reported and does not keep the others out. One of a key
    that is there already replaces it.
    """
    service = service_of(request)
    kind = content_type(request)
    rows: list[dict[str, Any]]
    if kind == "multipart/form-data":
        async with request.form(max_files=MAX_ITEMS, max_fields=2 * MAX_ITEMS) as form:
            rows = await _uploaded(form)
    elif kind == "application/json":
        body = await request.body()
        with _wrong_form():
            images = NewImages.model_validate_json(body).images
        rows = []
        for new in images:
            data = await asyncio.to_thread(service.images.read, new.image)
            rows.append({**new.model_dump(exclude={"image"}), "data": data})
    else:
        raise HTTPException(415, "send multipart/form-data or application/json.")
    for row in rows:
        row["key"] = row["key"] or hashlib.sha256(row["data"]).hexdigest()
    return await _add(rows, store.add_images, ("key", "data", "caption", "metadata"), request)


@router.post("/index/texts", dependencies=[Depends(json_only)])
async def index_texts(new: NewTexts, request: Request, store: Store) -> AddedItems:
    """Add texts, such as captions, to be found by image."""
    rows = [text.model_dump() for text in new.texts]
    for row in rows:
        row["key"] = row["key"] or hashlib.sha256(row["text"].encode()).hexdigest()
    return await _add(rows, store.add_texts, ("key", "text", "metadata"), request)


@contextmanager
def _wrong_form() -> Iterator[None]:
    """Have what a model refuses answered as FastAPI answers for those that it knows of."""
    try:
        yield
    except ValidationError as error:
        errors = [{**part, "loc": ("body", *part["loc"])} for part in error.errors()]
        raise RequestValidationError(errors) from error


async def _uploaded(form: FormData) -> list[dict[str, Any]]:
    """The files of a form with their captions and keys."""
    if unknown := set(form) - set(Uploads.model_fields):
        raise HTTPException(422, f"the form has unknown fields: {', '.join(sorted(unknown))}.")
    files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
    texts = {
        name: [text for text in form.getlist(name) if isinstance(text, str)]
        for name in ("captions", "keys")
    }
    with _wrong_form():
        Uploads(files=[file.filename or "" for file in files], **texts)
    for name, values in texts.items():
        if values and len(values) != len(files):
            raise HTTPException(
                422, f"{len(values)} {name} for {len(files)} files: give one for each, or none."
            )
    captions = texts["captions"] or [""] * len(files)
    keys = texts["keys"] or [""] * len(files)
    return [
        {"data": await file.read(), "caption": caption or None, "key": key, "metadata": None}
        for file, caption, key in zip(files, captions, keys, strict=True)
    ]


async def _add(
    rows: list[dict[str, Any]],
    add: Callable[..., list[str | None]],
    columns: Sequence[str],
    request: Request,
) -> AddedItems:
    """Add rows part by part; the same thing twice is added once."""
    distinct: dict[str, dict[str, Any]] = {}
    for row in rows:
        if distinct.setdefault(row["key"], row) != row:
            raise HTTPException(422, f"two different items have the key {row['key']!r}.")
    errors: dict[str, str | None] = {}
    for start in range(0, len(distinct), _CHUNK):
        part = list(distinct.values())[start : start + _CHUNK]
        values = [[row[name] for row in part] for name in columns]
        reasons = await service_of(request).with_images(add, *values)
        errors |= zip(values[0], reasons, strict=True)
    failed = sum(error is not None for error in errors.values())
    return AddedItems(
        added=len(errors) - failed,
        failed=failed,
        items=[Added(key=row["key"], error=errors[row["key"]]) for row in rows],
    )
