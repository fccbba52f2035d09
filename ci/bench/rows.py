"""Rows of RESULTS.md."""

from __future__ import annotations

from typing import Any


def row(
    what: str, first: float, second: float, bar: str, met: bool, shown: str = "{:.2f} s"
) -> dict[str, Any]:
    """Two figures that are shown alike, ours and a peer's or a limit, and their ratio."""
    return {
        "what": what,
        "ours": shown.format(first),
        "peer": shown.format(second),
        "ratio": first / second,
        "bar": bar,
        "met": met,
    }
