"""Jobs: many Dask tasks with progress, where a failing one does not stop the others."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import dask
from tqdm import tqdm

from nemo_image_curate.compute import _dask, workers
from nemo_image_curate.compute.client import current_client, get_client
from nemo_image_curate.errors import ClusterError, CurateError, JobError

logger = logging.getLogger(__name__)


def compute_all(
    tasks: Sequence[Any],
    labels: Sequence[str],
    what: str,
    progress: bool | None = None,
    shared: bool = False,
    inputs: Sequence[tuple[str, int | None]] = (),
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
    inputs : sequence of (str, int or None), optional
        Some files that are read, with their sizes in bytes, or None where that may change: workers
        are asked whether they see them.

    Returns
    -------
    list
        Results in the order of `tasks`.

    Raises
    ------
    JobError
        After all others have finished, naming those that failed and why. When each failed with
        the same error of ours, that error.
    """
    if shared and current_client() is None:
        with get_client("cpu", n_workers=1, processes=False):
            return compute_all(tasks, labels, what, progress, inputs=inputs)
    if progress is None:
        progress = sys.stderr.isatty()
    results: list[Any] = [None] * len(tasks)
    failures: dict[int, BaseException] = {}
    with tqdm(total=len(tasks), desc=what, unit="part", disable=not progress) as bar:
        for position, value, error in _each(tasks, inputs):
            bar.update()
            if isinstance(error, ClusterError):
                raise error
            if error is not None:
                failures[position] = error
                logger.warning("%s: %s: %s", what, labels[position], error)
                continue
            results[position] = value
    if failures:
        raise _summarise(failures, labels, what, len(tasks))
    return results


def _each(
    tasks: Sequence[Any], inputs: Sequence[tuple[str, int | None]]
) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Yield (position, value, error) as tasks end."""
    client = current_client()
    if client is not None:
        from distributed import as_completed

        expected = workers.check(client, inputs)
        guard = functools.partial(workers.Guarded, expected=expected)
        futures = client.compute([_dask.wrap(task, guard) for task in tasks])
        positions = {future.key: position for position, future in enumerate(futures)}
        try:
            for future in as_completed(futures):
                error = future.exception() if future.status != "finished" else None
                if error is not None:
                    # One that came later may be unable even to read its task.
                    workers.check(client)
                yield positions[future.key], None if error else future.result(), error
                future.release()
        finally:
            client.cancel(futures)
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
