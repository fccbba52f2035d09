"""Requests as clients of simpler services send them, beside ours, and the answers they expect.

Tutorials that put CLIP and a vector database behind FastAPI have the same paths as this service
and plainer bodies: bare lists, ``query`` with ``n_results``, a file of a form. What is asked in
that form is answered in that form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Body, Request, UploadFile
from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, Tag
from starlette.exceptions import HTTPException

from nemo_image_curate.errors import CurateError, ImageError
from nemo_image_curate.search.query import MIN_K, Query
from nemo_image_curate.serve.content_type import opened_form
from nemo_image_curate.serve.models import (
    MAX_ITEMS,
    MAX_K,
    HitAnswer,
    ImagePath,
    NewImages,
    NewTexts,
    SimilarityQuery,
    StrictModel,
    Text,
    TextQuery,
)
from nemo_image_curate.serve.problems import wrong_form
from nemo_image_curate.serve.service import Service

# What clients call the number of results; the first is what the documentation calls it.
_COUNTS = ("n_results", "top_k", "k", "limit", "n")
# Stored copies of an uploaded image that are left out of those like it; and from which cosine
# similarity on a hit is compared byte by byte. Encoders give the same file slightly different
# vectors in different batches and on different devices.
_COPIES, _ALIKE = 16, 0.99

# It is the key of its image, so that it is what results are told apart by.
Path = Annotated[str, Field(min_length=1, max_length=4096, examples=["/data/photos/dog.jpg"])]
# An empty list has no valid path, which is answered as for any list that has none.
Paths = Annotated[list[Path], Field(max_length=MAX_ITEMS)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_ITEMS)]


class SimpleTextQuery(StrictModel):
    """Images for a text; also with `text` for `query`, and `top_k`, `k`, `limit` or `n`."""

    query: Text = Field(validation_alias=AliasChoices("query", "text"))
    n_results: int = Field(Query.k, ge=MIN_K, le=MAX_K, validation_alias=AliasChoices(*_COUNTS))


class SimplePair(StrictModel):
    """A text and an image of the service's machine, to be compared."""

    text: Text
    image_path: str = Field(min_length=1, max_length=4096, examples=["/data/photos/dog.jpg"])


class SimplePaths(StrictModel):
    """Images of the service's machine to add."""

    paths: Paths


class SimpleUpload(BaseModel):
    """A file of a form, also called `image`; the number of results also in the query string."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(validation_alias=AliasChoices("file", "image"))
    n: int = Field(Query.k, ge=MIN_K, le=MAX_K, validation_alias=AliasChoices("n", *_COUNTS[:-1]))


class SimpleResult(BaseModel):
    """One image, or one text, that was found."""

    id: str = Field(description="The key.")
    path: str | None = Field(
        description="The file's path, for an image that was added by it; else shard and key, or "
        "the key; null for a text that was added."
    )
    text: str | None = Field(description="The text, or the image's caption.")
    score: float = Field(description="Cosine similarity.")
    metadata: dict[str, Any]
    url: str | None = Field(description="The image, on this service.")


class SimpleResults(BaseModel):
    """What was found, the best first."""

    results: list[SimpleResult]


class TextResults(SimpleResults):
    """What was found for a text, the best first."""

    query: str


class PairSimilarity(BaseModel):
    """How well a text fits an image."""

    text: str
    image: str
    similarity: float = Field(description="Cosine similarity, -1 to 1.")


def _form_of(value: Any, own_form: str, simple: str, names: frozenset[str]) -> str:
    """Which of two forms a body is of: the simple one where it has one of its names."""
    return simple if isinstance(value, dict) and names & value.keys() else own_form


def _text_form(value: Any) -> str:
    names = frozenset({"query", *_COUNTS} - {"k"})
    return _form_of(value, "TextQuery", "SimpleTextQuery", names)


def _pair_form(value: Any) -> str:
    return _form_of(value, "SimilarityQuery", "SimplePair", frozenset({"text", "image_path"}))


def _images_form(value: Any) -> str:
    if isinstance(value, list):
        return "paths"
    return _form_of(value, "NewImages", "SimplePaths", frozenset({"paths"}))


def _texts_form(value: Any) -> str:
    return "texts" if isinstance(value, list) else "NewTexts"


TextBody = Annotated[
    Annotated[TextQuery, Tag("TextQuery")] | Annotated[SimpleTextQuery, Tag("SimpleTextQuery")],
    Discriminator(_text_form),
    Body(
        openapi_examples={
            "ours": {"value": {"text": "a dog on the beach", "k": 5, "where": "width >= 256"}},
            "simple": {"value": {"query": "a dog on the beach", "n_results": 5}},
        }
    ),
]
PairBody = Annotated[
    Annotated[SimilarityQuery, Tag("SimilarityQuery")] | Annotated[SimplePair, Tag("SimplePair")],
    Discriminator(_pair_form),
    Body(
        openapi_examples={
            "ours": {"value": {"texts": ["a dog"], "images": [{"key": "000000012"}]}},
            "simple": {"value": {"text": "a dog", "image_path": "/data/photos/dog.jpg"}},
        }
    ),
]
ImagesBody = Annotated[
    Annotated[NewImages, Tag("NewImages")]
    | Annotated[SimplePaths, Tag("SimplePaths")]
    | Annotated[Paths, Tag("paths")],
    Discriminator(_images_form),
]
TextsBody = Annotated[
    Annotated[NewTexts, Tag("NewTexts")] | Annotated[Texts, Tag("texts")],
    Discriminator(_texts_form),
    Body(
        openapi_examples={
            "ours": {"value": {"texts": [{"text": "a dog", "key": "12"}]}},
            "simple": {"value": ["a dog", "two boats"]},
        }
    ),
]


async def text_to_image(query: SimpleTextQuery, service: Service) -> TextResults:
    """Images for a text."""
    result = await service.search(Query(text=query.query, k=query.n_results))
    return TextResults(query=query.query, results=_results(result.hits))


async def image_to_text(request: Request, service: Service) -> SimpleResults:
    """Texts for an uploaded image."""
    image, n = await _uploaded(request)
    result = await service.search(Query(image=image, k=n, over="texts"))
    return SimpleResults(results=_results(result.hits))


async def similar_images(request: Request, service: Service) -> SimpleResults:
    """Images like an uploaded one, which is left out itself: hits that are the very same file."""
    image, n = await _uploaded(request)
    result = await service.search(Query(image=image, k=n + _COPIES))
    copies = await asyncio.to_thread(_copies, image, result.hits[:_COPIES], service)
    others = [hit for hit in result.hits if (hit.shard, hit.key) not in copies]
    return SimpleResults(results=_results(others[:n]))


async def similarity(pair: SimplePair, service: Service) -> PairSimilarity:
    """How well a text fits an image of the service's machine."""
    try:
        image = await asyncio.to_thread(service.images.read, ImagePath(path=pair.image_path))
        (row,) = await service.with_images(service.searcher.similarity, [pair.text], [image])
    except (HTTPException, ImageError) as error:
        raise no_valid_path(1, error) from error
    return PairSimilarity(text=pair.text, image=pair.image_path, similarity=float(row[0]))


def no_valid_path(n: int, reason: Any) -> HTTPException:
    """What is answered when none of `n` paths is a readable picture below the roots."""
    text = reason.detail if isinstance(reason, HTTPException) else reason
    return HTTPException(400, f"no valid path among {n}: {text}")


async def _uploaded(request: Request) -> tuple[bytes, int]:
    """The file of a form, and how many results are wanted."""
    async with opened_form(request, 1, len(_COUNTS)) as form:
        with wrong_form():
            upload = SimpleUpload.model_validate({**request.query_params, **form})
        return await upload.file.read(), upload.n


def _copies(
    image: bytes, hits: Sequence[HitAnswer], service: Service
) -> set[tuple[str | None, str]]:
    """Which hits are the same file as an image, to the last byte."""
    same = set()
    for hit in hits:
        if hit.score < _ALIKE:
            break
        try:
            stored = service.images.stored(hit.key, hit.shard)
        except (HTTPException, CurateError, OSError):
            # Of what cannot be read nobody can say that it is the same.
            continue
        if stored == image:
            same.add((hit.shard, hit.key))
    return same


def _results(hits: Sequence[HitAnswer]) -> list[SimpleResult]:
    return [
        SimpleResult(
            id=hit.key,
            path=f"{hit.shard}/{hit.key}" if hit.shard else hit.key if hit.url else None,
            text=hit.caption,
            score=hit.score,
            metadata=hit.metadata,
            url=hit.url,
        )
        for hit in hits
    ]
