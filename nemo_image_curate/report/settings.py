"""What a report shows of a dataset, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.selection.subsets.result import SubsetComparison


@dataclass(frozen=True)
class Settings:
    """What sections of a report are told beside the dataset.

    Attributes
    ----------
    conditions : tuple of str
        What rows are kept by: those of `dataset.filter` and those given. Sections get the dataset
        before them, and say what they do.
    columns : tuple of str
        Columns that get a section of their own; empty: all that can have one.
    thresholds : mapping of str to float
        Where to look for the borderline of a column, in place of conditions or the median.
    seed : int
        Of all random choices.
    pictures : int
        Pictures of a strip: so many just below a threshold, just above it, best, worst.
    sample : int
        Pictures chosen at random of all rows.
    against : ImageTextPairDataset, optional
        Another dataset, or run, to compare with.
    references : mapping of str to ImageTextPairDataset
        What `Decontaminate` compared with, by the names there: leaks are shown beside pictures of
        those that are given.
    comparison : SubsetComparison, optional
        Of subsets of the dataset, which is shown as it is.
    side : int
        Pixels of a thumbnail, at most.
    byte_budget : int
        Of the page, for all pictures and what is told of each; thumbnails shrink where they are
        many, and what comes after is named only.
    progress : bool, optional
        Show progress bars. Default: on a terminal.
    """

    conditions: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    pictures: int = 12
    sample: int = 48
    against: ImageTextPairDataset | None = None
    references: Mapping[str, ImageTextPairDataset] = field(default_factory=dict)
    comparison: SubsetComparison | None = None
    side: int = 160
    byte_budget: int = 8_000_000
    progress: bool | None = None

    def check(self, dataset: ImageTextPairDataset) -> None:
        """Refuse what cannot be shown of a dataset.

        Raises
        ------
        ColumnNotFoundError, ConfigError
        """
        for name in ("pictures", "sample"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} should be at least 1.")
        frames.require_columns(dataset.metadata, *self.columns, *self.thresholds)
        schema = frames.schema(dataset.metadata)
        for column, value in self.thresholds.items():
            if not math.isfinite(value):
                raise ConfigError(f"the threshold {value} of {column!r} should be a finite number.")
            kind = schema.field(column).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise ConfigError(f"{column!r} holds {kind}: only numbers have a threshold.")
            if pa.types.is_uint64(kind):
                raise ConfigError(f"{column!r} holds {kind}, as hashes do: it has no threshold.")
        for column in self.columns:
            kind = schema.field(column).type
            if pa.types.is_nested(kind) or pa.types.is_uint64(kind) or column == dataset.id_col:
                raise ConfigError(
                    f"{column!r} holds {'keys' if column == dataset.id_col else kind}: only "
                    "columns of numbers or few values have a section."
                )
        for condition in self.conditions:
            dataset.filter(condition)
