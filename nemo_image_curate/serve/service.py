"""`create_app`: search and indexing over HTTP."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI
from PIL import Image
from starlette.middleware.cors import CORSMiddleware
from threadpoolctl import threadpool_limits

from nemo_image_curate.errors import ConfigError, CurateError
from nemo_image_curate.search.query import Query
from nemo_image_curate.serve import indexing, openapi, problems, searching, status
from nemo_image_curate.serve.batching import Batcher
from nemo_image_curate.serve.hang_up import HangUp
from nemo_image_curate.serve.hosts import TrustedHosts
from nemo_image_curate.serve.images import Images
from nemo_image_curate.serve.links import image_url
from nemo_image_curate.serve.logs import Metrics, RequestLog
from nemo_image_curate.serve.models import HitAnswer, Hits
from nemo_image_curate.serve.security import Guard
from nemo_image_curate.serve.settings import Settings
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.search.live.store import ChromaStore
    from nemo_image_curate.search.searcher import Searcher

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def create_app(
    searcher: Searcher,
    dataset: ImageTextPairDataset | None = None,
    store: ChromaStore | None = None,
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
    store : ChromaStore, optional
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
        title="nemo_image_curate",
        version=__version__,
        description="Search images by text, by image or by both, and add to what is searched.",
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.service = service
    problems.install(app)
    openapi.install(app)
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


class Service:
    """What the endpoints share: the searcher, its queues, and the figures.

    Queries with an image have a queue and a thread of their own, which also embeds what is
    added: a text need not wait for pictures to be decoded.
    """

    def __init__(
        self,
        searcher: Searcher,
        dataset: ImageTextPairDataset | None,
        store: ChromaStore | None,
        settings: Settings,
    ):
        self.searcher = searcher
        self.store = store
        self.settings = settings
        self.metrics = Metrics()
        self.images = Images(settings, dataset, store, searcher.searchables("images"))
        self.ready = False
        self.failure: str | None = None
        self._text_thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._image_thread = ThreadPoolExecutor(1, thread_name_prefix="image")
        limits = (settings.max_batch, settings.max_waiting)
        self._by_text = Batcher(self._answers, self._text_thread, *limits)
        self._by_image = Batcher(self._answers, self._image_thread, *limits)

    async def search(self, query: Query) -> Hits:
        """The answer to a query, computed together with those that wait beside it."""
        found = await (self._by_text if query.image is None else self._by_image).ask(query)
        token = self.settings.token
        # A text of the live store has no image.
        urls = [
            None
            if query.over == "texts" and hit.shard is None
            else image_url(token, hit.key, hit.shard)
            for hit in found
        ]
        return Hits(
            hits=[HitAnswer(**hit.to_dict(), url=url) for hit, url in zip(found, urls, strict=True)]
        )

    async def with_images(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in the thread that embeds images."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._image_thread, work, *arguments)

    async def stats(self) -> dict[str, Any]:
        """What ``/stats`` answers."""
        # Which may have to open the live store. The figures of requests stay in this thread, the
        # event loop's, which adds to them.
        contents = await asyncio.to_thread(self._contents)
        sizes = Counter([*self._by_text.sizes, *self._by_image.sizes])
        return contents | {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self.metrics.began, 1),
            "requests": dict(self.metrics.statuses),
            "latency": self.metrics.latency(),
            "batch_sizes": {str(size): count for size, count in sorted(sizes.items())},
        }

    def _contents(self) -> dict[str, Any]:
        """What there is to be searched."""
        images, texts = self.searcher.searchables("images"), self.searcher.searchables("texts")
        return {
            "encoder": self.searcher.embedder.encoder(),
            "images": sum(map(len, images)),
            "texts": sum(map(len, texts)),
            "store_images": None if self.store is None else len(self.store.images),
            "store_texts": None if self.store is None else len(self.store.texts),
            "indexes": [one.recipe for one in (*images, *texts) if hasattr(one, "recipe")],
        }

    async def warm_up(self) -> None:
        """Load the model, as the first query would."""
        queries = (
            (self._by_text, Query(text="a photograph", k=1)),
            (self._by_image, Query(image=_tiny_picture(), k=1)),
        )
        for batcher, query in queries:
            try:
                await batcher.ask(query)
            except ConfigError:
                # This model does not take such a query; it is there all the same.
                pass
            except Exception as error:
                logger.exception("the model cannot be loaded")
                self.failure = str(error) if isinstance(error, CurateError) else "see its log"
                return
        self.ready = True

    def close(self) -> None:
        """Let the threads end."""
        self._text_thread.shutdown(cancel_futures=True)
        self._image_thread.shutdown(cancel_futures=True)

    def _answers(self, queries: list[Query]) -> Sequence[Any]:
        return self.searcher.search_many(queries, return_errors=True)


def _tiny_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()
