"""The command probe."""

from __future__ import annotations

import click

from nemo_image_curate.cli.base import Session, computes, embedding_option, json_option, main
from nemo_image_curate.cli.results import print_json


@main.command()
@click.argument("dataset")
@click.option(
    "--labels",
    required=True,
    metavar="FILE|COLUMN",
    help="A CSV, TSV or Parquet file with the columns key, label and, where keys are not unique, "
    "shard; or a column of the dataset, null where there is no label.",
)
@click.option("--output", required=True, metavar="FILE", help="The classifier: .safetensors.")
@click.option("--label-column", default="label", show_default=True, help="Names its columns.")
@embedding_option
@click.option(
    "--c", "penalty", type=float, metavar="C", help="Inverse of the penalty. Default: the best."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the folds."
)
@json_option
@computes
def probe(
    dataset: str,
    labels: str,
    output: str,
    label_column: str,
    embedding_column: str,
    penalty: float | None,
    seed: int,
    as_json: bool,
    session: Session,
) -> None:
    """Train a classifier of one's own on the embeddings of a few labelled samples.

    score --probe FILE labels all samples with it, and embed --probe FILE while they are embedded.
    """
    from nemo_image_curate.classifiers.linear_probe import LinearProbe

    with session.client_if_asked():
        trained = LinearProbe.fit(
            session.open(dataset),
            labels,
            output,
            pred_column=label_column,
            embedding_column=embedding_column,
            C="auto" if penalty is None else penalty,
            seed=seed,
        )
    report = trained.report
    if as_json:
        print_json({**report.data(), "output": trained.model_path})
        return
    click.echo(report)
    click.echo(f"output      {trained.model_path}")
