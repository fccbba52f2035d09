"""The command select."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.cli.base import (
    NamedNumber,
    Session,
    computes,
    embedding_option,
    json_option,
    main,
    output_option,
)
from nemo_image_curate.cli.results import save

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


_COLUMN_AND_NUMBER = NamedNumber("COLUMN", "clip_score=0.3")


@main.command()
@click.argument("dataset")
@click.option(
    "--where", metavar="EXPR", help="Rows for which this is true: 'width >= 256 and not is_leak'."
)
@click.option(
    "--top",
    type=_COLUMN_AND_NUMBER,
    multiple=True,
    help="The highest fraction of a column: clip_score=0.3. May be given several times.",
)
@click.option("--recipe", metavar="NAME", help="A filter of DataComp's, such as datacomp-basic.")
@click.option("--target", metavar="DATASET", help="What rows should be like, by embeddings.")
@click.option(
    "--top-target",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.2,
    show_default=True,
    help="The fraction that is most like the target.",
)
@click.option("--retrieve", metavar="SEEDS", help="The rows nearest to each row of this dataset.")
@click.option(
    "-k", type=click.IntRange(min=1), default=4, show_default=True, help="So many of each."
)
@click.option(
    "--balanced", type=click.IntRange(min=1), metavar="N", help="N rows, even over clusters."
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="RATIO",
    help="A fraction of the rows, more of clusters that are wide and far from others.",
)
@click.option(
    "--soft-cap",
    type=_COLUMN_AND_NUMBER,
    help="So many draws by a score, with repeats: clip_score=1000000. Adds multiplicity.",
)
@embedding_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn."
)
@click.option("--work-dir", metavar="DIR", help="Intermediate files; shared by all workers.")
@click.option("--selection", metavar="FILE", help="Also list what was selected in this file.")
@output_option
@json_option
@computes
def select(
    dataset: str,
    where: str | None,
    top: tuple[tuple[str, float], ...],
    recipe: str | None,
    target: str | None,
    top_target: float,
    retrieve: str | None,
    k: int,
    balanced: int | None,
    budget: float | None,
    soft_cap: tuple[str, float] | None,
    embedding_column: str,
    seed: int,
    work_dir: str | None,
    selection: str | None,
    output: str | None,
    as_json: bool,
    session: Session,
) -> None:
    """Choose rows: column selected, and multiplicity with --soft-cap.

    Rows have to fulfil all that is given, each among all rows; --balanced, --budget or --soft-cap
    then draws of those that do. Told is how many fulfil each, and what a random choice of the
    same size has.

    Nothing is removed; do that with: filter DATASET --where selected --output DIR
    """
    from nemo_image_curate import frames
    from nemo_image_curate.selection.comparison import compare_with_random
    from nemo_image_curate.selection.criteria import MULTIPLICITY, SELECTED, Criteria

    started = time.perf_counter()
    columns = [column for column, _ in top]
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise click.UsageError(f"--top names {twice[0]} more than once: give each column once.")
    if soft_cap is not None and not soft_cap[1].is_integer():
        raise click.UsageError(f"--soft-cap: {soft_cap[1]} should be a number of draws.")
    criteria = Criteria(
        *(where, dict(top), recipe, target, top_target, retrieve, k, balanced, budget),
        *(soft_cap and (soft_cap[0], int(soft_cap[1])), embedding_column, seed, work_dir),
    )
    criteria.check()
    with session.client():
        multiplicity = MULTIPLICITY if soft_cap else None

        def measure(saved: ImageTextPairDataset) -> tuple[dict[str, Any], dict[str, Any]]:
            compared = compare_with_random(saved, multiplicity=multiplicity, seed=seed)
            record: dict[str, Any] = {SELECTED: compared.selected.samples}
            if not record[SELECTED]:
                click.echo(f"nothing is selected of {len(saved):,} rows.", err=True)
            if names := criteria.names:
                sums = saved.metadata[[f"{name}_{SELECTED}" for name in names]].sum().compute()
                passing = frames.column_to_arrow(sums).to_pylist()
                record["fulfil"] = dict(zip(names, passing, strict=True))
            if selection is not None:
                # How often an earlier run drew rows is no part of this choice.
                names = [
                    name for name in saved.metadata.columns if soft_cap or name != MULTIPLICITY
                ]
                chosen = saved.select(names).filter(SELECTED)
                listed = chosen.to_selection(selection, None, multiplicity)
                record |= {"selection": listed.path, "listed": listed.rows}
            record["comparison"] = compared.to_dict()
            return record, {"comparison": f"\n{compared}"}

        save(criteria(session.open(dataset)), output, as_json, started=started, measure=measure)
