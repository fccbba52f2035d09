"""Where each column of numbers is cut: as asked for, where a condition does, or at its median."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset.looking.distributions import Distribution
from nemo_image_curate.expressions.names import can_be_quoted
from nemo_image_curate.report.funnel import funnel
from nemo_image_curate.report.limits import Limit, limits
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

_MEDIAN, _TWO_VALUES = "about the median", "between its two values"
# Whole numbers above have digits as floats that nobody chose.
_EXACT = 2**53


@dataclass(frozen=True)
class Threshold:
    """Where a column is cut.

    Attributes
    ----------
    limit : Limit
    kept : int
        Rows on its side.
    origin : str
        Why it is there.
    others : list of Limit
        Further ones that conditions draw.
    """

    limit: Limit
    kept: int
    origin: str
    others: list[Limit]


def thresholds_of(
    dataset: ImageTextPairDataset, settings: Settings, shown: list[Distribution]
) -> dict[str, Threshold]:
    """The threshold of each column of numbers, with the rows on its side.

    Bars tell how many are on either side of an edge, such as the median; other values take a pass.
    """
    drawn = limits(settings.conditions)
    schema = frames.schema(dataset.metadata)
    cuts = {
        one.column: _cut(one, settings.thresholds.get(one.column), drawn.get(one.column, []))
        for one in shown
        if one.kind == "number" and one.low != one.high
        # Decimals are drawn, and have no order for `choose`.
        if not pa.types.is_decimal(schema.field(one.column).type) and can_be_quoted(one.column)
    }
    asked = [
        one.column
        for one in shown
        if one.column in cuts and (cuts[one.column][0] != _MEDIAN or one.infinite)
    ]
    steps = {}
    if asked:
        conditions = [cuts[column][1][0].expression(column) for column in asked]
        counted = funnel(dataset, conditions, settings.progress)
        steps = dict(zip(asked, counted.steps, strict=True))
    return {
        one.column: Threshold(
            first,
            one.rows - steps[one.column].drops if one.column in steps else _from(one, first),
            origin,
            others,
        )
        for one in shown
        if one.column in cuts
        for origin, (first, *others) in [cuts[one.column]]
    }


def _from(one: Distribution, limit: Limit) -> int:
    """The values from an edge on, where none is infinite: such are in no bar."""
    return int(one.counts[np.searchsorted(one.edges, limit.value) :].sum())


def is_decided(threshold: Threshold | None) -> bool:
    """Whether someone drew it."""
    return threshold is not None and threshold.origin not in (_MEDIAN, _TWO_VALUES)


def parts_two_values(threshold: Threshold) -> bool:
    """Whether all values on a side of it are the same, so that none is the lowest or highest."""
    return threshold.origin == _TWO_VALUES


def _cut(one: Distribution, given: float | None, drawn: list[Limit]) -> tuple[str, list[Limit]]:
    """Why a column is cut where, and the limits, that which is looked at first."""
    if given is not None:
        operator = drawn[0].operator if drawn else ">="
        return "as asked for", [Limit(operator, _plain(given)), *drawn]
    if drawn:
        return "from the conditions", drawn
    if _has_two_values(one):
        assert one.high is not None
        return _TWO_VALUES, [Limit(">=", _plain(one.high))]
    return _MEDIAN, [Limit(">=", _median(one))]


def _has_two_values(one: Distribution) -> bool:
    """Whether all values are the lowest or the highest, such as 0 and 1.

    Then the mean, which is exact, is theirs; of others within the same two bars it is not.
    """
    counts = [int(count) for count in one.counts[one.counts > 0]]
    if len(counts) != 2 or one.infinite or one.low is None or one.high is None:
        return False
    total = Fraction(one.low) * counts[0] + Fraction(one.high) * counts[1]
    return float(total / sum(counts)) == one.mean


def _median(one: Distribution) -> float:
    """The edge next to where half of the values are on either side."""
    up_to = np.concatenate([[0], np.cumsum(one.counts)])
    return _plain(float(one.edges[int(np.abs(up_to - up_to[-1] / 2).argmin())]))


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() and abs(value) < _EXACT else value
