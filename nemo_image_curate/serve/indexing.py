"""The endpoints that add to the live store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import TypeAdapter
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from nemo_image_curate.search.live.base import LiveStore
from nemo_image_curate.serve.content_type import (
    FORM,
    JSON,
    content_type,
    json_only,
    opened_form,
)
from nemo_image_curate.serve.models import (
    MAX_ITEMS,
    MAX_KEY,
    Added,
    AddedItems,
    ImagePath,
    NewImages,
    NewTexts,
    Uploads,
)
from nemo_image_curate.serve.openapi import QUERY_ERRORS, form_or_json
from nemo_image_curate.serve.problems import wrong_form
from nemo_image_curate.serve.service import Service, service_of
from nemo_image_curate.serve.simple_forms import (
    ImagesBody,
    SimplePaths,
    TextsBody,
    no_valid_path,
)

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


_NEW_IMAGES: TypeAdapter[NewImages | SimplePaths | list[str]] = TypeAdapter(ImagesBody)
_COLUMNS = ("key", "data", "caption", "metadata")


@router.post(
    "/index/images",
    openapi_extra=form_or_json(
        Uploads,
        ImagesBody,
        {
            "ours": {"images": [{"image": {"path": "/data/photos/dog.jpg"}, "caption": "a dog"}]},
            "simple": ["/data/photos/dog.jpg", "/data/photos/cat.jpg"],
        },
    ),
)
async def index_images(request: Request, store: Store) -> AddedItems:
    """Add images, as files of a form, or named or carried by JSON.

    An image that cannot be decoded is reported and does not keep the others out. One of a key
    that is there already replaces it. In a bare list of paths each path is its image's key, and
    one that cannot be read keeps no other out; where none can, that is an error (400).
    """
    service = service_of(request)
    kind = content_type(request)
    if kind == FORM:
        async with opened_form(request, MAX_ITEMS, 2 * MAX_ITEMS) as form:
            rows = await _uploaded(form)
    elif kind == JSON:
        with wrong_form():
            body = _NEW_IMAGES.validate_json(await request.body())
        if not isinstance(body, NewImages):
            paths = body.paths if isinstance(body, SimplePaths) else body
            return await _add_paths(paths, store, service)
        contents = await asyncio.to_thread(service.images.read_all, [n.image for n in body.images])
        rows = [
            {**new.model_dump(exclude={"image"}), "data": data}
            for new, data in zip(body.images, contents, strict=True)
        ]
    else:
        raise HTTPException(415, f"send {FORM} or {JSON}.")
    for row in rows:
        row["key"] = row["key"] or hashlib.sha256(row["data"]).hexdigest()
    return await _add(rows, store.add_images, _COLUMNS, service)


@router.post("/index/texts", dependencies=[Depends(json_only)])
async def index_texts(new: TextsBody, request: Request, store: Store) -> AddedItems:
    """Add texts, such as captions, to be found by image."""
    texts = new.texts if isinstance(new, NewTexts) else new
    rows: list[dict[str, Any]] = [
        {"text": text, "key": None, "metadata": None}
        if isinstance(text, str)
        else text.model_dump()
        for text in texts
    ]
    for row in rows:
        row["key"] = row["key"] or hashlib.sha256(row["text"].encode()).hexdigest()
    return await _add(rows, store.add_texts, ("key", "text", "metadata"), service_of(request))


async def _uploaded(form: FormData) -> list[dict[str, Any]]:
    """The files of a form with their captions and keys."""
    if unknown := set(form) - set(Uploads.model_fields):
        raise HTTPException(422, f"the form has unknown fields: {', '.join(sorted(unknown))}.")
    files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
    texts = {
        name: [text for text in form.getlist(name) if isinstance(text, str)]
        for name in ("captions", "keys")
    }
    with wrong_form():
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


async def _add_paths(paths: Sequence[str], store: LiveStore, service: Service) -> AddedItems:
    """Add files of this machine; what is wrong with one is said of it."""
    distinct = list(dict.fromkeys(paths))
    errors: dict[str, str | None] = {}
    for start in range(0, len(distinct), _CHUNK):
        rows = []
        for path in distinct[start : start + _CHUNK]:
            if len(path) > MAX_KEY:
                errors[path] = f"the path has more than {MAX_KEY} characters, the most of a key."
                continue
            try:
                data = await asyncio.to_thread(service.images.read, ImagePath(path=path))
                rows.append({"key": path, "data": data, "caption": None, "metadata": None})
            except HTTPException as error:
                errors[path] = error.detail
        added = await _add(rows, store.add_images, _COLUMNS, service)
        errors |= {item.key: item.error for item in added.items}
    if all(errors.values()):
        raise no_valid_path(len(paths), next(iter(errors.values()), "the list is empty."))
    return _answer(paths, errors)


async def _add(
    rows: list[dict[str, Any]],
    add: Callable[..., list[str | None]],
    columns: Sequence[str],
    service: Service,
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
        reasons = await service.with_images(add, *values)
        errors |= zip(values[0], reasons, strict=True)
    return _answer([row["key"] for row in rows], errors)


def _answer(keys: Sequence[str], errors: Mapping[str, str | None]) -> AddedItems:
    """What became of the items of a request, by the keys that it gives them."""
    items = [Added(key=key, error=errors[key]) for key in keys]
    failed = sum(error is not None for error in errors.values())
    return AddedItems(
        added=len(errors) - failed,
        failed=failed,
        indexed=sum(item.error is None for item in items),
        items=items,
    )
