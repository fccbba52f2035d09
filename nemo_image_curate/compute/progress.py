"""How far jobs are: a bar on terminals, lines elsewhere, and JSON for machines.

What tasks return tells what was done: ``rows``, ``errors`` by reason, ``dropped``, ``missing``.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)
_WATCH_SECONDS = 1.0
_LINE_SECONDS = 30.0
# For so long nothing ends where nothing works.
_STILL_SECONDS = 10.0


@dataclass
class Settings:
    """How progress is shown where there is no terminal.

    Attributes
    ----------
    quiet_seconds : float
        Jobs that take no longer are not told of.
    workers_first : bool
        Tell who works before the first job; else with its first line.
    as_json : bool
        Tell by `logging`, with figures in the record's ``fields``; also on a terminal.
    """

    quiet_seconds: float = 5.0
    workers_first: bool = False
    as_json: bool = False


settings = Settings()
_running: list[Progress] = []
_finished: deque[dict[str, Any]] = deque(maxlen=1000)


@contextlib.contextmanager
def changed(**changes: Any) -> Iterator[None]:
    """Other `Settings` for a while."""
    before = dict(vars(settings))
    vars(settings).update(changes)
    try:
        yield
    finally:
        vars(settings).update(before)


class Progress:
    """What one job has done so far.

    Parameters
    ----------
    what : str
        What is being done.
    total : int
        How many partitions.
    shown : bool or None
        None: as a bar on a terminal, else in lines. False: not at all, and it is not among the
        jobs that `finished` tells of.
    waits_for : callable, optional
        Tells what hinders work from going on, if something does.
    about : callable, optional
        Tells of the workers, before anything else is told.
    unit : str, default "partitions"
        What is counted.
    """

    def __init__(
        self,
        what: str,
        total: int,
        shown: bool | None,
        waits_for: Callable[[], str | None] = lambda: None,
        about: Callable[[], str] | None = None,
        unit: str = "partitions",
    ):
        self.what, self.total, self.unit = what, total, unit
        self.done = self.rows = 0
        self.rejected: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._waits_for = waits_for
        self._about = about
        self._began = self._last_line = self._last_end = time.monotonic()
        is_bar = sys.stderr.isatty() and not settings.as_json
        self._is_told = shown is not False
        self._quiet = not self._is_told or not total
        self._bar = tqdm(total=total, desc=what, unit="part", disable=self._quiet or not is_bar)
        self._in_lines = not self._quiet and not is_bar
        self._has_told = False

    def end(self, result: Any) -> None:
        """Count what a task has returned."""
        for summary in result if isinstance(result, list) else [result]:
            if isinstance(summary, dict) and isinstance(summary.get("rows"), int):
                self._count(summary)
        self._step()

    def fail(self, error: BaseException) -> None:
        """Count a task that failed."""
        self.failed[type(error).__name__] += 1
        self._step()

    def _count(self, summary: dict[str, Any]) -> None:
        dropped = summary.get("dropped") or {}
        left_out = {
            "by condition": dropped.get("by_condition", 0),
            "by null": dropped.get("by_null", 0),
            "missing": summary.get("missing", 0),
        }
        self.rows += summary["rows"] + sum(left_out.values())
        self.rejected.update(summary.get("errors") or {})
        self.rejected.update({reason: count for reason, count in left_out.items() if count})

    def _step(self) -> None:
        self.done += 1
        self._last_end = time.monotonic()
        self._bar.set_postfix_str(self._counts(), refresh=False)
        self._bar.update()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def fields(self) -> dict[str, Any]:
        """The figures."""
        left = self.seconds * (self.total - self.done) / self.done if self.done else None
        return {
            "job": self.what,
            "partitions": self.done,
            "of": self.total,
            "rows": self.rows,
            "seconds": round(self.seconds, 1),
            "images_per_second": round(self.rows / max(self.seconds, 1e-3), 1),
            "seconds_left": None if left is None else round(left, 1),
            "rejected": dict(self.rejected),
            "failed": dict(self.failed),
        }

    def _counts(self) -> str:
        """Rows, speed, and what was rejected so far."""
        parts = []
        if self.rows:
            parts += [f"{self.rows:,} rows", f"{self.rows / max(self.seconds, 1e-3):,.1f} images/s"]
        for name, counts in (("rejected", self.rejected), ("failed", self.failed)):
            if counts:
                kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
                parts.append(f"{name} {counts.total():,} ({kinds})")
        return ", ".join(parts)

    def status(self) -> str:
        """One line of how far it is."""
        parts = [f"{self.what}: {self.done:,} of {self.total:,} {self.unit}", self._counts()]
        left = self.fields()["seconds_left"]
        if left and self.done < self.total:
            parts.append(f"{_duration(left)} left")
        return ", ".join(filter(None, parts))

    def tell(self, text: str) -> None:
        """Say something now."""
        self._last_line = time.monotonic()
        self._has_told = True
        self._tell_workers()
        say(text, **self.fields())

    def _tell_workers(self) -> None:
        if self._about is not None:
            about, self._about = self._about, None
            with contextlib.suppress(Exception):
                say(about())

    def _watch(self, ended: threading.Event) -> None:
        """Tell of what takes long, until the job has ended."""
        while not ended.wait(_WATCH_SECONDS):
            now = time.monotonic()
            is_still = now - max(self._last_end, self._last_line) > _STILL_SECONDS
            reason = self._waits_for() if is_still and not self._quiet else None
            if reason:
                self.tell(f"{self.what}: waiting: {reason}")
            elif self._in_lines and now - self._last_line > self._pause():
                self.tell(self.status())

    def _pause(self) -> float:
        return _LINE_SECONDS if self._has_told else settings.quiet_seconds or _LINE_SECONDS

    @contextlib.contextmanager
    def running(self) -> Iterator[Progress]:
        """Show it while a job runs."""
        if not self._quiet and (settings.workers_first or not self._in_lines):
            self._tell_workers()
        if self._in_lines and not settings.quiet_seconds:
            self.tell(f"{self.what}: {self.total:,} {self.unit}")
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(ended,), daemon=True, name="progress")
        watch.start()
        _running.append(self)
        try:
            yield self
        finally:
            _running.remove(self)
            ended.set()
            self._bar.close()
            if self._is_told:
                _finished.append(self.fields())
            if self._in_lines and self._has_told:
                self.tell(f"{self.status()}, took {_duration(self.seconds)}")


def say(text: str, **fields: Any) -> None:
    """Say something on standard error, beside any bar."""
    if settings.as_json:
        logger.info(text, extra={"fields": fields})
    else:
        tqdm.write(text, file=sys.stderr)


def status() -> list[str]:
    """How far the jobs are that run now, a line each."""
    return [progress.status() for progress in _running]


def finished() -> list[dict[str, Any]]:
    """The figures of this process's last thousand jobs, in the order of their ends."""
    return list(_finished)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
