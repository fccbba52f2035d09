"""Jobs: many Dask tasks with progress, where a failing one does not stop the others."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import uuid
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import dask

from nemo_image_curate.compute import _dask, watched, workers
from nemo_image_curate.compute.calls import Outcome
from nemo_image_curate.compute.client import current_client, describe, get_client
from nemo_image_curate.compute.progress import Progress
from nemo_image_curate.compute.warned import Warned, kind_of
from nemo_image_curate.compute.watched import Told, Watched
from nemo_image_curate.errors import ClusterError, CurateError, JobError

logger = logging.getLogger(__name__)
# Clients whose workers and dashboard were told of.
_described: weakref.WeakSet[Any] = weakref.WeakSet()
Inputs = Sequence[tuple[str, int | None]]
# How many errors are told, or kinds of them where there are more.
_TOLD = 10
# A task's position, its value, the error that it failed with, and its warnings.
Ended = tuple[int, Any, BaseException | None, Warned]


def compute_all(
    tasks: Sequence[Any],
    labels: Sequence[str],
    what: str,
    progress: bool | None = None,
    shared: bool = False,
    inputs: Inputs = (),
    sizes: Sequence[int] | None = None,
    rows_expected: int | None = None,
) -> list[Any]:
    """Compute Dask tasks, showing progress; a failing one does not stop the others.

    Parameters
    ----------
    tasks : sequence of dask.delayed.Delayed
    labels : sequence of str
        What each task works on, for messages.
    what : str
        What is being done, for progress and messages.
    progress : bool, optional
        False shows none. Default: a bar on a terminal, else lines for what takes longer.
    shared : bool, default False
        The tasks need common results, such as those of a shuffle. Without a client a cluster of
        one thread is started for them: it computes each once and spills to disk.
    inputs : sequence of (str, int or None), optional
        Some files that are read, with their sizes in bytes, or None where that may change: workers
        are asked whether they see them.
    sizes : sequence of int, optional
        How many labels each task stands for, when they are of `calls.call_each`.
    rows_expected : int, optional
        How many rows there are in all, where that is known.

    Returns
    -------
    list
        Results in the order of `labels`.

    Raises
    ------
    JobError
        After all others have finished, naming those that failed and why. When each failed with
        the same error of ours, that error.
    ClusterError
        At once, when the scheduler is lost, no worker comes, or one may not do the job.
    """
    if shared and current_client() is None:
        with get_client("cpu", n_workers=1, processes=False):
            return compute_all(
                tasks, labels, what, progress, inputs=inputs, rows_expected=rows_expected
            )
    client = current_client()
    waits_for = functools.partial(workers.hindrance, client) if client else lambda: None
    starts = list(itertools.accumulate(sizes, initial=0)) if sizes else range(len(tasks) + 1)
    results: list[Any] = [None] * len(labels)
    failures: dict[int, BaseException] = {}
    kinds: set[tuple[str, str]] = set()
    about = functools.partial(describe, client) if client and client not in _described else None
    if client:
        _described.add(client)
    bar = Progress(what, len(labels), progress, waits_for, about, rows_expected=rows_expected)
    with bar.running():
        ended = _on_cluster(client, tasks, inputs, bar) if client else _here(tasks, bar)
        for number, value, problem, warned in ended:
            bar.stop_hearing(number)
            bar.warn(warned)
            positions = range(starts[number], starts[number + 1])
            is_bundle = sizes is not None and problem is None
            outcomes = value if is_bundle else [Outcome(value, problem)] * len(positions)
            for position, (result, error) in zip(positions, outcomes, strict=True):
                if error is None:
                    results[position] = result
                    bar.end(result)
                    continue
                failures[position] = error
                bar.fail(error)
                if (kind := _kind(error)) not in kinds:
                    kinds.add(kind)
                    # `told`: no warning of a task that runs beside.
                    extra = {"told": True}
                    logger.warning("%s: %s: %s", what, labels[position], error, extra=extra)
    if failures:
        raise _summarise(failures, labels, what, len(labels))
    return results


def _here(tasks: Sequence[Any], bar: Progress) -> Iterator[Ended]:
    """Yield what came of one task at a time, each using all cores."""
    for position, task in enumerate(tasks):
        value, problem = None, None
        with watched.here(functools.partial(bar.hear, position)) as warned:
            try:
                value = dask.compute(task)[0]
            except Exception as error:
                problem = error
        yield position, value, problem, warned


def _on_cluster(
    client: Any, tasks: Sequence[Any], inputs: Inputs, bar: Progress
) -> Iterator[Ended]:
    """Yield what came of tasks as they end."""
    from distributed import as_completed

    if not tasks:
        return
    pending: dict[Any, int] = {}
    ended = 0
    topic = f"{__name__}-{uuid.uuid4().hex}"
    try:
        expected = workers.check(client, inputs)

        def watch(function: Any, number: int) -> Watched:
            return Watched(workers.Guarded(function, expected), topic, number)

        with watched.heard(client, topic, bar.hear):
            wrapped = [
                _dask.wrap(task, functools.partial(watch, number=number))
                for number, task in enumerate(tasks)
            ]
            futures = client.compute(wrapped)
            pending = {future: position for position, future in enumerate(futures)}
            del futures, wrapped
            for batch in as_completed(list(pending)).batches():
                finished = [future for future in batch if future.status == "finished"]
                values = dict(zip(finished, client.gather(finished), strict=True))
                for future in batch:
                    error = None if future in values else _error(client, future)
                    position = pending.pop(future)
                    ended += 1
                    value, warned = _as_told(values.get(future))
                    yield position, value, error, warned
                    future.release()
    except (OSError, CancelledError) as error:
        raise ClusterError(
            f"the scheduler was lost while {bar.job} ran, or it dropped the job: {ended} of "
            f"{len(tasks)} partitions are done and kept. Run the same again when there is a "
            "scheduler."
        ) from error
    finally:
        with contextlib.suppress(Exception):
            if client.status == "running":
                client.cancel(list(pending))


def _as_told(value: Any) -> Told:
    """What a task returned, whether it was watched or not."""
    return value if isinstance(value, Told) else Told(value, {})


def _error(client: Any, future: Any) -> BaseException:
    """Why a task failed.

    Raises
    ------
    CancelledError
        When the scheduler knows nothing of it.
    ClusterError
        When a worker may not do it.
    """
    from distributed.scheduler import KilledWorker

    if future.cancelled():
        raise CancelledError
    error: BaseException = future.exception()
    if isinstance(error, KilledWorker):
        return _killed(error)
    if isinstance(error, ClusterError):
        raise error
    # A worker that came later may be unable even to read its task.
    workers.check(client)
    return error


def _killed(error: Any) -> JobError:
    """What a task is said to have died of, whose workers died again and again."""
    worker = error.last_worker
    limit = getattr(worker, "memory_limit", 0)
    memory = f"; each had {limit / 2**30:.1f} GiB" if limit else ""
    return JobError(
        f"{error.allowed_failures + 1} workers were killed one after the other while they worked "
        f"on it, the last one {getattr(worker, 'address', worker)}. Most likely it needs more "
        f"memory than a worker has (--memory-limit{memory}): start fewer workers with more memory "
        "each, or take smaller batches (--batch-size)"
    )


def _kind(error: BaseException) -> tuple[str, str]:
    """What errors have in common that differ in names and numbers only."""
    return type(error).__name__, kind_of(str(error))


def _summarise(
    failures: dict[int, BaseException], labels: Sequence[str], what: str, total: int
) -> CurateError:
    errors = list(failures.values())
    same = {(type(error), str(error)) for error in errors}
    if (
        len(same) == 1
        and isinstance(errors[0], CurateError)
        and not isinstance(errors[0], JobError)
    ):
        return errors[0]
    kinds: dict[object, list[int]] = {}
    for position, error in sorted(failures.items()):
        alike = _kind(error) if len(failures) > _TOLD else position
        kinds.setdefault(alike, []).append(position)
    lines = [
        f"  {labels[first]}: {type(failures[first]).__name__}: {failures[first]}"
        + (f"\n    and {len(others)} more like this" if others else "")
        for first, *others in list(kinds.values())[:_TOLD]
    ]
    if len(kinds) > _TOLD:
        lines.append(f"  and {len(kinds) - _TOLD} more kinds of errors")
    summary = JobError(
        f"{what}: {len(failures)} of {total} partitions failed; the others are done and kept. "
        "Run the same job again after mending the cause:\n" + "\n".join(lines)
    )
    summary.__cause__ = errors[0]
    return summary
