"""Rows that conditions drop, counted: false, or neither true nor false, and by which column."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.expressions.check import check
from nemo_image_curate.expressions.evaluate import condition

logger = logging.getLogger(__name__)


@dataclass
class Dropped:
    """Rows that were left out.

    Attributes
    ----------
    by_condition : int
        A condition was false.
    by_null : int
        It was neither true nor false.
    null_columns : dict of str to int
        In how many of the latter a column that the condition looks at was null.
    conditions : dict of str to int
        How many each expression dropped, in whatever way, of those that the ones before it left.
    """

    by_condition: int = 0
    by_null: int = 0
    null_columns: dict[str, int] = field(default_factory=dict)
    conditions: dict[str, int] = field(default_factory=dict)

    @classmethod
    def total(cls, summaries: Iterable[Mapping[str, Any]]) -> Dropped:
        """The sum of what summaries of partitions say under ``dropped``."""
        whole, columns, conditions = cls(), Counter[str](), Counter[str]()
        for summary in summaries:
            part = cls(**summary.get("dropped", {}))
            whole.by_condition += part.by_condition
            whole.by_null += part.by_null
            columns.update(part.null_columns)
            conditions.update(part.conditions)
        whole.null_columns = dict(sorted(columns.items()))
        whole.conditions = dict(conditions)
        return whole

    def tell(self) -> None:
        """Warn of rows that were dropped for a null."""
        if self.by_null:
            logger.warning(
                "%s rows were dropped because a condition was neither true nor false; null: %s",
                f"{self.by_null:,}",
                ", ".join(f"{name} {count:,}" for name, count in self.null_columns.items()),
            )


def drop_rows(table: pa.Table, conditions: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """The rows for which all conditions are true, one after the other, and what was dropped."""
    summaries = []
    for expression in conditions:
        table, dropped = drop(
            table, condition(table, expression), check(expression, table.column_names)
        )
        dropped.conditions = {expression: dropped.by_condition + dropped.by_null}
        summaries.append({"dropped": vars(dropped)})
    return table, {"dropped": vars(Dropped.total(summaries))}


def drop(table: pa.Table, mask: Any, columns: Sequence[str]) -> tuple[pa.Table, Dropped]:
    """The rows for which a mask is true.

    Parameters
    ----------
    table : pyarrow.Table, n rows
    mask : pyarrow.BooleanArray or ChunkedArray, length n
    columns : sequence of str
        What the mask was made of.
    """
    is_null = pc.is_null(mask)
    chosen = pc.fill_null(mask, False)
    unknown = table.select(list(columns)).filter(is_null)
    kept = table.filter(chosen)
    return kept, Dropped(
        by_condition=len(table) - len(kept) - len(unknown),
        by_null=len(unknown),
        null_columns={
            name: count
            for name in columns
            # NaN is null to conditions.
            if (count := int(pc.sum(pc.is_null(unknown[name], nan_is_null=True)).as_py() or 0))
        },
    )
