"""Thresholds of single columns, found in conditions."""

from __future__ import annotations

import pytest

from nemo_image_curate.report.limits import Limit, limits


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("score > 5", {"score": [Limit(">", 5)]}),
        ("5.5 >= score", {"score": [Limit("<=", 5.5)]}),
        (
            "1 < score <= 3 and width >= -2",
            {"score": [Limit(">", 1), Limit("<=", 3)], "width": [Limit(">=", -2)]},
        ),
        ("`my score` < 1", {"my score": [Limit("<", 1)]}),
        # Either side may do; a calculation is of no single column.
        ("score > 5 or width > 2", {}),
        ("score / width > 2", {}),
        ("label == 'cat'", {}),
        ("score < 1e400", {}),
        ("is_dark", {}),
    ],
)
def test_limits(condition, expected):
    assert limits([condition]) == expected


def test_a_limit_is_written_as_an_expression():
    assert Limit(">=", 5).expression("score") == "score >= 5"
    assert Limit("<", 0.5).expression("my score") == "`my score` < 0.5"
    assert Limit("<", 1).expression("class") == "`class` < 1"
    # Python reads this letter as "fi".
    assert Limit("<", 1).expression("\ufb01") == "`\ufb01` < 1"
