"""Calls of a function with several partitions, made one after the other by one task of Dask."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)


class Call(NamedTuple):
    """A function to be called with a partition, made by a task, and further arguments."""

    function: Callable[..., Any]
    task: Callable[[], Any]
    arguments: tuple[Any, ...]


class Outcome(NamedTuple):
    """What came of a call."""

    value: Any
    error: BaseException | None


class Calls:
    """Calls that one task makes; Dask does not look into this class.

    Parameters
    ----------
    calls : list of Call
    """

    def __init__(self, calls: list[Call]):
        self.calls = calls


def call_each(calls: Calls, *shared: Any) -> list[Outcome]:
    """Make calls one after the other, whether or not some fail; runs on a worker.

    Parameters
    ----------
    calls : Calls
    *shared
        What every call gets after its own arguments.
    """
    return [_outcome(call, shared) for call in calls.calls]


def _outcome(call: Call, shared: tuple[Any, ...]) -> Outcome:
    try:
        return Outcome(call.function(call.task(), *call.arguments, *shared), None)
    except Exception as error:
        logger.debug("a call failed", exc_info=error)
        return Outcome(None, _portable(error))


def _portable(error: Exception) -> Exception:
    """An error as it is, or what it says when it cannot be sent to the client."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  what was dumped just now
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
