"""`TopFraction`: the rows with the highest, or lowest, values of a column."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dataset.threshold import Share, find_threshold
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.stages.base import Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class TopFraction(Stage):
    """Adds a column that says which rows have the highest values of another one.

    Parameters
    ----------
    column : str
        Of numbers, bools, times or dates.
    fraction : float, optional
        Over 0 and at most 1: int(fraction N) of the N rows that have a value.
    count : int, optional
        A number of rows instead.
    largest : bool, default True
        The highest values; False for the lowest.
    prefix : str, default ""
        Put before the name of the column, to keep several selections apart.

    Columns
    -------
    selected : bool
        False where the value is null or NaN, too. All rows are true whose value equals that of
        the last one chosen, so that ties make them more than was asked for.

    Notes
    -----
    The threshold is found when the stage is called, as `ImageTextPairDataset.threshold` does;
    it is recorded with the column, together with how many rows have a value, and how many none.

    Examples
    --------
    >>> ds = TopFraction("clip_score", 0.3)(ds)
    >>> ds = ds.filter("selected")
    """

    column: str
    fraction: float | None = None
    count: int | None = None
    largest: bool = True
    prefix: str = ""

    @property
    def share(self) -> Share:
        """How many rows are wanted."""
        return Share(self.fraction, self.count)

    def check(self) -> None:
        """Refuse unusable parameters with `ConfigError`."""
        self.share.check()

    def columns(self) -> dict[str, pa.DataType]:
        """The column and its type."""
        return {f"{self.prefix}selected": pa.bool_()}

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result."""
        return self.parameters()

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The column of values."""
        return [self.column]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the column; the threshold is found now.

        Raises
        ------
        ConfigError
            For unusable parameters, or a column of other values.
        ColumnNotFoundError
        """
        self.check()
        (name,) = self.columns()
        if name in (dataset.id_col, SHARD_COLUMN, self.column):
            raise ConfigError(f"prefix={self.prefix!r} would overwrite the column {name!r}.")
        threshold = find_threshold(dataset.metadata, self.column, self.share, self.largest)
        if threshold.n_without_value:
            logger.warning(
                "%s: %s of %s rows have no %s and are not selected",
                name,
                f"{threshold.n_without_value:,}",
                f"{threshold.n_without_value + threshold.n_with_value:,}",
                self.column,
            )
        record = self.record(**threshold.facts())
        marks = AtOrBeyond(self.column, threshold.bound, self.largest, name)
        return dataset.with_columns(marks, self.columns(), {name: record})


class AtOrBeyond:
    """Whether the values of a partition reach a bound; the function that Dask maps.

    Parameters
    ----------
    column : str
    bound : pyarrow.Scalar or None
        None: no value does.
    largest : bool
        Whether values reach it from above.
    name : str
        The column that is made.
    """

    # What Dask's dashboard calls these tasks.
    __name__ = "at-or-beyond"

    def __init__(self, column: str, bound: pa.Scalar | None, largest: bool, name: str):
        self.column = column
        self.bound = bound
        self.largest = largest
        self.name = name

    def __dask_tokenize__(self) -> list[Any]:
        return self.content_token()

    def content_token(self) -> list[Any]:
        """What decides the values."""
        bound = [] if self.bound is None else [str(self.bound.type), str(self.bound)]
        return ["AtOrBeyond", self.column, bound, self.largest, self.name]

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        values = frames.nan_to_null(frames.column_to_arrow(frame[self.column]))
        if self.bound is None or pa.types.is_null(values.type):
            return {self.name: pa.array([False] * len(values), pa.bool_())}
        reaches = pc.greater_equal if self.largest else pc.less_equal
        return {self.name: pc.fill_null(reaches(values, self.bound), False)}
