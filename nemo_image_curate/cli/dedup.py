"""The command dedup."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import click

from nemo_image_curate.cli.base import (
    Session,
    computes,
    embedding_option,
    json_option,
    main,
    orientation_option,
    output_option,
)
from nemo_image_curate.cli.decontaminate import against_help, mark, report_option
from nemo_image_curate.cli.results import save


def columns_of(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> str | list[str] | None:
    """One column, or several of them."""
    columns = [name.strip() for text in texts for name in text.split(",")]
    return columns if len(columns) > 1 else next(iter(columns), None)


@main.command()
@click.argument("dataset")
@click.option(
    "--method",
    type=click.Choice(["exact", "perceptual", "semantic"]),
    default="semantic",
    show_default=True,
    help="By the bytes, by a hash of what is seen, or by the embeddings.",
)
@click.option(
    "--of",
    type=click.Choice(["bytes", "pixels"]),
    default="bytes",
    show_default=True,
    help="exact: compare files as they are, or what they decode to.",
)
@orientation_option
@click.option(
    "--eps",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="semantic: duplicates have a cosine similarity of at least 1 - eps.",
)
@click.option(
    "--radius", type=click.IntRange(min=0), help="perceptual: bits of 64 that may differ."
)
@click.option("--flips", is_flag=True, help="perceptual: mirrored images are duplicates, too.")
@click.option(
    "--keep",
    type=click.Choice(["first", "random", "best", "hard", "easy"]),
    help="Which duplicate stays. Default: best with --by, else hard (semantic) or first.",
)
@click.option(
    "--by",
    metavar="COLUMN",
    multiple=True,
    callback=columns_of,
    help="The duplicate with the highest value stays, with -COLUMN the lowest; further columns "
    "decide where it is equal. Repeat it, or use commas.",
)
@click.option(
    "--rule",
    type=click.Choice(["greedy", "reference", "components"]),
    default="greedy",
    show_default=True,
    help="What goes when A is like B and B like C, but A is not like C.",
)
@click.option("--n-clusters", type=click.IntRange(min=1), help="semantic: default 2 sqrt(n).")
@click.option(
    "--n-probe",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="semantic: clusters that an embedding near their borders is compared in.",
)
@embedding_option
@click.option(
    "--recall-sample",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="semantic: rows to measure the recall on by brute force; 0 for none.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="DATASET",
    help=f"Mark what is in another dataset instead: see decontaminate. {against_help}",
)
@report_option
@click.option("--work-dir", metavar="DIR", help="Intermediate files; shared by all workers.")
@click.option(
    "--prefix",
    default="",
    metavar="TEXT",
    help="Put before the columns' names, to keep those of several runs apart.",
)
@output_option
@json_option
@computes
def dedup(
    dataset: str,
    method: str,
    of: str,
    orientation: str,
    eps: float,
    radius: int | None,
    flips: bool,
    keep: str | None,
    by: str | list[str] | None,
    rule: str,
    n_clusters: int | None,
    n_probe: int,
    embedding_column: str,
    recall_sample: int,
    against: tuple[str, ...],
    report: str | None,
    work_dir: str | None,
    prefix: str,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Mark duplicates: columns is_duplicate, duplicate_of and duplicate_similarity.

    Nothing is removed; do that with: filter DATASET --where "not is_duplicate" --output DIR
    """
    from nemo_image_curate.compute import progress
    from nemo_image_curate.dedup.exact import ExactDedup
    from nemo_image_curate.dedup.perceptual import PerceptualDedup
    from nemo_image_curate.dedup.semantic import SemanticDedup

    if method == "semantic" and orientation != "stored":
        raise click.UsageError("embeddings have an orientation already: give it to embed.")
    if against:
        source = click.get_current_context().get_parameter_source
        for name in ("keep", "by", "rule", "n_clusters", "n_probe", "recall_sample"):
            if source(name) is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.replace('_', '-')} does not go with --against.")
        options: dict[str, Any] = {"by": (method,), "of": of, "orientation": orientation}
        # Mirrored copies are leaks; decontaminate has an option to leave them alone.
        options |= {"eps": eps, "embedding_column": embedding_column}
        options |= {} if radius is None else {"radius": radius}
        options |= {"prefix": prefix, "work_dir": work_dir}
        mark(session, dataset, against, options, report, output, as_json)
        return
    if report:
        raise click.UsageError("--report goes with --against.")
    started = time.perf_counter()
    keep = keep or ("best" if by else "hard" if method == "semantic" else "first")
    with session.client():
        opened = session.open(dataset)
        if method == "semantic":
            stage = SemanticDedup(
                eps,
                n_clusters or "auto",
                keep,
                by,
                rule,
                n_probe,
                embedding_column,
                prefix=prefix,
                work_dir=work_dir,
            )
            click.echo(f"{stage.estimate_cost(opened)}", err=True)
            with progress.stage("cluster", 1, 3):
                clusters = stage.cluster(opened)
            with progress.stage("compare", 2, 3):
                marked = clusters.extract()
            measured: dict[str, Any] = {}
            texts: dict[str, str] = {}
            if recall_sample:
                with progress.stage("compare", 2, 3):
                    recall = clusters.estimate_recall(sample_size=recall_sample)
                measured["recall"], texts["recall"] = dataclasses.asdict(recall), str(recall)
            if work_dir is None:
                clusters.remove_vectors()
        else:
            options = {"keep": keep, "by": by, "prefix": prefix}
            options |= {"work_dir": work_dir, "orientation": orientation}
            if method == "perceptual":
                options |= {"flips": flips, "rule": rule}
                options |= {} if radius is None else {"radius": radius}
            else:
                options["of"] = of
            with progress.stage("compare", 1, 2):
                marked = (ExactDedup if method == "exact" else PerceptualDedup)(**options)(opened)
            measured, texts = {}, {}
        flags = marked.metadata[[f"{prefix}is_duplicate", f"{prefix}dedup_error"]].compute()
        counts = {
            "duplicates": int(flags[f"{prefix}is_duplicate"].sum()),
            "not_compared": int(flags[f"{prefix}dedup_error"].notna().sum()),
        }
        stages = 3 if method == "semantic" else 2
        with progress.stage("save", stages, stages):
            save(marked, output, as_json, {**counts, **measured}, started, texts)
