"""`Stage`: what every embedder, classifier, statistic and deduplication is.

A stage is called with a dataset and returns one with more columns; rows stay. `PixelStage` makes
columns of decoded images, `ColumnStage` makes them of other columns. Parameters are declared as
fields of a dataclass, and constructors only store them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nemo_image_curate import frames
from nemo_image_curate.dataset.fingerprints import describe, describe_code
from nemo_image_curate.decode.batch import DecodedBatch
from nemo_image_curate.errors import require
from nemo_image_curate.stages.image_pass import ImagePass, check_columns
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# For the metadata of a field.
NO_EFFECT = MappingProxyType({"affects_values": False})


def no_effect(default: Any) -> Any:
    """The default of a parameter that changes no value, or whose effect `Stage.config` records.

    Results that were saved with another value of it are taken over.
    """
    return dataclasses.field(default=default, metadata=NO_EFFECT)


class Stage(abc.ABC):
    """Adds columns to a dataset.

    Attributes
    ----------
    requires : tuple of (str, str)
        Optional modules that the stage needs, each with the extra that brings it; looked for when
        a stage is constructed.
    """

    requires: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __post_init__(self) -> None:
        for module, extra in self.requires:
            require(module, extra, type(self).__name__)

    def check(self) -> None:  # noqa: B027
        """Refuse unusable settings, before any work is done.

        Raises
        ------
        ConfigError
        """

    @abc.abstractmethod
    def columns(self) -> dict[str, pa.DataType]:
        """The columns that are added, with their types."""

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The columns that a dataset must have for the stage to be called with it."""
        return []

    def config(self) -> dict[str, Any]:
        """What else than the parameters decides the values; it is recorded with each column."""
        return {}

    def provenance(self) -> dict[str, dict[str, Any]]:
        """How each column is made: what a dataset records of it."""
        return {name: self.record() for name in self.columns()}

    def record(self, **more: Any) -> dict[str, Any]:
        """What is recorded of a column: the stage, its `config`, our version, and more."""
        stage = type(self).__qualname__
        return {"stage": stage, **self.config(), "version": __version__, **more}

    @abc.abstractmethod
    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns."""

    def parameters(self) -> dict[str, Any]:
        """The parameters that decide values: all public attributes but those with `no_effect`."""
        without = {
            field.name
            for field in getattr(self, "__dataclass_fields__", {}).values()
            if not field.metadata.get("affects_values", True)
        }
        return {
            # Counts often come as NumPy's numbers, which JSON does not know.
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in sorted(vars(self).items())
            if not name.startswith("_") and name not in without
        }

    def content_token(self) -> list[Any]:
        """What tells the stage's values from those of any other.

        The class, the code of users' classes that it is derived from, `parameters` and `config`.
        """
        package = __name__.partition(".")[0]
        user_classes = [
            describe_code(cls)
            for cls in type(self).__mro__
            if cls.__module__.partition(".")[0] not in (package, "abc", "builtins", "typing")
        ]
        return [
            type(self).__qualname__,
            user_classes,
            describe(self.parameters()),
            describe(self.config()),
        ]

    def __dask_tokenize__(self) -> list[Any]:
        return self.content_token()


# Values for the images that were decoded, by column.
Consume = Callable[[DecodedBatch], Mapping[str, Any]]


@dataclass(eq=False, kw_only=True)
class PixelStage(Stage):
    """Adds columns made of decoded images.

    Called with a dataset it makes a pass over the images of its own; handed to an embedder's
    `image_stages` it shares the embedder's.

    Parameters
    ----------
    num_threads_per_worker : int, default 4
        Threads that decode images in each worker.
    use_index_files : bool, default False
        Find images with the ``STEM.idx`` files of DALI's ``wds2idx``.
    orientation : {"stored", "exif"}
        Whether pictures stay as they are stored, which is what timm and open_clip do, or are
        turned as EXIF says before anything else. TIFF and HEIC are upright in any case.

    Attributes
    ----------
    thumbnail_size : int or None
        The side of the whole-image thumbnails that it needs, if any.
    """

    num_threads_per_worker: int = no_effect(4)
    use_index_files: bool = no_effect(False)
    orientation: str = "stored"

    thumbnail_size: ClassVar[int | None] = None

    @abc.abstractmethod
    def load(self, device: str) -> Consume:
        """What makes values of a batch of decoded images; loaded once per process.

        Parameters
        ----------
        device : {"cpu", "cuda"}

        Returns
        -------
        callable
            From a `DecodedBatch` of m decoded images to values by column: a sequence, array or
            tensor of length m, and for a column of lists float32 of shape (m, d).
        """

    def image_pass(self) -> ImagePass:
        """The pass over the images that the stage is part of."""
        return ImagePass(
            stages=(self,),
            num_threads=self.num_threads_per_worker,
            use_index_files=self.use_index_files,
            orientation=self.orientation,
        )

    def record(self, **more: Any) -> dict[str, Any]:
        """What is recorded of a column; with how pictures are turned."""
        return super().record(orientation=self.orientation, **more)

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, computed when they are needed.

        Raises
        ------
        ConfigError
            For unusable settings.
        """
        return self.image_pass()(dataset)


class ColumnStage(Stage):
    """Adds columns made of other columns."""

    @abc.abstractmethod
    def inputs(self) -> list[str]:
        """The columns that it looks at."""

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The columns that a dataset must have: `inputs`."""
        return self.inputs()

    @abc.abstractmethod
    def run(self, frame: Any) -> dict[str, Any]:
        """The columns of a computed partition.

        Parameters
        ----------
        frame : pandas.DataFrame or cudf.DataFrame, n rows

        Returns
        -------
        dict of str to pyarrow.Array or series
            All of `columns`, of length n in the order of the rows; null where a row has no value.
        """

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, computed when they are needed.

        Raises
        ------
        ConfigError
            For unusable settings.
        ColumnNotFoundError
            When a column that it looks at does not exist.
        """
        self.check()
        check_columns([self])
        frames.require_columns(dataset.metadata, *self.inputs())
        return dataset.with_columns(self.run, self.columns(), self.provenance_in(dataset))

    def provenance_in(self, dataset: ImageTextPairDataset) -> dict[str, dict[str, Any]]:
        """`provenance`, with what the dataset records of the columns looked at."""
        return self.provenance()
