import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nemo_image_curate.serve.batching import Batcher, BusyError


class Work:
    """Squares numbers, slowly; the first batch waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.thread = ThreadPoolExecutor(1)

    def __call__(self, numbers: list[int]) -> list[Any]:
        self.batches.append(numbers)
        assert self.go.wait(10)
        if 666 in numbers:
            raise MemoryError("all of them")
        return [ValueError(number) if number < 0 else number**2 for number in numbers]

    def batcher(self, max_batch: int = 4, max_waiting: int = 100) -> Batcher[int]:
        return Batcher(self, self.thread, max_batch, max_waiting)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def started(work: Work) -> None:
    while not work.batches:
        await asyncio.sleep(0.001)


def test_what_waits_goes_together():
    work = Work()

    async def test() -> None:
        batcher = work.batcher()
        first = asyncio.ensure_future(batcher.ask(0))
        await started(work)
        others = [asyncio.ensure_future(batcher.ask(number)) for number in range(1, 7)]
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(first, *others) == [0, 1, 4, 9, 16, 25, 36]
        assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]
        assert list(batcher.sizes) == [1, 4, 2]

    run(test)


def test_an_idle_thread_is_not_waited_for(monkeypatch):
    work = Work()
    work.go.set()

    async def test() -> None:
        batcher = work.batcher()
        # Nothing is put off.
        monkeypatch.setattr(asyncio.get_running_loop(), "call_at", pytest.fail)
        for _ in range(10):
            assert await batcher.ask(2) == 4
        monkeypatch.undo()

    run(test)


def test_a_bad_query_fails_alone():
    work = Work()

    async def test() -> None:
        batcher = work.batcher()
        first = asyncio.ensure_future(batcher.ask(0))
        await started(work)
        others = [asyncio.ensure_future(batcher.ask(number)) for number in (1, -2, 3)]
        await asyncio.sleep(0)
        work.go.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        assert [found[0], found[1], found[3]] == [0, 1, 9]
        assert isinstance(found[2], ValueError)
        assert len(work.batches) == 2

    run(test)


def test_a_fault_reaches_all_of_its_batch_and_no_later_one():
    work = Work()
    work.go.set()

    async def test() -> None:
        batcher = work.batcher()
        with pytest.raises(MemoryError):
            await batcher.ask(666)
        assert await batcher.ask(3) == 9

    run(test)


def test_who_has_gone_is_not_worked_for():
    work = Work()

    async def test() -> None:
        batcher = work.batcher()
        first = asyncio.ensure_future(batcher.ask(0))
        await started(work)
        waiting = [asyncio.ensure_future(batcher.ask(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        first.cancel()  # Its work has begun: it ends, for nobody.
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(waiting[0], waiting[2]) == [1, 9]
        assert work.batches == [[0], [1, 3]]

    run(test)


def test_no_endless_queue():
    work = Work()

    async def test() -> None:
        batcher = work.batcher(max_waiting=2)
        asked = [asyncio.ensure_future(batcher.ask(0))]
        await started(work)
        asked += [asyncio.ensure_future(batcher.ask(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher.ask(3)
        work.go.set()
        assert await asyncio.gather(*asked) == [0, 1, 4]
        assert await batcher.ask(3) == 9

    run(test)
