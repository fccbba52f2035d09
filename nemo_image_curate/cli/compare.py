"""The command compare."""

from __future__ import annotations

from typing import Any

import click

from nemo_image_curate.cli.base import (
    Session,
    computes,
    embedding_option,
    json_option,
    main,
)
from nemo_image_curate.cli.results import print_json


class _Named(click.ParamType[tuple[str, str]]):
    """``NAME=VALUE``, where the value may hold further ``=``.

    Parameters
    ----------
    metavar : str
        What is named, such as ``EXPR``.
    may_lack : bool
        Whether the name may stand alone.
    """

    def __init__(self, metavar: str, may_lack: bool = False):
        self.name = f"NAME={metavar}"
        self.may_lack = may_lack

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        name, _, text = str(value).partition("=")
        if not name.strip() or not (text.strip() or self.may_lack):
            self.fail(f"{value!r} should be {self.name}.", param, ctx)
        return name.strip(), text.strip()


@main.command()
@click.argument("dataset")
@click.option(
    "--subset",
    "subsets",
    type=_Named("EXPR", may_lack=True),
    multiple=True,
    help='Rows for which this is true, by name: "good=clip_score > 0.3"; a name alone: all rows. '
    "May be given several times.",
)
@click.option(
    "--selection",
    "selections",
    type=_Named("FILE"),
    multiple=True,
    help="Rows that a file lists which select --selection wrote.",
)
@click.option("--baseline", metavar="NAME", help="Compare each with this one. Default: all pairs.")
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Two heads are trained for each and each subset.",
)
@click.option(
    "--samples-seen",
    type=click.IntRange(min=1),
    metavar="N",
    help="Pairs that each head is shown. Default: 32,000, or twice the largest subset.",
)
@click.option("--batch-size", type=click.IntRange(min=2), help="Default: up to 512.")
@click.option(
    "--held-out",
    default="0.2",
    show_default=True,
    metavar="SHARE|EXPR",
    help="What is compared on: a share of all rows, or those for which this is true.",
)
@click.option(
    "--label-column", metavar="NAME", help="Labels of held-out rows, to be told by prompts."
)
@embedding_option
@click.option("--text-embedding-column", default="text_embedding", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all choices.")
@click.option("--output", metavar="FILE", help="Also write a JSON file: see report --comparison.")
@json_option
@computes
def compare(
    dataset: str,
    subsets: tuple[tuple[str, str], ...],
    selections: tuple[tuple[str, str], ...],
    held_out: str,
    output: str | None,
    as_json: bool,
    session: Session,
    **options: Any,
) -> None:
    """Which subset is better to train on: a proxy, in minutes.

    Small heads are trained on each subset's embeddings with the same number of samples seen, and
    compared on the same held-out rows. It ranks filters; it does not say what a CLIP would reach.
    """
    from nemo_image_curate import storage
    from nemo_image_curate.outputs import check_output
    from nemo_image_curate.selection.listed import SelectionFile
    from nemo_image_curate.selection.subsets.compare import compare_subsets

    named: dict[str, Any] = {}
    for name, value in [
        *((name, expression or None) for name, expression in subsets),
        *((name, SelectionFile(file)) for name, file in selections),
    ]:
        if name in named:
            raise click.UsageError(f"{name!r} is the name of two subsets.")
        named[name] = value
    if output is not None:
        check_output(storage.normalise(output), is_folder=False)
    with session.client_if_asked():
        compared = compare_subsets(
            session.open(dataset), named, held_out=_share_or_rows(held_out), **options
        )
    if as_json:
        print_json(compared.to_dict() | ({"output": output} if output else {}))
    else:
        click.echo(str(compared))
    # What took minutes is told before a file that cannot be written after all ends it.
    if output is not None:
        compared.save(output)


def _share_or_rows(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
