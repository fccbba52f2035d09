"""What a job hears of its tasks: while they run how far they are, at their ends their warnings."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from nemo_image_curate.compute.warned import Warned, gathered

# A task says no more often how far it is.
_SECONDS = 1.0


class Told(NamedTuple):
    """What a task returned, and its warnings."""

    value: Any
    warned: Warned


class SoFar:
    """How far one task is.

    Parameters
    ----------
    send : callable
        Takes all rows so far, and those that were rejected, by reason.
    """

    def __init__(self, send: Callable[[int, dict[str, int]], None]):
        self._send = send
        self._rows = 0
        self._rejected: Counter[str] = Counter()
        self._last = time.monotonic()

    def add(self, rows: int, rejected: Mapping[str, int]) -> None:
        """Count further rows, and tell of all when it is time to."""
        self._rows += rows
        self._rejected.update(rejected)
        if time.monotonic() - self._last >= _SECONDS:
            self._last = time.monotonic()
            self._send(self._rows, dict(self._rejected))


_threads = threading.local()
# Where tasks run in Dask's own threads, there is one of them at a time.
_only: SoFar | None = None


def tell_rows(rows: int, rejected: Mapping[str, int]) -> None:
    """Tell the job that a part of this task's rows is done.

    Parameters
    ----------
    rows : int
        Further ones, rejected ones among them.
    rejected : mapping of str to int
        How many of these, by reason.
    """
    task: SoFar | None = getattr(_threads, "task", None) or _only
    if task is not None:
        task.add(rows, rejected)


@contextlib.contextmanager
def here(send: Callable[[int, dict[str, int]], None]) -> Iterator[Warned]:
    """Watch the one task that this process computes in threads; yields what `gathered` does."""
    global _only
    before, _only = _only, SoFar(send)
    try:
        with gathered() as warned:
            yield warned
    finally:
        _only = before


class Watched:
    """A function for workers of which its job hears.

    Parameters
    ----------
    function : callable
    topic : str
        Of Dask's events.
    number : int
        Of the task.
    """

    def __init__(self, function: Callable[..., Any], topic: str, number: int):
        self.function = function
        self.topic = topic
        self.number = number
        # What Dask's dashboard calls these tasks.
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, *arguments: Any, **options: Any) -> Told:
        _threads.task = SoFar(self._send)
        try:
            with gathered() as warned:
                value = self.function(*arguments, **options)
        finally:
            _threads.task = None
        return Told(value, warned)

    def _send(self, rows: int, rejected: dict[str, int]) -> None:
        from distributed import get_worker

        message = {"number": self.number, "rows": rows, "rejected": rejected}
        get_worker().log_event(self.topic, message)


@contextlib.contextmanager
def heard(
    client: Any, topic: str, hear: Callable[[int, int, dict[str, int]], None]
) -> Iterator[None]:
    """Hear how far a client's tasks are: their number, rows, and rejected rows by reason."""

    def handle(event: tuple[float, dict[str, Any]]) -> None:
        hear(event[1]["number"], event[1]["rows"], event[1]["rejected"])

    client.subscribe_topic(topic, handle)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            client.unsubscribe_topic(topic)
