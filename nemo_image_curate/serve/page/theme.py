"""The colours of the report for the page: as options of Streamlit, and as its style."""

from __future__ import annotations

import re
from importlib import resources

from nemo_image_curate import html

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
_CODE_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
_ROOT = re.compile(r":root \{[^}]*\}")
# Streamlit's names for ours.
_COLOURS = {
    "primaryColor": "accent",
    "linkColor": "accent",
    "backgroundColor": "bg",
    "secondaryBackgroundColor": "soft",
    "textColor": "text",
    "borderColor": "line",
    "redColor": "bad",
    "orangeColor": "warn",
    "grayColor": "muted",
}


def options() -> dict[str, str]:
    """Streamlit's options, by name; it takes light or dark as the browser asks for."""
    chosen = {"theme.font": _FONT, "theme.codeFont": _CODE_FONT, "theme.baseRadius": "6px"}
    chosen |= {"theme.showWidgetBorder": "true", "theme.paddingTop": "1.5rem"}
    for kind, block in zip(("light", "dark"), _ROOT.findall(html.style()), strict=True):
        colours = dict(re.findall(r"--(\w+): (#\w+);", block))
        for name, ours in _COLOURS.items():
            chosen[f"theme.{kind}.{name}"] = colours[ours]
    return chosen


def style() -> str:
    """What our own parts of the page look like, as an element of HTML."""
    light, dark = _ROOT.findall(html.style())
    css = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    return f"<style>{light}@media (prefers-color-scheme: dark) {{{dark}}}{css}</style>"
