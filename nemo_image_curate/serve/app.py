"""`create_app`: search and indexing over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from threadpoolctl import threadpool_limits

from nemo_image_curate.serve import documentation, indexing, openapi, problems, searching, status
from nemo_image_curate.serve.hang_up import HangUp
from nemo_image_curate.serve.hosts import TrustedHosts
from nemo_image_curate.serve.logs import RequestLog
from nemo_image_curate.serve.security import Guard
from nemo_image_curate.serve.service import Service
from nemo_image_curate.serve.settings import Settings
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.search.live.base import LiveStore
    from nemo_image_curate.search.searcher import Searcher


_DESCRIPTION = """
Hits come with the best first, and each with the `url` of its image; with `size=256` beside its
other parameters that is a thumbnail. `where` takes an expression over the columns of the dataset,
such as `width >= 256 and aesthetic_score > 5`.

Most requests have a simple form, too, as clients of other services send them: bare lists, `query`
with `n_results`, a file of a form. What is asked in that form is answered in that form.

What is wrong is said as problem details (RFC 9457): `detail` says what, and what to do about it.
Where the service was started with a token, send `Authorization: Bearer TOKEN`.
"""
_TAGS = [
    {"name": "search", "description": "Images or captions that fit best, and similarities."},
    {"name": "index", "description": "Add images and texts to the live store."},
    {"name": "service", "description": "The images themselves, what is served, and how it goes."},
]


def create_app(
    searcher: Searcher,
    dataset: ImageTextPairDataset | None = None,
    store: LiveStore | None = None,
    settings: Settings | None = None,
    host: str = "127.0.0.1",
) -> FastAPI:
    """The service as an ASGI application.

    Parameters
    ----------
    searcher : Searcher
        Answers the queries. It should search `store`, too, when there is one.
    dataset : ImageTextPairDataset, optional
        Where the images of its index are read from.
    store : ChromaStore or MilvusStore, optional
        Takes what is added; without one the service cannot be added to.
    settings : Settings, optional
    host : str, default "127.0.0.1"
        What it will listen on. Requests for other hosts are refused (421), but for this machine's
        names for itself and ``Settings(allowed_hosts=...)``; on all interfaces (``0.0.0.0``) any
        address will do, and this machine's name.

    Returns
    -------
    fastapi.FastAPI
        For one process: what it batches and counts is its own.

    Examples
    --------
    >>> app = create_app(Searcher.open(dataset), dataset)  # doctest: +SKIP
    """
    settings = Settings() if settings is None else settings
    service = Service(searcher, dataset, store, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # After a product BLAS's threads wait busily for the next one, and so do torch's. On two
        # cores that doubled the encoder's time, and made of the 0.3 ms of a search 8.
        with threadpool_limits(1, "blas"):
            warming = asyncio.create_task(service.warm_up())
            yield
            warming.cancel()
            service.close()

    app = FastAPI(
        title="Image search of nemo_image_curate",
        version=__version__,
        summary="Search images by text, by image or by both, and add to what is searched.",
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    problems.install(app)
    openapi.install(app)
    documentation.install(app)
    for router in (searching.router, indexing.router, status.router):
        app.include_router(router)
    # The last is the outermost.
    app.add_middleware(Guard, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(TrustedHosts, host=host, allowed=settings.allowed_hosts)
    app.add_middleware(HangUp)
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app
