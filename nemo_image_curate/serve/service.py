"""`Service`: what the endpoints share."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from PIL import Image

from nemo_image_curate.errors import ConfigError, CurateError
from nemo_image_curate.search.query import Query
from nemo_image_curate.serve.batching import Batcher, BusyError
from nemo_image_curate.serve.images import Images
from nemo_image_curate.serve.links import image_url
from nemo_image_curate.serve.logs import Metrics
from nemo_image_curate.serve.models import HitAnswer, Hits
from nemo_image_curate.serve.settings import Settings
from nemo_image_curate.serve.thumbnails import Thumbnails
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.search.live.base import LiveStore
    from nemo_image_curate.search.searcher import Searcher

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Service:
    """The searcher, its queues, and the figures.

    Queries with an image have a queue and a thread of their own, which also embeds what is
    added: a text need not wait for pictures to be decoded.
    """

    def __init__(
        self,
        searcher: Searcher,
        dataset: ImageTextPairDataset | None,
        store: LiveStore | None,
        settings: Settings,
    ):
        # What cannot embed a query is refused now, not at the first one.
        self.encoder = searcher.embedder.encoder()
        self.searcher = searcher
        self.store = store
        self.settings = settings
        self.metrics = Metrics()
        self.images = Images(settings, dataset, store, searcher.searchables("images"))
        self.thumbnails = Thumbnails(self.images.stored)
        self.ready = False
        self.failure: str | None = None
        self.embedding_dim: int | None = None
        self._text_thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._image_thread = ThreadPoolExecutor(1, thread_name_prefix="image")
        self._calls = 0
        limits = (settings.max_batch, settings.max_waiting)
        self._by_text = Batcher(self._answers, self._text_thread, *limits)
        self._by_image = Batcher(self._answers, self._image_thread, *limits)

    async def search(self, query: Query) -> Hits:
        """The answer to a query, computed together with those that wait beside it."""
        batcher = self._by_text if query.image is None else self._by_image
        hits = await batcher.ask(query)
        token = self.settings.token
        # A text of the live store has no image.
        urls = [
            None
            if query.over == "texts" and hit.shard is None
            else image_url(token, hit.key, hit.shard)
            for hit in hits
        ]
        return Hits(
            hits=[HitAnswer(**hit.to_dict(), url=url) for hit, url in zip(hits, urls, strict=True)]
        )

    async def with_images(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in the thread that embeds images.

        Raises
        ------
        BusyError
            When as many calls as queries may wait are waiting already.
        """
        if self._calls >= self.settings.max_waiting:
            raise BusyError
        self._calls += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._image_thread, work, *arguments)
        finally:
            self._calls -= 1

    async def stats(self) -> dict[str, Any]:
        """What ``/stats`` answers."""
        # Counting may have to open the live store. The figures of requests stay in this thread,
        # the event loop's, which adds to them.
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
        n_images, n_texts = (sum(map(len, side)) for side in (images, texts))
        return {
            "encoder": self.encoder,
            "model": self.searcher.embedder.model_name,
            "embedding_dim": self.embedding_dim,
            "images": n_images,
            "texts": n_texts,
            "images_indexed": n_images,
            "texts_indexed": n_texts,
            "captions": None if self.searcher.captions is None else len(self.searcher.captions),
            "columns": sorted(
                {name for index in images if hasattr(index, "rows") for name in index.rows.columns}
            ),
            "store_images": None if self.store is None else len(self.store.images),
            "store_texts": None if self.store is None else len(self.store.texts),
            "indexes": [index.recipe for index in (*images, *texts) if hasattr(index, "recipe")],
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
        self.embedding_dim = await self.with_images(self._width)
        # What is loaded stays. Looking through it for garbage made one answer of some twenty-five
        # wait for half a second.
        gc.collect()
        gc.freeze()
        self.ready = True

    def _width(self) -> int | None:
        """How many values a vector has."""
        embedder, device = self.searcher.embedder, self.searcher.device
        vectors, _ = embedder.embed_images([_tiny_picture()], device=device)
        return vectors.shape[1] or None

    def close(self) -> None:
        """Let the threads end."""
        self._text_thread.shutdown(cancel_futures=True)
        self._image_thread.shutdown(cancel_futures=True)

    def _answers(self, queries: list[Query]) -> Sequence[Any]:
        return self.searcher.search_many(queries, return_errors=True)


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    service: Service = request.app.state.service
    return service


def _tiny_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()
