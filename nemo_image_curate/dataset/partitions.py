"""Functions of computed partitions: called now, on the workers, or when columns are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dask
from dask.base import normalize_token

from nemo_image_curate import frames
from nemo_image_curate.compute import jobs
from nemo_image_curate.compute.calls import Call, Calls, call_each
from nemo_image_curate.dataset.fingerprints import Lineage, describe
from nemo_image_curate.dataset.sources import bundle_sizes


def run(
    frame: Any,
    function: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]] | None = None,
    *,
    what: str,
    numbers: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    shared: Sequence[Any] = (),
    progress: bool | None = None,
) -> list[Any]:
    """The results of a function of some partitions.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    function : callable
        Called with a computed partition and its arguments.
    arguments : iterable of tuple, optional
        Further arguments for each of `numbers`.
    what : str
        What is being done, for the progress bar and messages.
    numbers : sequence of int, optional
        Which partitions. Default: all.
    labels : sequence of str, optional
        What each of them is called in messages.
    shared : sequence, optional
        Further arguments of every call, after its own; each goes to a worker once.
    progress : bool, optional
        Show a progress bar. Default: on a terminal.

    Returns
    -------
    list
        In the order of `numbers`.

    Raises
    ------
    JobError
        After all others have finished, naming the partitions that failed and why.
    """
    numbers = range(frame.npartitions) if numbers is None else numbers
    if not numbers:
        return []
    arguments = [()] * len(numbers) if arguments is None else list(arguments)
    labels = [f"partition {number}" for number in numbers] if labels is None else labels
    sent = [dask.delayed(value, traverse=False) for value in shared]
    lineage = Lineage(frame)
    inputs = list(_probes(lineage))
    if lineage.independent:
        ((_, sources),) = lineage.readers
        chosen = [sources[number] for number in numbers]
        sizes = bundle_sizes(chosen)
        tasks = _bundled(frame, function, numbers, arguments, sizes, sent)
        rows = [source.rows for source in chosen]
        return jobs.compute_all(
            *(tasks, labels, what, progress),
            inputs=inputs,
            sizes=sizes,
            rows_expected=None if None in rows else sum(rows),
        )
    # Of Dask's ways to shuffle only this one has rows arrive in the same order every time. When it
    # tunes, it puts small files together, so that there are fewer partitions than the frame has.
    with dask.config.set({"dataframe.shuffle.method": "tasks", "optimization.tune.active": False}):
        partitions = frame.to_delayed()
    call = dask.delayed(function, pure=False)
    tasks = [
        call(partitions[number], *args, *sent)
        for number, args in zip(numbers, arguments, strict=True)
    ]
    return jobs.compute_all(tasks, labels, what, progress, shared=True, inputs=inputs)


def _bundled(
    frame: Any,
    function: Callable[..., Any],
    numbers: Sequence[int],
    arguments: Sequence[tuple[Any, ...]],
    sizes: Sequence[int],
    sent: Sequence[Any],
) -> list[Any]:
    """A Dask task for each bundle of partitions, one partition after the other."""
    from nemo_image_curate.compute import _bundles

    task_of = _bundles.partition_tasks(frame.expr)
    call = dask.delayed(call_each, pure=False)
    tasks, start = [], 0
    for size in sizes:
        bundle = range(start, start + size)
        calls = [Call(function, task_of(("part", n), numbers[n]), arguments[n]) for n in bundle]
        tasks.append(call(Calls(calls), *sent))
        start += size
    return tasks


def _probes(lineage: Lineage) -> Iterator[tuple[str, int | None]]:
    """A few of the files that a frame reads, with their sizes: what no worker may miss."""
    for _, sources in lineage.readers:
        for source in (*sources[:1], *sources[-1:]):
            if source.tar is not None:
                yield source.tar.location, source.tar.size
            if source.sidecar is not None:
                # It is written anew when the frame is saved in place.
                yield source.sidecar.location, None


class AddColumns:
    """Adds the columns that a function makes of a computed partition; what Dask maps.

    Parameters
    ----------
    function : callable
    names : iterable of str
        The columns that it makes.
    """

    def __init__(self, function: Callable[[Any], Mapping[str, Any]], names: Iterable[str]):
        self.function = function
        self.names = tuple(names)
        # What Dask's dashboard calls these tasks.
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        # Whether it reads all headers of the tars, and whether anything of them.
        self.scans_tars = getattr(function, "scans_tars", False)
        self.reads_tars = getattr(function, "reads_tars", False)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("AddColumns", normalize_token(self.function), self.names)

    def content_token(self) -> list[Any]:
        """What it computes, wherever files lie."""
        return ["AddColumns", describe(self.function), self.names]

    def __call__(self, frame: Any) -> Any:
        columns = self.function(frame)
        return frames.with_columns(frame, {name: columns[name] for name in self.names})
