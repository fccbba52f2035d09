"""How far jobs are: a bar on terminals and in notebooks, lines elsewhere, and JSON for machines.

What tasks return tells what was done: ``rows``, ``errors`` by reason, ``dropped``, ``missing``.
What they tell before they end is counted as long as they run (`Counts.hear`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from nemo_image_curate.compute.bar import bar_of, in_notebook
from nemo_image_curate.compute.counts import Counts, duration
from nemo_image_curate.compute.warned import Warned

logger = logging.getLogger(__name__)
_WATCH_SECONDS = 1.0
_LINE_SECONDS = 30.0
# For so long nothing ends where nothing works.
_STILL_SECONDS = 10.0
# Kinds of warnings that the sum at the end names.
_KINDS = 3


@dataclass
class Settings:
    """How progress is shown.

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
_stages: list[tuple[str, int, int]] = []
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


@contextlib.contextmanager
def stage(name: str, number: int, of: int) -> Iterator[None]:
    """What is told meanwhile belongs to one of several stages: "embed 2 of 3".

    Parameters
    ----------
    name : str
    number : int
        From 1.
    of : int
        How many there are.
    """
    _stages.append((name, number, of))
    try:
        yield
    finally:
        _stages.pop()


class Progress(Counts):
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
    rows_expected : int, optional
        How many rows all partitions have, where that is known: then how long the rest will take
        is known within partitions.

    Attributes
    ----------
    what : str
        What is being done, with its stage.
    """

    def __init__(
        self,
        what: str,
        total: int,
        shown: bool | None,
        waits_for: Callable[[], str | None] = lambda: None,
        about: Callable[[], str] | None = None,
        unit: str = "partitions",
        rows_expected: int | None = None,
    ):
        stages = ", ".join(f"{name} {number} of {of}" for name, number, of in _stages)
        super().__init__(what, stages or None, total, unit, rows_expected)
        self.what = f"{stages}, {what}" if stages else what
        self._waits_for = waits_for
        self._about = about
        self._last_line = self._last_end = 0.0
        is_bar = (sys.stderr.isatty() or in_notebook()) and not settings.as_json
        self._is_told = shown is not False
        self._quiet = not self._is_told or not total
        self._bar = None
        if is_bar and not self._quiet:
            self._bar = bar_of(self.what, settings.quiet_seconds)
            self._draw()
        self._in_lines = not self._quiet and not is_bar
        self._has_told = False

    def warn(self, warned: Warned) -> list[str]:
        """Count warnings of a task, and tell the first of each kind."""
        new = super().warn(warned)
        for text in new:
            if self._is_told:
                _log_warning(f"{self.what}: {text}")
        return new

    def _end_one(self) -> None:
        super()._end_one()
        self._last_end = self.seconds
        self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.parts = self.parts()
            self._bar.update(self.part - self._bar.n)

    def status(self) -> str:
        """One line of how far it is."""
        return f"{self.what}: {', '.join(self.parts())}"

    def tell(self, text: str, event: str = "progress") -> None:
        """Say something now."""
        self._last_line = self.seconds
        self._has_told = True
        self._tell_workers()
        say(text, event=event, **self.fields())

    def _tell_workers(self) -> None:
        if self._about is not None:
            about, self._about = self._about, None
            with contextlib.suppress(Exception):
                say(about(), event="workers")

    def _tell_warnings(self) -> None:
        """The sum of warnings, where some kind was told once and came again."""
        kinds = sorted(self.warned.values(), key=lambda kind: -kind.number)
        total = sum(kind.number for kind in kinds)
        if not self._is_told or total == len(kinds):
            return
        counted = "; ".join(
            f"{kind.number:,} like this one: {kind.first}" for kind in kinds[:_KINDS]
        )
        more = f"; and {len(kinds) - _KINDS} more kinds" if len(kinds) > _KINDS else ""
        of = "1 kind" if len(kinds) == 1 else f"{len(kinds):,} kinds"
        _log_warning(f"{self.what}: {total:,} warnings of {of}: {counted}{more}")

    def _watch(self, ended: threading.Event) -> None:
        """Tell of what takes long, until the job has ended."""
        while not ended.wait(_WATCH_SECONDS):
            if self._bar is not None and self.seconds > settings.quiet_seconds:
                self._tell_workers()
                self._draw()
                self._bar.refresh()
            is_still = self.seconds - max(self._last_end, self._last_line) > _STILL_SECONDS
            reason = self._waits_for() if is_still and not self._quiet else None
            if reason:
                self.tell(f"{self.what}: waiting: {reason}", "waiting")
            elif self._in_lines and self.seconds - self._last_line > self._pause():
                self.tell(self.status())

    def _pause(self) -> float:
        return _LINE_SECONDS if self._has_told else settings.quiet_seconds or _LINE_SECONDS

    @contextlib.contextmanager
    def running(self) -> Iterator[Progress]:
        """Show it while a job runs."""
        if not self._quiet and settings.workers_first:
            self._tell_workers()
        if self._in_lines and not settings.quiet_seconds:
            self.tell(f"{self.what}: {self.total:,} {self.unit}", "start")
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(ended,), daemon=True, name="progress")
        watch.start()
        _running.append(self)
        try:
            yield self
        finally:
            _running.remove(self)
            ended.set()
            if self._bar is not None:
                self._bar.close()
            if self._is_told:
                _finished.append(self.fields())
            if self._in_lines and self._has_told:
                self.tell(f"{self.status()}, took {duration(self.seconds)}", "end")
            self._tell_warnings()


def say(text: str, **fields: Any) -> None:
    """Say something on standard error, beside any bar."""
    if settings.as_json:
        logger.info(text, extra={"fields": fields})
    else:
        tqdm.write(text, file=sys.stderr)


def _log_warning(text: str) -> None:
    with tqdm.external_write_mode(file=sys.stderr):
        logger.warning("%s", text, extra={"told": True, "fields": {"event": "warning"}})


def status() -> list[str]:
    """How far the jobs are that run now, a line each."""
    return [progress.status() for progress in _running]


def finished() -> list[dict[str, Any]]:
    """The figures of this process's last thousand jobs, in the order of their ends."""
    return list(_finished)
