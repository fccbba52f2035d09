"""HTML for the output of a notebook's cell, in the style of our pages and of nothing else there."""

from __future__ import annotations

import functools
import re
from importlib import resources

from nemo_image_curate import html

# What our style is limited to.
_CLASS = "nemo-image-curate"
# What notebooks say of their theme, which need not be that of the system.
_LIGHT = ('body[data-jp-theme-light="true"]', "body.vscode-light")
_DARK = ('body[data-jp-theme-light="false"]', "body.vscode-dark")


def fragment(body: str, label: str) -> str:
    """HTML with its style.

    Parameters
    ----------
    body : str
        HTML.
    label : str
        What it shows, for screen readers.
    """
    return (
        f'<div class="{_CLASS}" role="region" aria-label="{html.escape(label)}">'
        f"<style>{_style()}</style>{body}</div>"
    )


def page(title: str, body: str) -> str:
    """A whole page that asks nothing of any server.

    Parameters
    ----------
    title : str
    body : str
        Of `fragment`.
    """
    return (
        '<!doctype html><html lang="en"><meta charset=utf-8>'
        '<meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title>{body}</html>\n"
    )


@functools.cache
def _style() -> str:
    """The style of our pages, nested into our class (CSS Nesting, 2023), and that of notebooks."""
    shared = html.style()
    light, dark = re.findall(r":root \{(.*?)\}", shared, re.DOTALL)[:2]
    themes = "".join(
        f"{theme} &{{{colours}}}"
        for selectors, colours in ((_LIGHT, light), (_DARK, dark))
        for theme in selectors
    )
    css = resources.files(__package__).joinpath("notebook.css").read_text("utf-8")
    return f".{_CLASS}{{{shared.replace(':root', '&')}{css}{themes}}}"
