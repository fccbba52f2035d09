"""Rows of RESULTS.md."""

from __future__ import annotations

from typing import Any


def row(
    label: str, first: float, second: float, bar: str, met: bool, fmt: str = "{:.2f} s"
) -> dict[str, Any]:
    """Two figures that are shown alike, ours and a peer's or a limit, and their ratio."""
    return {
        "what": label,
        "ours": fmt.format(first),
        "peer": fmt.format(second),
        "ratio": first / second,
        "bar": bar,
        "met": met,
    }
