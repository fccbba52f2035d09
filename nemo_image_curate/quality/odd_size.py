"""`OddSize`: which images are of another size than most of the dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset.threshold import Share, find_threshold
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.stages.base import Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

IS_ODD_SIZE = "is_odd_size"
_MEGAPIXELS = "megapixels"
_QUARTER = Share(0.25)


@dataclass(eq=False)
class OddSize(Stage):
    """Adds a flag of images that are much smaller or larger than most of the dataset.

    Parameters
    ----------
    iqr_factor : float, default 3.0
        By how many times the distance between the quartiles a size may be outside of them;
        CleanVision's default.

    Columns
    -------
    is_odd_size : bool
        Null where the size is not known.

    Notes
    -----
    The size is the square root of the number of pixels, of the column ``megapixels`` that
    `ImageQuality` makes. The quartiles are found when the stage is called, exactly and on the
    workers; save `ImageQuality`'s columns first, or images are decoded for each. They are sizes of
    images, the highest of the lowest quarter and the lowest of the highest one, where CleanVision
    0.3.7 takes a value between two: with fewer than four images none is odd.

    Examples
    --------
    >>> ds = OddSize()(ds)  # doctest: +SKIP
    """

    iqr_factor: float = 3.0

    def check(self) -> None:
        """Refuse an unusable factor with `ConfigError`."""
        if not (math.isfinite(self.iqr_factor) and self.iqr_factor >= 0):
            raise ConfigError(f"iqr_factor={self.iqr_factor} should be a number from 0 on.")

    def columns(self) -> dict[str, pa.DataType]:
        """The column and its type."""
        return {IS_ODD_SIZE: pa.bool_()}

    def config(self) -> dict[str, Any]:
        """The factor."""
        return self.parameters()

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the column; the quartiles are found now.

        Raises
        ------
        ConfigError
            For an unusable factor.
        ColumnNotFoundError
            When there is no column ``megapixels``.
        """
        self.check()
        frames.require_columns(dataset.metadata, _MEGAPIXELS)
        lower, upper = (
            find_threshold(dataset.metadata, _MEGAPIXELS, _QUARTER, largest).value
            for largest in (False, True)
        )
        bounds = None
        if lower is not None and upper is not None:
            low, high = (math.sqrt(float(value) * 1e6) for value in (lower, upper))
            margin = self.iqr_factor * (high - low)
            bounds = (low - margin, high + margin)
        record = self.record(smallest=bounds and bounds[0], largest=bounds and bounds[1])
        return dataset.with_columns(_Outside(bounds), self.columns(), {IS_ODD_SIZE: record})


class _Outside:
    """Whether the sizes of a partition are outside of two bounds; the function that Dask maps."""

    # What Dask's dashboard calls these tasks.
    __name__ = "odd-size"

    def __init__(self, bounds: tuple[float, float] | None):
        self.bounds = bounds

    def __dask_tokenize__(self) -> list[Any]:
        return self.content_token()

    def content_token(self) -> list[Any]:
        """What decides the values."""
        return ["OddSize", *map(repr, self.bounds or ())]

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        values = frames.nan_to_null(frames.column_to_arrow(frame[_MEGAPIXELS]))
        if pa.types.is_null(values.type):
            return {IS_ODD_SIZE: pa.nulls(len(values), pa.bool_())}
        sizes = np.sqrt(values.fill_null(0).to_numpy().astype(np.float64) * 1e6)
        low, high = self.bounds or (0.0, math.inf)
        is_odd = (sizes < low) | (sizes > high)
        return {IS_ODD_SIZE: pa.array(is_odd, mask=values.is_null().to_numpy(False))}
