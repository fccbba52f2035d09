"""The endpoints that search."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request

from nemo_image_curate.search.query import Query
from nemo_image_curate.serve.content_type import json_only
from nemo_image_curate.serve.models import (
    CaptionQuery,
    Hits,
    HybridQuery,
    ImageData,
    ImageKey,
    ImagePath,
    ImageQuery,
    Similarities,
    SimilarityQuery,
    TextQuery,
)
from nemo_image_curate.serve.openapi import QUERY_ERRORS
from nemo_image_curate.serve.service import Service, service_of

router = APIRouter(tags=["search"], responses=QUERY_ERRORS, dependencies=[Depends(json_only)])


@router.post("/search/text-to-image")
async def text_to_image(query: TextQuery, request: Request) -> Hits:
    """Find images that fit a text."""
    return await service_of(request).search(Query(**query.model_dump()))


@router.post("/search/similar-images")
async def similar_images(query: ImageQuery, request: Request) -> Hits:
    """Find images like an image; an indexed one, named by its key, is not among the hits."""
    return await _search(query, request)


@router.post("/search/image-to-text")
async def image_to_text(query: CaptionQuery, request: Request) -> Hits:
    """Find captions that fit an image."""
    return await _search(query, request, over="texts")


@router.post("/search/hybrid")
async def hybrid(query: HybridQuery, request: Request) -> Hits:
    """Find images that fit a text and an image together."""
    return await _search(query, request)


@router.post("/similarity")
async def similarity(query: SimilarityQuery, request: Request) -> Similarities:
    """Compare each text with each image."""
    service = service_of(request)
    images = [await asyncio.to_thread(service.images.read, image) for image in query.images]
    similarities = await service.with_images(service.searcher.similarity, query.texts, images)
    return Similarities(similarities=similarities.tolist())


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
