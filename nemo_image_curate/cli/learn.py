"""The command learn."""

from __future__ import annotations

from typing import Any

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main, threads_option
from nemo_image_curate.cli.results import finish


@main.command()
@click.argument("dataset")
@click.option("--output", required=True, metavar="MODEL", help="A folder for the model.")
@click.option(
    "--model",
    metavar="NAME",
    help="The image encoder, named as for embed. Default: what needs no download.",
)
@click.option("--pretrained", is_flag=True, help="Take the weights that timm names.")
@click.option("--checkpoint", metavar="FILE", help="Take its weights from this file.")
@click.option("--caption-column", default="caption", show_default=True)
@click.option(
    "--loss",
    type=click.Choice(["correlation", "infonce", "siglip"]),
    default="correlation",
    show_default=True,
    help="Learn by correlations, in closed form, or by a contrastive loss.",
)
@click.option(
    "--max-pictures",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Learn from about so many, chosen by a hash of keys.",
)
@click.option(
    "--samples-seen",
    type=click.IntRange(min=1),
    default=72_000,
    show_default=True,
    help="Pictures that a contrastive training is shown, each many times.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@threads_option
@json_option
@computes
def learn(
    dataset: str,
    output: str,
    model: str | None,
    pretrained: bool,
    checkpoint: str | None,
    caption_column: str,
    loss: str,
    max_pictures: int,
    samples_seen: int,
    seed: int,
    batch_size: int,
    threads: int,
    as_json: bool,
    session: Session,
) -> None:
    """Learn a space of pictures and texts from the captions of a dataset.

    Two small projections are learned on frozen encoders, and measured on pictures held out. What
    is learned is for pictures and captions of this kind; then it is a model as others are:
    embed --model aligned:MODEL.
    """
    from nemo_image_curate.embedders.aligned import AlignedEmbedder
    from nemo_image_curate.embedders.registry import named_embedder

    if (pretrained or checkpoint) and model is None:
        raise click.UsageError("--pretrained and --checkpoint are for a model: give --model NAME.")
    encoder = None
    if model is not None:
        encoder = named_embedder(
            model,
            pretrained,
            checkpoint_path=checkpoint,
            batch_size=batch_size,
            num_threads_per_worker=threads,
        )
    with session.client():
        opened = session.open(dataset)
        fitted = AlignedEmbedder.fit(
            *(opened, output, encoder),
            caption_column=caption_column,
            loss=loss,
            seed=seed,
            max_pictures=max_pictures,
            samples_seen=samples_seen,
        )
        account = opened.account()
    facts = fitted.summary()
    texts = _in_words(facts) | {"model": output}
    finish({**facts, "output": output}, account, None, as_json, shown=texts)
    if not as_json:
        click.echo(
            f"next: nemo-image-curate embed {dataset} --model aligned:{output} --output META"
        )
        click.echo("      nemo-image-curate index META")
        click.echo('      nemo-image-curate search META --text "TEXT"')


def _in_words(facts: dict[str, Any]) -> dict[str, Any]:
    """What people see of a model's facts."""
    texts: dict[str, Any] = {"kind": facts["kind"], "rows": facts["rows"]}
    texts["learned from"] = f"{facts['captions']:,} captions of {facts['pictures']:,} pictures"
    held_out = facts.get("held_out")
    if held_out:
        texts["held out"] = (
            f"{held_out['captions']:,} captions of {held_out['pictures']:,} pictures, while it was "
            "measured; then learned from, too"
        )
        for name in ("learned", "base"):
            if name in held_out:
                texts[name] = ", ".join(_recall(held_out[name], k) for k in (1, 5, 10))
    return texts


def _recall(figures: dict[str, Any], k: int) -> str:
    low, high = figures[f"R@{k} interval"]
    return f"R@{k} {figures[f'R@{k}']:.1%} ({low:.1%} to {high:.1%})"
