"""The endpoints that tell of the service, and that of stored images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.convertors import PathConvertor, register_url_convertor

from nemo_image_curate.serve.images import media_type
from nemo_image_curate.serve.models import Health, Stats
from nemo_image_curate.serve.openapi import errors
from nemo_image_curate.serve.problems import problem
from nemo_image_curate.serve.service import service_of
from nemo_image_curate.serve.thumbnails import MAX_SIDE, MIN_SIDE


class _KeyConvertor(PathConvertor):
    # Starlette's own ends at a line break, which is a character like others in a key.
    regex = r"[\s\S]*"


register_url_convertor("key", _KeyConvertor())
router = APIRouter(tags=["service"])
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get("/health", response_model=Health, responses=errors(503))
async def health(request: Request) -> Response | Health:
    """Whether the model is loaded; open to all."""
    service = service_of(request)
    if service.ready:
        return Health()
    if service.failure:
        return problem(503, f"the model cannot be loaded: {service.failure}")
    return problem(503, "the model is being loaded.", headers={"Retry-After": "1"})


@router.get("/stats", responses=errors(401))
async def stats(request: Request) -> Stats:
    """What is served, and how it went so far."""
    return Stats(**await service_of(request).stats())


@router.get(
    "/images/{key:key}",
    response_class=Response,
    responses={
        200: {
            "description": "The file, as it was indexed; with `size` a JPEG of it.",
            "content": {"image/*": _BINARY},
        },
        **errors(401, 404, 422),
    },
)
def image(
    request: Request,
    key: Annotated[str, Path(min_length=1, max_length=500)],
    shard: Annotated[
        str | None, Query(max_length=4096, description="Needed when several have this key.")
    ] = None,
    size: Annotated[
        int | None,
        Query(
            ge=MIN_SIDE,
            le=MAX_SIDE,
            description="A thumbnail instead: a JPEG with at most so many pixels a side.",
            examples=[256],
        ),
    ] = None,
) -> Response:
    """A stored image, or a thumbnail of it."""
    service = service_of(request)
    if size is None:
        data = service.images.stored(key, shard)
    else:
        data = service.thumbnails.get(key, shard, size)
    headers = {
        # Should a browser take it for a page after all, then for one that may do nothing.
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, max-age=3600",
    }
    return Response(data, headers=headers, media_type=media_type(data))
