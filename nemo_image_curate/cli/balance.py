"""The command balance."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main, output_option
from nemo_image_curate.cli.results import save

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.selection.coverage import ConceptCoverage


@main.command()
@click.argument("dataset")
@click.option(
    "--queries", metavar="FILE", help="Concepts: one in each line, or a JSON list (.json)."
)
@click.option(
    "--build-queries",
    metavar="FILE",
    help="Write concepts to this file first: frequent words and pairs of words, and WordNet's.",
)
@click.option("--corpus", metavar="FILE", help="Texts to build of, one a line. Default: captions.")
@click.option(
    "--min-count",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How often the words to build of occur.",
)
@click.option(
    "--min-pmi",
    type=float,
    default=6.0,
    show_default=True,
    help="Mutual information, in bits, that pairs of words have.",
)
@click.option(
    "--wordnet",
    metavar="DIR",
    default="auto",
    help="WordNet's database, or none. Default: where Debian's wordnet-base puts it.",
)
@click.option(
    "--per-query",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="Pairs of one concept that are useful.",
)
@click.option(
    "--rule",
    type=click.Choice(["probability", "cap"]),
    default="probability",
    show_default=True,
    help="Keep pairs with a probability, as MetaCLIP, or so many for each concept, as CLIP.",
)
@click.option("--caption-column", default="caption", show_default=True)
@click.option(
    "--unmatched",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Probability to keep a pair without a concept.",
)
@click.option("--ignore-case", is_flag=True)
@click.option(
    "--wrap-queries", is_flag=True, help="Match concepts with . , or ; in them: 'St. Louis'."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--work-dir", metavar="DIR", help="Intermediate files; shared by all workers.")
@click.option("--prefix", default="", metavar="TEXT", help="Put before the columns' names.")
@output_option
@json_option
@computes
def balance(
    dataset: str,
    queries: str | None,
    build_queries: str | None,
    corpus: str | None,
    min_count: int,
    min_pmi: float,
    wordnet: str,
    per_query: int,
    rule: str,
    caption_column: str,
    unmatched: float,
    ignore_case: bool,
    wrap_queries: bool,
    seed: int,
    work_dir: str | None,
    prefix: str,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Balance concepts: columns concepts, keep_probability and selected.

    Nothing is removed; do that with: filter DATASET --where selected --output DIR
    """
    from nemo_image_curate.selection import queries as lists
    from nemo_image_curate.selection.comparison import compare_with_random
    from nemo_image_curate.selection.concepts import ConceptBalance
    from nemo_image_curate.selection.coverage import concept_coverage

    if (queries is None) == (build_queries is None):
        raise click.UsageError("give either --queries FILE or --build-queries FILE.")
    started = time.perf_counter()
    with session.client():
        opened = session.open(dataset)
        if build_queries is not None:
            built = lists.build_queries(
                opened if corpus is None else corpus,
                min_count,
                min_pmi,
                None if wordnet == "none" else wordnet,
                caption_column,
                ignore_case,
                work_dir,
            )
            lists.write_queries(build_queries, built)
        stage = ConceptBalance(
            queries or build_queries or "",
            per_query,
            rule,
            caption_column,
            seed,
            unmatched,
            ignore_case,
            wrap_queries,
            prefix,
            work_dir,
        )
        balanced = stage(opened)
        n_queries = balanced.provenance[f"{prefix}selected"]["n_queries"]

        def measure(saved: ImageTextPairDataset) -> tuple[dict[str, Any], dict[str, Any]]:
            coverage = concept_coverage(saved, prefix, work_dir)
            columns = [f"{prefix}{name}" for name in ("selected", "concepts")]
            compared = compare_with_random(saved, columns[0], concepts=columns[1], seed=seed)
            record = {"queries": n_queries, **dataclasses.asdict(coverage)}
            del record["rows"]
            record["comparison"] = compared.to_dict()
            return record, _in_words(coverage) | {"comparison": f"\n{compared}"}

        save(balanced, output, as_json, started=started, measure=measure)


def _in_words(coverage: ConceptCoverage) -> dict[str, str]:
    """What people see of it."""
    part = coverage.selected / max(1, coverage.rows)
    return {
        "selected": f"{coverage.selected:,} of {coverage.rows:,} ({part:.1%})",
        "expected": f"{coverage.expected:,.1f}",
        "deviation": f"{coverage.deviation:,.1f}",
        "selected_concepts": f"{coverage.selected_concepts:,} of {coverage.concepts:,}",
        "random_concepts": f"{coverage.random_concepts:,.1f} expected in as many random rows",
        "evenness": f"{coverage.evenness:.3f} of concepts among the selected",
        "random_evenness": f"{coverage.random_evenness:.3f} among random rows",
    }
