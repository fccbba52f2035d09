"""Which rows of a frame are wanted, and how often: asked of each partition before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.dataset.conditions import Dropped, drop, drop_rows
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class Wanted:
    """Conditions on rows, and columns that say how often, or with which weight, each is taken.

    Attributes
    ----------
    id_col : str
    conditions : tuple of str
        Expressions that are true for the rows that are wanted.
    filter_column : str, optional
        A bool column that is true for them.
    multiplicity : str, optional
        A column of whole numbers; rows with 0 or null are not wanted.
    weight : str, optional
        A column of numbers from 0 on; rows with 0 or null are not wanted.
    """

    id_col: str
    conditions: tuple[str, ...] = ()
    filter_column: str | None = None
    multiplicity: str | None = None
    weight: str | None = None

    def check(self, frame: Any) -> None:
        """Refuse columns that are not there, or not of their kind.

        Raises
        ------
        ColumnNotFoundError, ConfigError
        """
        frames.require_columns(frame, self.id_col, SHARD_COLUMN)
        if self.filter_column is not None:
            frames.require_columns(frame, self.filter_column)
            kind = str(frame.dtypes[self.filter_column])
            if not kind.startswith("bool"):
                raise ConfigError(
                    f"filter_column {self.filter_column!r} is {kind}, not bool. Assign a "
                    f"comparison to it, such as metadata[{self.filter_column!r}] > 0."
                )
        schema = frames.schema(frame)
        for argument in ("multiplicity", "weight"):
            name = getattr(self, argument)
            if name is None:
                continue
            frames.require_columns(frame, name)
            kind = schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise ConfigError(f"{argument} column {name!r} is {kind}, not numbers.")

    def config(self) -> list[Any]:
        """What decides the rows, as plain values; of an export without repeats as it always was."""
        more = {name: getattr(self, name) for name in ("multiplicity", "weight")}
        return [
            *([self.conditions] if self.conditions else []),
            *(pair for pair in more.items() if pair[1] is not None),
        ]

    def rows(self, table: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        """The rows that are wanted, and what was dropped, for `Dropped.total`.

        Raises
        ------
        DatasetError
            For a multiplicity that is negative or no whole number, or a negative or infinite
            weight, naming the first such row.
        """
        table, summary = drop_rows(table, self.conditions)
        parts = [summary]
        if self.filter_column is not None:
            table, dropped = drop(table, table[self.filter_column], [self.filter_column])
            parts.append({"dropped": vars(dropped)})
        for name, check in ((self.multiplicity, self._whole), (self.weight, self._weights)):
            if name is not None:
                numbers = frames.nan_to_null(table[name])
                check(table, name, numbers)
                table, dropped = drop(table, pc.greater(numbers, 0), [name])
                parts.append({"dropped": vars(dropped)})
        return table, {"dropped": vars(Dropped.total(parts))}

    def counts(self, table: pa.Table) -> pa.Array:
        """How often each of the rows that `rows` gave is taken: int64, at least 1."""
        if self.multiplicity is None:
            return pa.array(np.ones(len(table), dtype=np.int64))
        return table[self.multiplicity].cast(pa.int64()).combine_chunks()

    def once(self, table: pa.Table) -> pa.Table:
        """The table with a multiplicity of 1: where rows are repeated, each is one sample."""
        if self.multiplicity is None:
            return table
        number = table.column_names.index(self.multiplicity)
        field = table.schema.field(number)
        ones = pa.array(np.ones(len(table), dtype=np.int64)).cast(field.type)
        return table.set_column(number, field, ones)

    def _whole(self, table: pa.Table, name: str, numbers: Any) -> None:
        unusable = pc.less(numbers, 0)
        if pa.types.is_floating(numbers.type):
            # Infinity is no whole number either, though it equals its floor.
            fractional = pc.or_(pc.is_inf(numbers), pc.not_equal(numbers, pc.floor(numbers)))
            unusable = pc.or_(unusable, fractional)
        self._refuse(
            *(table, name, numbers, unusable),
            "how often a row is taken should be a whole number from 0 on. Round it up or down, by "
            "a draw for each row if its mean should stay, and replace what is below 0.",
        )

    def _weights(self, table: pa.Table, name: str, numbers: Any) -> None:
        unusable = pc.less(numbers, 0)
        if pa.types.is_floating(numbers.type):
            unusable = pc.or_(unusable, pc.is_inf(numbers))
        self._refuse(
            *(table, name, numbers, unusable),
            "a weight should be a finite number from 0 on. Replace what is not.",
        )

    def _refuse(self, table: pa.Table, name: str, numbers: Any, unusable: Any, why: str) -> None:
        row = pc.index(pc.fill_null(unusable, False), True).as_py()
        if row >= 0:
            raise DatasetError(
                f"column {name!r} holds {numbers[row]} for the sample {table[self.id_col][row]} of "
                f"{table[SHARD_COLUMN][row]}: {why}"
            )
