"""The OpenAPI document: errors, uploads and the token, which FastAPI cannot know of itself."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from nemo_image_curate.serve.content_type import FORM, JSON
from nemo_image_curate.serve.models import Problem
from nemo_image_curate.serve.problems import MEDIA_TYPE

_SCHEMA = "#/components/schemas/{model}"
_MEANINGS = {
    400: "The body cannot be read.",
    401: "The token is missing or wrong.",
    403: "Not allowed: a path outside the roots, or a page of another site.",
    404: "There is no such image, or no such file.",
    409: "Not possible with what this service was started with.",
    413: "The body is too large.",
    415: "The body is of another type.",
    421: "The header Host names another service: see Settings(allowed_hosts=...).",
    422: "The request is not usable.",
    500: "An unforeseen error.",
    503: "Not ready, or too many queries are waiting.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route documents of its errors, beside those of every route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _SCHEMA.format(model="Problem")}}}
    return {
        status: {"description": _MEANINGS[status], "content": content}
        for status in sorted({*statuses, 421, 500})
    }


QUERY_ERRORS = errors(400, 401, 403, 404, 409, 413, 415, 422, 503)


def form_or_json(form: Any, json: Any, examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a route documents of a body that is a form or JSON: FastAPI knows those of one kind.

    Parameters
    ----------
    form, json : type
        The models, or what else Pydantic knows.
    examples : dict, optional
        Of JSON, by name.
    """
    content = {
        kind: {"schema": TypeAdapter(model).json_schema(ref_template=_SCHEMA)}
        for kind, model in ((FORM, form), (JSON, json))
    }
    if examples:
        content[JSON]["examples"] = {name: {"value": example} for name, example in examples.items()}
    return {"requestBody": {"required": True, "content": content}}


def install(app: FastAPI) -> None:
    """Have an application's ``/openapi.json`` say all of it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        tags=app.openapi_tags,
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema(ref_template=_SCHEMA)
    # Those of bodies that FastAPI does not know of bring their parts along.
    for methods in document["paths"].values():
        for content in methods.get("post", {}).get("requestBody", {}).get("content", {}).values():
            schemas |= content["schema"].pop("$defs", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if app.state.service.settings.token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document
