"""``/docs``: Swagger UI from an installed package, so that it works without the internet."""

from __future__ import annotations

from importlib.resources import as_file, files

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE, FILES = "/docs", "/docs/files"


def install(app: FastAPI) -> None:
    """Have an application, made with ``docs_url=None``, describe itself."""
    # What is installed as plain files stays where it is.
    with as_file(files("fastapi_offline") / "static") as folder:
        app.mount(FILES, StaticFiles(directory=folder))

    @app.get(PAGE, include_in_schema=False)
    async def documentation(request: Request) -> HTMLResponse:
        # Behind a proxy the service may be below a folder.
        root = str(request.scope.get("root_path", "")).rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{FILES}/swagger-ui.css",
            swagger_favicon_url="data:,",
        )
