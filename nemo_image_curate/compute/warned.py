"""Warnings of tasks: not printed by each worker again and again, but counted and told once.

What counts are Python's warnings and log records of the level WARNING, of this package and others.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

PACKAGE = "nemo_image_curate"
# Kinds that are told apart in one task, and characters of a text.
_MOST_KINDS, _MOST_TEXT = 50, 400
OTHERS = "warnings of other kinds"
# What of a message differs between those of a kind.
_PARTICULAR = re.compile(r"\S*[\d/]\S*")


class Kind(NamedTuple):
    """Warnings of one kind: how many, and what the first said."""

    number: int
    first: str


Warned = dict[str, Kind]


def kind_of(text: str) -> str:
    """What messages have in common that differ in names and numbers only."""
    return _PARTICULAR.sub("", text)


def merge(warned: Warned, other: Warned) -> Warned:
    """The warnings of both."""
    merged = dict(warned)
    for name, kind in other.items():
        before = merged.get(name, Kind(0, kind.first))
        merged[name] = Kind(before.number + kind.number, before.first)
    return merged


@contextlib.contextmanager
def gathered() -> Iterator[Warned]:
    """Gather the warnings of this process instead of printing them.

    Where several threads do, each gets those that nobody has taken yet: of a thread nobody knows
    which task it works for. Those of a task that fails are for the next one.

    Yields
    ------
    dict of str to Kind
        Filled at the end.
    """
    warned: Warned = {}
    _gathering.enter()
    try:
        yield warned
        warned.update(_gathering.take())
    finally:
        _gathering.leave()


class _Gathering(logging.Handler):
    """Takes the place of all handlers and of `warnings.showwarning`, as long as somebody wants."""

    def __init__(self) -> None:
        super().__init__()
        self._users = 0
        self._mutex = threading.Lock()
        self._warned: Warned = {}
        self._restore = contextlib.ExitStack()
        self._others: list[tuple[logging.Logger, list[logging.Handler]]] = []

    def enter(self) -> None:
        with self._mutex:
            self._users += 1
            if self._users == 1:
                self._install()

    def take(self) -> Warned:
        with self._mutex:
            warned, self._warned = self._warned, {}
        return warned

    def leave(self) -> None:
        with self._mutex:
            self._users -= 1
            if not self._users:
                self._restore.close()

    def _install(self) -> None:
        package_logger, root = logging.getLogger(PACKAGE), logging.getLogger()
        self._others = [(logger, logger.handlers[:]) for logger in (package_logger, root)]
        for logger, handlers in self._others:
            self._restore.callback(_set, logger, handlers)
        root.handlers[:] = [self]
        package_logger.handlers[:] = [] if package_logger.propagate else [self]
        self._restore.enter_context(warnings.catch_warnings())
        # In place of the default, by which Python shows what recurs once: all are counted.
        warnings.simplefilter("always", append=True)
        warnings.showwarning = self._show

    def _show(self, message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
        self._count(category.__name__, f"{category.__name__}: {message}")

    def emit(self, record: logging.LogRecord) -> None:
        """Count a warning; hand on what else is logged."""
        is_warning = logging.WARNING <= record.levelno < logging.ERROR
        if is_warning and not hasattr(record, "told"):
            self._count(record.name, record.getMessage())
            return
        concerned = [
            handler
            for logger, handlers in self._others
            if logger is logging.root or record.name.partition(".")[0] == PACKAGE
            for handler in handlers
        ]
        if not concerned and logging.lastResort:
            concerned = [logging.lastResort]
        for handler in concerned:
            if record.levelno >= handler.level:
                handler.handle(record)

    def _count(self, source: str, text: str) -> None:
        kind = f"{source}: {kind_of(text)}"
        with self._mutex:
            if kind not in self._warned and len(self._warned) >= _MOST_KINDS:
                kind = OTHERS
            self._warned = merge(self._warned, {kind: Kind(1, text[:_MOST_TEXT])})


def _set(logger: logging.Logger, handlers: list[logging.Handler]) -> None:
    logger.handlers[:] = handlers


_gathering = _Gathering()
