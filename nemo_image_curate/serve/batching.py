"""`Batcher`: queries that arrive while a model is busy go together as its next batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

Query = TypeVar("Query")


class BusyError(Exception):
    """Too many queries are waiting already."""


class Batcher(Generic[Query]):
    """Answers queries in a thread, as many at once as have gathered.

    A query that finds the thread idle goes at once, alone: nothing waits for company. One whose
    asker has gone before its turn is dropped.

    Parameters
    ----------
    work : callable
        From a list of queries to the list of their answers; an exception as answer is for the
        asker of that query alone.
    thread : concurrent.futures.Executor
        Of one thread, or one that has only this to do.
    max_batch : int
        Queries that `work` takes at once.
    max_waiting : int
        Queries that may wait.

    Attributes
    ----------
    sizes : deque of int
        How many queries went together in each of the last 1000 batches.
    """

    def __init__(
        self,
        work: Callable[[list[Query]], Sequence[Any]],
        thread: Executor,
        max_batch: int,
        max_waiting: int,
    ):
        self.work = work
        self.thread = thread
        self.max_batch = max_batch
        self.max_waiting = max_waiting
        self.sizes: deque[int] = deque(maxlen=1000)
        self._waiting: dict[asyncio.Future[Any], Query] = {}
        self._running: asyncio.Task[None] | None = None

    async def ask(self, query: Query) -> Any:
        """The answer to one query.

        Raises
        ------
        BusyError
            When `max_waiting` queries wait already.
        """
        if len(self._waiting) >= self.max_waiting:
            raise BusyError
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = query
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            return await answer
        finally:
            # Of an asker that was cancelled nothing is left to do, unless it is being done.
            self._waiting.pop(answer, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                askers = list(self._waiting)[: self.max_batch]
                queries = [self._waiting.pop(asker) for asker in askers]
                self.sizes.append(len(queries))
                answers = await loop.run_in_executor(self.thread, self._answers, queries)
                for asker, answer in zip(askers, answers, strict=True):
                    if asker.done():
                        continue
                    if isinstance(answer, Exception):
                        asker.set_exception(answer)
                    else:
                        asker.set_result(answer)
        finally:
            self._running = None

    def _answers(self, queries: list[Query]) -> Sequence[Any]:
        try:
            return self.work(queries)
        except Exception as error:
            return [error] * len(queries)
