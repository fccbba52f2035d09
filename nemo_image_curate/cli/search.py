"""The command search."""

from __future__ import annotations

import bisect
import itertools
import shutil
import sys
import unicodedata
from typing import Any

import click

from nemo_image_curate.cli.base import (
    backend_option,
    checkpoint_option,
    image_member_option,
    json_option,
    main,
    tars_option,
)
from nemo_image_curate.cli.results import print_json
from nemo_image_curate.cli.searching import learn_advice, open_searcher, store_option

# Invisible, and needed in emoji and in the scripts of India and Persia.
_JOINERS = "\u200c\u200d"


@main.command()
@click.argument("dataset")
@click.option("--text", metavar="TEXT", help="What the images show.")
@click.option("--image", metavar="FILE", help="An image that they are like.")
@click.option("--like", metavar="KEY", help="A sample of the dataset that they are like.")
@click.option("--negative-text", metavar="TEXT", help="What they do not show.")
@click.option("--text-weight", type=float, default=1.0, show_default=True)
@click.option("--image-weight", type=float, default=1.0, show_default=True)
@click.option("--negative-weight", type=float, default=0.5, show_default=True)
@click.option("-k", type=int, default=10, show_default=True, help="How many to show.")
@click.option("--where", metavar="EXPR", help="Only rows for which this is true: 'width >= 256'.")
@click.option(
    "--collapse",
    type=float,
    metavar="COSINE",
    help="Hide images that are as similar as this to a better one, such as 0.95.",
)
@click.option("--fuse-captions", is_flag=True, help="Look for the words in captions, too.")
@click.option("--captions", is_flag=True, help="Look for captions instead of images.")
@checkpoint_option
@store_option
@tars_option
@image_member_option
@backend_option
@json_option
def search(
    dataset: str,
    captions: bool,
    checkpoint: str | None,
    store: str | None,
    backend: str,
    image_member: str | None,
    tars: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find images by text, by an image, or by both; needs what the command index makes."""
    from nemo_image_curate.search.query import Query

    query = Query(**options, over="texts" if captions else "images")
    # Before anything is opened.
    query.check()
    opened, _, searcher = open_searcher(
        dataset, backend, checkpoint, store, image_member, tars, query
    )
    if query.text and (advice := learn_advice(opened, searcher.embedder)):
        click.echo(advice, err=True)
    (hits,) = searcher.search_many([query])
    if as_json:
        print_json([hit.to_dict() for hit in hits])
        return
    is_terminal = sys.stdout.isatty()
    for hit in hits:
        similar = f"  (+{hit.similar} alike)" if hit.similar else ""
        line = f"{hit.score:.4f}  {hit.shard or 'store'}: {hit.key}{similar}  {hit.caption or ''}"
        click.echo(one_line(line, shutil.get_terminal_size().columns if is_terminal else None))


def one_line(text: str, width: int | None) -> str:
    """A text as one line that a terminal shows as it is.

    Captions and keys come from strangers: what ends the line, moves the cursor or turns the
    writing round becomes a space.

    Parameters
    ----------
    text : str
    width : int or None
        The columns that it may take; what is longer is cut.
    """
    text = "".join(letter if letter.isprintable() or letter in _JOINERS else " " for letter in text)
    if width is None:
        return text
    ends = list(itertools.accumulate(map(_columns, text)))
    if not ends or ends[-1] <= width:
        return text
    return text[: bisect.bisect_right(ends, width - 1)] + "…"


def _columns(letter: str) -> int:
    """How many columns of a terminal a letter takes."""
    if letter in _JOINERS or unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
