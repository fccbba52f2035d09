"""Do what a plan says and is not done yet; what came of it closes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Any

from nemo_image_curate import locks
from nemo_image_curate.dataset.accounting import Account
from nemo_image_curate.dataset.conditions import Dropped
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import CurateError, DatasetError
from nemo_image_curate.recipe.counts import counts_of
from nemo_image_curate.recipe.places import location_of
from nemo_image_curate.recipe.plan import Plan, passes, plan_recipe, writes
from nemo_image_curate.recipe.recipe import Recipe
from nemo_image_curate.recipe.records import Done, home_of, read_account, write_done, written_by
from nemo_image_curate.recipe.rehearsal import Planned
from nemo_image_curate.shards import sidecars
from nemo_image_curate.stages.base import PixelStage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecipeRun:
    """What came of a recipe.

    Attributes
    ----------
    plan : Plan
    done : list of Done
        What each step that writes something left, in order; also by earlier runs.
    account : Account
        Of the input.
    counts : dict
        Where its rows went: ``written``, ``dropped_by_condition``, ``dropped_by_null``,
        ``null_columns``, ``missing``, and of its images ``read`` and ``unreadable``.
    dropped_by : dict of str to int
        How many rows each condition dropped; conditions that other steps follow before the next
        save are counted together.
    home : str
        The folder of the last ``_run.json``.
    """

    plan: Plan
    done: list[Done]
    account: Account
    counts: dict[str, Any]
    dropped_by: dict[str, int]
    home: str

    @property
    def dataset(self) -> ImageTextPairDataset:
        """The last that was saved, opened; the input where nothing was."""
        for planned in reversed(self.plan.steps):
            if planned.step.name == "save":
                return _opened(planned, self.plan.dataset)
        return self.plan.dataset


def run_recipe(recipe: Recipe, dataset: ImageTextPairDataset | None = None) -> RecipeRun:
    """Do what a recipe says and is not done yet, with the Dask client there is.

    Parameters
    ----------
    recipe : Recipe
    dataset : ImageTextPairDataset, optional
        In place of the recipe's own.

    Raises
    ------
    ConfigError
        Before any work, as `plan_recipe` does.
    CurateError
        What a step raises, with its place in the recipe; what is finished is kept. Also when
        another process writes to one of the places.

    Examples
    --------
    >>> done = run_recipe(Recipe.read("curate.yaml"))  # doctest: +SKIP
    >>> done.dropped_by  # doctest: +SKIP
    {'width >= 256': 120}
    """
    return run_plan(plan_recipe(recipe, dataset))


def run_plan(plan: Plan) -> RecipeRun:
    """Do what is not done yet, with the Dask client there is.

    Raises
    ------
    CurateError
        What a step raises, with its place in the recipe; what is finished is kept. Also when
        another process writes to one of the places.
    """
    done = [step.done for step in plan.steps if step.done is not None]
    homes = {home_of(plan.recipe.steps, step.number, plan.dataset) for step in _todo(plan)}
    with contextlib.ExitStack() as locked:
        for home in sorted(homes):
            locked.enter_context(locks.exclusive(home, "recipe"))
        dataset = plan.dataset
        if plan.start:
            dataset = _opened(plan.steps[plan.start - 1], plan.dataset)
        for together in passes(plan.todo):
            planned = together[-1]
            logger.info("%s", ", ".join(step.label for step in together))
            with _in_step(planned):
                dataset, finished = _do(together, dataset)
            if finished is not None:
                done = sorted([*done, finished], key=lambda entry: entry.number)
                home = home_of(plan.recipe.steps, planned.number, plan.dataset)
                write_done(home, plan.recipe.to_yaml(), done)
    return _closed(plan, done)


def _todo(plan: Plan) -> list[Planned]:
    return [planned for planned in plan.steps if writes(planned.step) and planned.done is None]


def _opened(planned: Planned, source: ImageTextPairDataset) -> ImageTextPairDataset:
    location = location_of(planned.step) or ""
    return ImageTextPairDataset.from_webdataset(location, backend=source.backend)


@contextlib.contextmanager
def _in_step(planned: Planned) -> Any:
    """Say in errors which step it was."""
    try:
        yield
    except CurateError as error:
        place = f"{planned.step.place}: " if planned.step.place else ""
        error.add_note(f"in {place}{planned.label}")
        raise


def _do(
    together: list[Planned], dataset: ImageTextPairDataset
) -> tuple[ImageTextPairDataset, Done | None]:
    """A step, or several that share a pass over the images."""
    stages = [member.stage for member in together if member.stage is not None]
    planned, step = together[-1], together[-1].step
    if len(stages) > 1:
        pixels = [stage for stage in stages if isinstance(stage, PixelStage)]
        shared = dataclasses.replace(pixels[0].image_pass(), stages=tuple(pixels))
        return shared(dataset), None
    if stages:
        return stages[0](dataset), None
    action = step.action
    assert action is not None, step.name
    started = time.perf_counter()
    output = action.function(dataset, **step.options)
    if not writes(step):
        return output, None
    result = {"seconds": round(time.perf_counter() - started, 1), **_result(output)}
    if isinstance(output, ImageTextPairDataset):
        dataset = output
    written = written_by(step, result)
    return dataset, Done(planned.number, step.name, planned.fingerprint, written, result)


def _result(output: Any) -> dict[str, Any]:
    """What a step that writes gave, as it is recorded."""
    if isinstance(output, ImageTextPairDataset):
        return _saved(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return dataclasses.asdict(output)
    return output if isinstance(output, dict) else {}


def _saved(dataset: ImageTextPairDataset) -> dict[str, Any]:
    """What the files of a save record of their rows."""
    places = [source.sidecar_location for source in dataset.source()[1]]
    summaries = []
    for footer in sidecars.read_footers(places):
        if isinstance(footer, DatasetError):
            raise footer
        summaries.append(footer.record["summary"])
    errors: dict[str, int] = {}
    for summary in summaries:
        for kind, count in summary.get("failed", summary["errors"]).items():
            errors[kind] = errors.get(kind, 0) + count
    rows = sum(summary["rows"] for summary in summaries)
    return {"rows": rows, "errors": errors, "dropped": vars(Dropped.total(summaries))}


def _closed(plan: Plan, done: list[Done]) -> RecipeRun:
    home = home_of(plan.recipe.steps, done[-1].number, plan.dataset)
    account = (None if plan.todo else read_account(home)) or plan.dataset.account()
    counts, dropped_by = counts_of(plan, done, account)
    if plan.todo:
        more = {"account": account.counts() | counts, "named": account.named}
        write_done(home, plan.recipe.to_yaml(), done, dropped_by=dropped_by, **more)
    return RecipeRun(plan, done, account, counts, dropped_by, home)
