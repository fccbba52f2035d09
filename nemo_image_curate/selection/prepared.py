"""Column stages that need something of all rows, or of other data, before they look at a row."""

from __future__ import annotations

import abc
import copy
import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nemo_image_curate import frames, locks
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.stages.base import ColumnStage, no_effect
from nemo_image_curate.stages.gathered import Gathered

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


class Basis(Protocol):
    """What a stage compares rows with: in files, told by a hash of what they hold."""

    folder: Path
    digest: str


@dataclass(eq=False)
class PreparedStage(ColumnStage):
    """Adds columns by comparing each row with files that are made when the stage is called.

    Subclass it: give `prepare`, and `run`, which finds what it made in `basis`.

    Parameters
    ----------
    work_dir : str or path, optional
        A folder for these files, that all workers share. They have to stay until the columns are
        computed. Default: in the system's temporary folder.
    """

    _: KW_ONLY
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    # Of a copy, which workers get: a stage that is called stays as it is.
    _basis: Any = dataclasses.field(init=False, default=None, repr=False)

    @abc.abstractmethod
    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> Basis:
        """Make what rows are compared with.

        Parameters
        ----------
        dataset : ImageTextPairDataset
        folder : Path
            Of its own, the same one after a restart. What earlier calls left there may be in use.
        """

    @property
    def basis(self) -> Any:
        """What `prepare` made."""
        return self._basis

    def config(self) -> dict[str, Any]:
        """The parameters, and what rows are compared with; recorded with the columns."""
        compared = {} if self._basis is None else {"compared_with": self._basis.digest}
        return {**self.parameters(), **compared}

    def without_source(self) -> None:
        """Forget what `prepare` needs and workers do not."""

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, computed when they are needed.

        What rows are compared with is made now.

        Raises
        ------
        ConfigError
            For unusable settings.
        ColumnNotFoundError
            When a column that it looks at does not exist.
        """
        self.check()
        frames.require_columns(dataset.metadata, *self.inputs())
        prepared = copy.copy(self)
        folder = work_folder(dataset, self.work_dir, type(self).__qualname__)
        with locks.exclusive(str(folder)):
            prepared._basis = self.prepare(dataset, folder)
        prepared.without_source()
        records = prepared.provenance_in(dataset)
        return dataset.with_columns(_Rows(prepared), prepared.columns(), records)


class _Rows:
    """Runs a prepared stage over a computed partition; the function that Dask maps."""

    def __init__(self, stage: PreparedStage):
        self.stage = stage
        # What Dask's dashboard calls these tasks.
        self.__name__ = type(stage).__name__

    def content_token(self) -> list[Any]:
        """What is computed, wherever files lie."""
        return self.stage.content_token()

    def __dask_tokenize__(self) -> list[Any]:
        # With the place: Dask takes expressions of one name for one, and a folder may be gone.
        return [*self.content_token(), str(self.stage.basis.folder)]

    def __call__(self, frame: Any) -> dict[str, Any]:
        try:
            return self.stage.run(frame)
        except FileNotFoundError as error:
            name = type(self.stage).__name__
            raise DatasetError(
                f"{error.filename} is gone, by which columns are made. Run {name} again; give "
                "work_dir a folder that stays and that all workers share."
            ) from error


def gathered_once(gather: Callable[[Path], Gathered], folder: Path) -> Gathered:
    """Vectors in a folder named by what they are, so that others take no file from below them.

    Parameters
    ----------
    gather : callable
        Writes them to a folder.
    folder : Path
        Where that is made.
    """
    new = gather(folder / "gathering")
    # Partitions without a vector have no file, but a number.
    place = folder / fingerprint(new.digest, new.counts)[:24]
    if place.exists():
        shutil.rmtree(new.folder)
    else:
        new.folder.rename(place)
    return Gathered(place, new.columns, new.counts, new.dim, new.digest)
