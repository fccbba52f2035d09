"""The command run."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import click

from nemo_image_curate.cli.base import Session, computes, json_option, main
from nemo_image_curate.cli.results import finish, print_json

if TYPE_CHECKING:
    from nemo_image_curate.recipe.plan import Plan
    from nemo_image_curate.recipe.recipe import Recipe
    from nemo_image_curate.recipe.running import RecipeRun


@main.command()
@click.argument("recipe", required=False)
@click.option(
    "--set",
    "settings",
    metavar="PATH=VALUE",
    multiple=True,
    help="Replace a value: dataset.path=DIR, steps.2.filter='width >= 256' (counted from 1), "
    "steps.TimmImageEmbedder.model_name=NAME; null takes it out.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, the columns, and what it will take.")
@click.option("--print", "as_yaml", is_flag=True, help="Print the recipe as YAML, and do nothing.")
@click.option("--list", "listed", is_flag=True, help="List the recipes that come with this.")
@json_option
@computes
def run(
    recipe: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
    as_yaml: bool,
    listed: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Run a whole curation that a YAML file describes.

    RECIPE is a file; the name of a recipe that comes with this (see --list); or what a run wrote:
    a dataset or its _run.json, of which the recipe is taken.

    Everything is checked before any work. Run the same again to go on: what is done is not
    computed again.
    """
    from nemo_image_curate.recipe import shipped
    from nemo_image_curate.recipe.origin import read_recipe

    if listed:
        _list(shipped.names(), as_json)
        return
    if recipe is None:
        raise click.UsageError("name a RECIPE; run --list shows those that come with this.")
    read = read_recipe(recipe, settings)
    if as_yaml and not (settings or as_json) and recipe in shipped.names():
        # With the sources of its constants.
        click.echo(shipped.text(recipe), nl=False)
        return
    if as_yaml:
        print_json(read.data()) if as_json else click.echo(read.to_yaml(), nl=False)
        return
    options = dict(read.dataset)
    options["backend"] = options.get("backend") or session.backend
    options["image_member"] = session.image_member or options.get("image_member")
    from nemo_image_curate.recipe.plan import plan_recipe
    from nemo_image_curate.recipe.running import run_plan

    plan = plan_recipe(read, _open(options))
    if dry_run:
        _show(plan, as_json)
        return
    with _session(session, read).client() if plan.stop else contextlib.nullcontext():
        done = run_plan(plan)
    _finish(done, as_json)


def _list(names: list[str], as_json: bool) -> None:
    from nemo_image_curate.recipe.recipe import Recipe

    about = {name: Recipe.read(name).about or "" for name in names}
    if as_json:
        print_json(about)
        return
    for name, text in about.items():
        click.echo(f"{name}\n  {' '.join(text.split())}")


def _open(options: dict[str, Any]) -> Any:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.errors import ConfigError

    if "path" not in options:
        raise ConfigError("the recipe names no dataset: --set dataset.path=DATASET")
    return ImageTextPairDataset.from_webdataset(**options)


def _session(session: Session, recipe: Recipe) -> Session:
    """Where to compute: as the command line says, else as the recipe does."""
    client = recipe.client
    changes: dict[str, Any] = {}
    if session.backend == "auto" and "kind" in client:
        changes["backend"] = client["kind"]
    if not (session.workers or session.scheduler or session.scheduler_file):
        changes |= {
            "workers": client.get("n_workers"),
            "scheduler": client.get("scheduler_address"),
            "scheduler_file": client.get("scheduler_file"),
        }
    for name in ("wait", "check_versions"):
        if name in client:
            changes[name] = client[name]
    return dataclasses.replace(session, **changes)


def _show(plan: Plan, as_json: bool) -> None:
    from nemo_image_curate.recipe.cost import cost_of

    cost = cost_of(plan)
    if as_json:
        steps = [
            {
                "number": planned.number,
                "step": planned.step.data(),
                "state": plan.state(planned),
                "adds": planned.adds,
                "columns": planned.columns,
            }
            for planned in plan.steps
        ]
        print_json({"dataset": plan.dataset.path, "steps": steps, "cost": vars(cost)})
        return
    there = ", ".join(map(str, plan.dataset.metadata.columns))
    click.echo(f"dataset  {plan.dataset.path}\n  columns: {there}")
    for planned in plan.steps:
        click.echo(f"{planned.number:>2} {plan.state(planned):<6} {_inline(planned.step.data())}")
        if planned.adds:
            adds = ", ".join(f"{name} ({_short(kind)})" for name, kind in planned.adds.items())
            click.echo(f"          adds {adds}")
        if planned.step.name in ("save", "select"):
            click.echo(f"          columns: {', '.join(planned.columns)}")
    rows = "not counted" if cost.rows is None else f"{cost.rows:,}"
    images = "each image once per such step" if cost.images is None else f"{cost.images:,} images"
    click.echo(f"rows     {rows}")
    if cost.decoding:
        click.echo(f"decode   at most {images}: {', '.join(cost.decoding)}")
    click.echo(f"read     at most {cost.tar_bytes / 1e9:,.2f} GB of tars")
    for note in cost.notes:
        click.echo(f"note     {note}")


def _inline(data: Any) -> str:
    """A step on one line."""
    from nemo_image_curate.recipe.text import dump_inline

    return dump_inline(data)


def _short(kind: str) -> str:
    return kind.replace("list<item: float>", "embedding")


def _finish(done: RecipeRun, as_json: bool) -> None:
    from nemo_image_curate.recipe.records import run_record

    record = run_record(done.plan.recipe.to_yaml(), done.done)
    record |= {"dropped_by": done.dropped_by, "output": done.home}
    texts: dict[str, Any] = {}
    for step in done.done:
        rows = step.result.get("rows")
        texts[f"step {step.number} {step.name}"] = "written" if rows is None else f"{rows:,} rows"
    texts |= {f"dropped by {name}": count for name, count in done.dropped_by.items()}
    finish(
        record,
        done.account,
        done.home if done.plan.todo else None,
        as_json,
        nothing_read=done.counts.get("read") == 0,
        shown={**texts, "output": done.home},
        **done.counts,
    )
