"""What a selector found, in files of its work folder, and the columns that are made of it later."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nemo_image_curate.errors import DatasetError

T = TypeVar("T")


def read_once(path: Path, read: Callable[[Path], T], stage: str) -> T:
    """What is in a file, read once for all partitions that a process works on.

    Parameters
    ----------
    path : Path
    read : callable
        Reads it; a function of a module or class.
    stage : str
        What wrote it, for the message.

    Raises
    ------
    DatasetError
        When it is gone.
    """
    try:
        value: T = _read(path.stat().st_mtime_ns, path, read)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is gone, by which columns are made. Run {stage} again; give work_dir a folder "
            "that stays and that all workers share."
        ) from error
    return value


@functools.lru_cache(maxsize=8)
def _read(changed: int, path: Path, read: Callable[[Path], Any]) -> Any:
    """What was written at a time."""
    return read(path)


class MadeOfKept(abc.ABC):
    """Makes columns of a computed partition by a file of a work folder; what Dask maps.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path):
        self.path = path

    @abc.abstractmethod
    def content_token(self) -> tuple[Any, ...]:
        """What is made, wherever the file is."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # With the place: Dask takes expressions of one name for one, and a file may be gone.
        return (*self.content_token(), str(self.path))

    @abc.abstractmethod
    def __call__(self, frame: Any) -> dict[str, Any]:
        """The columns."""
