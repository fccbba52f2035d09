"""Tables that tasks hand to each other in files, each row to the task that it concerns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.tables import large_texts


class Exchange:
    """Files by sender, each with a record batch for every receiver.

    Parameters
    ----------
    folder : Path
        On a file system that all workers share.
    name : str
        What the files' names begin with.
    senders, receivers : int
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, folder: Path, name: str, senders: int, receivers: int):
        self.folder = folder
        self.name = name
        self.senders = senders
        self.receivers = receivers

    def path(self, sender: int) -> Path:
        """The file of a sender."""
        return self.folder / f"{self.name}-{sender:05d}.arrow"

    def write(self, sender: int, table: pa.Table, receiver: np.ndarray) -> None:
        """Write all that a sender has, and to whom each row goes; their order is kept."""
        order = np.argsort(receiver, kind="stable")
        ends = np.cumsum(np.bincount(receiver, minlength=self.receivers))
        write_batches(self.path(sender), large_texts(table).take(order), ends)

    def read(self, receiver: int) -> pa.Table:
        """What all senders have for a receiver, by sender."""
        batches = []
        for sender in range(self.senders):
            with pa.memory_map(str(self.path(sender))) as file:
                batches.append(pa.ipc.open_file(file).get_batch(receiver))
        return pa.Table.from_batches(batches).combine_chunks()

    def fill(
        self,
        function: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
        what: str,
        progress: bool | None,
    ) -> None:
        """Have workers write the files that are not there.

        Parameters
        ----------
        function : callable
            Called with this exchange, a sender and its arguments; writes that sender's file.
        arguments : sequence of tuple
            For each sender.
        what : str
            What is being done, for the progress bar and messages.
        progress : bool or None
        """
        paths = [self.path(sender) for sender in range(self.senders)]
        write_missing(function, self, paths, arguments, what, progress)


def write_missing(
    function: Callable[..., None],
    files: Any,
    paths: Sequence[Path],
    arguments: Sequence[tuple[Any, ...]],
    what: str,
    progress: bool | None,
) -> None:
    """Have workers write those of some files that are not there.

    Parameters
    ----------
    function : callable
        Called with `files`, the number of a file, and its arguments.
    files : object
    paths : sequence of Path
    arguments : sequence of tuple
        For each file.
    what : str
        What is being done, for the progress bar and messages.
    progress : bool or None
    """
    todo = [number for number, path in enumerate(paths) if not path.exists()]
    call = dask.delayed(function, pure=False)
    jobs.compute_all(
        [call(files, number, *arguments[number]) for number in todo],
        [f"block {number}" for number in todo],
        what,
        progress,
    )


def write_batches(path: Path, table: pa.Table, ends: Sequence[int] | np.ndarray) -> None:
    """Write a table as an Arrow file of record batches, empty ones as well.

    Parameters
    ----------
    path : Path
    table : pyarrow.Table
    ends : sequence of int
        Where each batch ends; rising.
    """
    arrays = [column.combine_chunks() for column in table.columns]
    whole = pa.RecordBatch.from_arrays(arrays, schema=table.schema)
    with (
        storage.atomic_write(str(path)) as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        for start, end in itertools.pairwise([0, *ends]):
            writer.write_batch(whole.slice(start, end - start))
