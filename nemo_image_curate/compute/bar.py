"""`bar_of`: a bar on a terminal or in a notebook, as wide as there is room."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

# Columns of the bar itself, and of what stands around it.
_LEAST_BAR, _AROUND = 12, 9
_NO_TERMINAL = 80


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def bar_of(name: str, delay: float) -> Any:
    """A bar on standard error, or a widget in notebooks that have them.

    Parameters
    ----------
    name : str
    delay : float
        Seconds before it is shown.

    Returns
    -------
    tqdm.tqdm
        To be updated with parts of 1. It has one attribute more, ``parts``: texts to be shown
        behind it, the most important first, as many as there is room for.
    """

    class Bar(_kind()):  # type: ignore[misc]
        parts: Sequence[str] = ()

        @property
        def format_dict(self) -> dict[str, Any]:
            values: dict[str, Any] = super().format_dict
            room = (values["ncols"] or _NO_TERMINAL) - len(name) - _AROUND
            return {**values, "told": fitted(self.parts, room - _LEAST_BAR)}

    return Bar(
        total=1.0,
        desc=name,
        delay=delay,
        dynamic_ncols=True,
        file=sys.stderr,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {told}",
    )


def _kind() -> Any:
    """Of tqdm's bars the one that can be shown here."""
    if not in_notebook() or importlib.util.find_spec("ipywidgets") is None:
        return tqdm
    from tqdm.notebook import tqdm as widget

    return widget


def fitted(parts: Sequence[str], room: int) -> str:
    """As many texts, one after the other, as there is room for; the last may be cut."""
    text = ""
    for part in parts:
        longer = f"{text}, {part}" if text else part
        if len(longer) > room:
            left = room - len(text) - 3
            return f"{text}, {part[:left]}…" if left > 8 and text else text
        text = longer
    return text
