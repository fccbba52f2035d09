"""Functions of computed partitions: called now, on the workers, or when columns are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dask
from dask.base import normalize_token

from nemo_image_curate import frames
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.fingerprints import Lineage, describe


def run(
    frame: Any,
    function: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]] | None = None,
    *,
    what: str,
    numbers: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
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
    arguments = [()] * len(numbers) if arguments is None else arguments
    labels = [f"partition {number}" for number in numbers] if labels is None else labels
    # Of Dask's ways to shuffle only this one has rows arrive in the same order every time.
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        partitions = frame.to_delayed()
    call = dask.delayed(function, pure=False)
    tasks = [call(partitions[number], *own) for number, own in zip(numbers, arguments, strict=True)]
    return jobs.compute_all(tasks, labels, what, progress, shared=not Lineage(frame).independent)


class AddColumns:
    """Adds the columns that a function makes of a computed partition; what Dask maps.

    Parameters
    ----------
    function : callable
    """

    def __init__(self, function: Callable[[Any], Mapping[str, Any]]):
        self.function = function
        # What Dask's dashboard calls these tasks.
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        # Whether it reads all headers of the tars, and whether anything of them.
        self.scans_tars = getattr(function, "scans_tars", False)
        self.reads_tars = getattr(function, "reads_tars", False)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("AddColumns", normalize_token(self.function))

    def content_token(self) -> list[Any]:
        """What it computes, wherever files lie."""
        return ["AddColumns", describe(self.function)]

    def __call__(self, frame: Any) -> Any:
        return frames.with_columns(frame, dict(self.function(frame)))
