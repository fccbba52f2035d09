"""The endpoints that search."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi import Query as Parameter
from starlette.exceptions import HTTPException

from nemo_image_curate.search.query import MIN_K, Query
from nemo_image_curate.serve import simple_forms
from nemo_image_curate.serve.content_type import FORM, JSON, content_type, json_only
from nemo_image_curate.serve.models import (
    MAX_K,
    CaptionQuery,
    Hits,
    HybridQuery,
    ImageData,
    ImageKey,
    ImagePath,
    ImageQuery,
    Similarities,
)
from nemo_image_curate.serve.openapi import QUERY_ERRORS, form_or_json
from nemo_image_curate.serve.problems import wrong_form
from nemo_image_curate.serve.service import Service, service_of
from nemo_image_curate.serve.simple_forms import (
    PairBody,
    PairSimilarity,
    SimplePair,
    SimpleResults,
    SimpleTextQuery,
    SimpleUpload,
    TextBody,
    TextResults,
)

router = APIRouter(tags=["search"], responses=QUERY_ERRORS)
JSON_ONLY = [Depends(json_only)]
AnyImageQuery = TypeVar("AnyImageQuery", ImageQuery, CaptionQuery)
Count = Annotated[
    int | None,
    Parameter(ge=MIN_K, le=MAX_K, description="With a form: at most so many results."),
]


@router.post("/search/text-to-image", dependencies=JSON_ONLY)
async def text_to_image(query: TextBody, request: Request) -> Hits | TextResults:
    """Find images that fit a text."""
    service = service_of(request)
    if isinstance(query, SimpleTextQuery):
        return await simple_forms.text_to_image(query, service)
    return await service.search(Query(**query.model_dump()))


@router.post("/search/similar-images", openapi_extra=form_or_json(SimpleUpload, ImageQuery))
async def similar_images(request: Request, n: Count = None) -> Hits | SimpleResults:
    """Find images like an image, which is not among them itself.

    That is an indexed one that is named by its key, or stored files that are byte by byte the
    uploaded one. Of an image that JSON carries or names by a path all hits are shown.
    """
    if content_type(request) == FORM:
        return await simple_forms.similar_images(request, service_of(request))
    return await _search(await _json(request, n, ImageQuery), request)


@router.post("/search/image-to-text", openapi_extra=form_or_json(SimpleUpload, CaptionQuery))
async def image_to_text(request: Request, n: Count = None) -> Hits | SimpleResults:
    """Find captions that fit an image."""
    if content_type(request) == FORM:
        return await simple_forms.image_to_text(request, service_of(request))
    return await _search(await _json(request, n, CaptionQuery), request, over="texts")


@router.post("/search/hybrid", dependencies=JSON_ONLY)
async def hybrid(query: HybridQuery, request: Request) -> Hits:
    """Find images that fit a text and an image together."""
    return await _search(query, request)


@router.post("/similarity", dependencies=JSON_ONLY)
async def similarity(query: PairBody, request: Request) -> Similarities | PairSimilarity:
    """Compare each text with each image."""
    service = service_of(request)
    if isinstance(query, SimplePair):
        return await simple_forms.similarity(query, service)
    images = await asyncio.to_thread(service.images.read_all, query.images)
    similarities = await service.with_images(service.searcher.similarity, query.texts, images)
    return Similarities(similarities=similarities.tolist())


async def _json(request: Request, n: int | None, model: type[AnyImageQuery]) -> AnyImageQuery:
    """The query in a body of JSON; where a form is taken, too, FastAPI does not read it."""
    if content_type(request) != JSON:
        raise HTTPException(415, f"send {FORM} or {JSON}.")
    if n is not None:
        raise HTTPException(422, "n is for forms; JSON has the number of hits in the body, as k.")
    with wrong_form():
        return model.model_validate_json(await request.body())


async def _search(
    query: ImageQuery | CaptionQuery | HybridQuery, request: Request, **more: Any
) -> Hits:
    service = service_of(request)
    options = query.model_dump(exclude={"image"}) | more
    return await service.search(Query(**options, **await _image(query.image, service)))


async def _image(
    image: ImageData | ImagePath | ImageKey | None, service: Service
) -> dict[str, Any]:
    """An image as a query names it; that of a stored one is not decoded and embedded again."""
    if image is None:
        return {}
    if isinstance(image, ImageKey):
        return {"like": image.key, "like_shard": image.shard}
    return {"image": await asyncio.to_thread(service.images.read, image)}
