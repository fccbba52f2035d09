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
    dataset: ImageTextPairDataset, settings: Settings, distributions: list[Distribution]
) -> dict[str, Threshold]:
    """The threshold of each column of numbers, with the rows on its side.

    Bars tell how many are on either side of an edge, such as the median; other values take a pass.
    """
    drawn = limits(settings.conditions)
    schema = frames.schema(dataset.metadata)
    cuts = {
        dist.column: _cut(dist, settings.thresholds.get(dist.column), drawn.get(dist.column, []))
        for dist in distributions
        if dist.kind == "number" and dist.low != dist.high
        # Decimals are drawn, and have no order for `choose`.
        if not pa.types.is_decimal(schema.field(dist.column).type) and can_be_quoted(dist.column)
    }
    asked = [
        dist.column
        for dist in distributions
        if dist.column in cuts and (cuts[dist.column][0] != _MEDIAN or dist.infinite)
    ]
    steps = {}
    if asked:
        conditions = [cuts[column][1][0].expression(column) for column in asked]
        counted = funnel(dataset, conditions, settings.progress)
        steps = dict(zip(asked, counted.steps, strict=True))
    return {
        dist.column: Threshold(
            first,
            dist.rows - steps[dist.column].drops if dist.column in steps else _from(dist, first),
            origin,
            others,
        )
        for dist in distributions
        if dist.column in cuts
        for origin, (first, *others) in [cuts[dist.column]]
    }


def _from(dist: Distribution, limit: Limit) -> int:
    """The values from an edge on, where none is infinite: such are in no bar."""
    return int(dist.counts[np.searchsorted(dist.edges, limit.value) :].sum())


def is_decided(threshold: Threshold | None) -> bool:
    """Whether someone drew it."""
    return threshold is not None and threshold.origin not in (_MEDIAN, _TWO_VALUES)


def parts_two_values(threshold: Threshold) -> bool:
    """Whether all values on a side of it are the same, so that none is the lowest or highest."""
    return threshold.origin == _TWO_VALUES


def _cut(dist: Distribution, asked: float | None, drawn: list[Limit]) -> tuple[str, list[Limit]]:
    """Why a column is cut where, and the limits, that which is looked at first."""
    if asked is not None:
        operator = drawn[0].operator if drawn else ">="
        return "as asked for", [Limit(operator, _plain(asked)), *drawn]
    if drawn:
        return "from the conditions", drawn
    if _has_two_values(dist):
        assert dist.high is not None
        return _TWO_VALUES, [Limit(">=", _plain(dist.high))]
    return _MEDIAN, [Limit(">=", _median(dist))]


def _has_two_values(dist: Distribution) -> bool:
    """Whether all values are the lowest or the highest, such as 0 and 1.

    Then the mean, which is exact, is theirs; of others within the same two bars it is not.
    """
    counts = [int(count) for count in dist.counts[dist.counts > 0]]
    if len(counts) != 2 or dist.infinite or dist.low is None or dist.high is None:
        return False
    total = Fraction(dist.low) * counts[0] + Fraction(dist.high) * counts[1]
    return float(total / sum(counts)) == dist.mean


def _median(dist: Distribution) -> float:
    """The edge next to where half of the values are on either side."""
    up_to = np.concatenate([[0], np.cumsum(dist.counts)])
    return _plain(float(dist.edges[int(np.abs(up_to - up_to[-1] / 2).argmin())]))


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() and abs(value) < _EXACT else value
