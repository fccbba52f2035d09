"""Jobs: many Dask tasks with progress, where a failing one does not stop the others."""

from __future__ import annotations

import itertools
import logging
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import dask
from tqdm import tqdm

from nemo_image_curate.compute.client import current_client, get_client
from nemo_image_curate.errors import CurateError, JobError

logger = logging.getLogger(__name__)


def compute_all(
    tasks: Sequence[Any],
    labels: Sequence[str],
    what: str,
    progress: bool | None = None,
    shared: bool = False,
    sizes: Sequence[int] | None = None,
) -> list[Any]:
    """Compute Dask tasks, showing progress; a failing one does not stop the others.

    Parameters
    ----------
    tasks : sequence of dask.delayed.Delayed
    labels : sequence of str
        What each task works on, for messages.
    what : str
        What is being done, for the progress bar.
    progress : bool, optional
        Default: only when standard error is a terminal.
    shared : bool, default False
        The tasks need common results, such as those of a shuffle. Without a client a cluster of
        one thread is started for them: it computes each once and spills to disk.
    sizes : sequence of int, optional
        How many labels each task stands for, when they are of `call_each`.

    Returns
    -------
    list
        Results in the order of `labels`.

    Raises
    ------
    JobError
        After all others have finished, naming those that failed and why. When each failed with
        the same error of ours, that error.
    """
    if shared and current_client() is None:
        with get_client("cpu", n_workers=1, processes=False):
            return compute_all(tasks, labels, what, progress)
    if progress is None:
        progress = sys.stderr.isatty()
    starts = list(itertools.accumulate(sizes, initial=0)) if sizes else range(len(tasks) + 1)
    results: list[Any] = [None] * len(labels)
    failures: dict[int, BaseException] = {}
    with tqdm(total=len(labels), desc=what, unit="part", disable=not progress) as bar:
        for number, value, error in _each(tasks):
            positions = range(starts[number], starts[number + 1])
            whole = value if sizes and error is None else [Outcome(value, error)] * len(positions)
            for position, outcome in zip(positions, whole, strict=True):
                bar.update()
                results[position] = outcome.value
                if outcome.error is not None:
                    failures[position] = outcome.error
                    logger.warning("%s: %s: %s", what, labels[position], outcome.error)
    if failures:
        raise _summarise(failures, labels, what, len(labels))
    return results


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
    """Calls that one task of Dask makes; Dask does not look into this class.

    Parameters
    ----------
    calls : list of Call
    """

    def __init__(self, calls: list[Call]):
        self.calls = calls


def call_each(calls: Calls) -> list[Outcome]:
    """Make calls one after the other, whether or not some fail; runs on a worker."""
    return [_outcome(call) for call in calls.calls]


def _outcome(call: Call) -> Outcome:
    try:
        return Outcome(call.function(call.task(), *call.arguments), None)
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


def _each(tasks: Sequence[Any]) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Yield (position, value, error) as tasks end."""
    client = current_client()
    if client is not None:
        from distributed import as_completed

        futures = client.compute(list(tasks))
        positions = {future.key: position for position, future in enumerate(futures)}
        for future in as_completed(futures):
            error = future.exception() if future.status != "finished" else None
            yield positions[future.key], None if error else future.result(), error
            future.release()
        return

    # Without a cluster: one partition at a time, each using all cores in its forward pass.
    for position, task in enumerate(tasks):
        try:
            yield position, dask.compute(task)[0], None
        except Exception as error:
            yield position, None, error


def _summarise(
    failures: dict[int, BaseException], labels: Sequence[str], what: str, total: int
) -> CurateError:
    errors = list(failures.values())
    same = {(type(error), str(error)) for error in errors}
    if len(same) == 1 and isinstance(errors[0], CurateError):
        return errors[0]
    shown = [
        f"  {labels[position]}: {type(error).__name__}: {error}"
        for position, error in sorted(failures.items())[:10]
    ]
    more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
    summary = JobError(
        f"{what}: {len(failures)} of {total} partitions failed; the others are done and kept. "
        "Run the same job again after mending the cause:\n" + "\n".join(shown) + more
    )
    summary.__cause__ = errors[0]
    return summary
