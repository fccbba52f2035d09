"""What a recipe would do with a dataset, step by step: checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_image_curate import frames
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.dataset.wanted import Wanted
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.errors import ConfigError, CurateError
from nemo_image_curate.expressions.check import check
from nemo_image_curate.recipe import places
from nemo_image_curate.recipe.recipe import Recipe
from nemo_image_curate.recipe.records import Done, fingerprints, foreign_exports, read_done
from nemo_image_curate.recipe.steps import Problem, Step
from nemo_image_curate.selection.prepared import PreparedStage
from nemo_image_curate.stages.base import ColumnStage, PixelStage, Stage
from nemo_image_curate.stages.image_pass import ImagePass


@dataclass(frozen=True)
class Planned:
    """A step that would be done.

    Attributes
    ----------
    number : int
        Counted from 1.
    step : Step
    stage : Stage or None
        What it is, when it is no action.
    before : ImageTextPairDataset
        As it would be before the step, with nothing in columns that have to look at all rows.
    adds : dict of str to str
        The columns that it adds or replaces, with their types.
    columns : list of str
        All there are after it.
    fingerprint : str
        Of the inputs and all that is done up to here.
    done : Done or None
        What an earlier run did of it, as it is now.
    """

    number: int
    step: Step
    stage: Stage | None
    before: ImageTextPairDataset
    adds: dict[str, str]
    columns: list[str]
    fingerprint: str = ""
    done: Done | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"step {self.number} ({self.step.name})"


@dataclass(frozen=True)
class Plan:
    """What would be done.

    Attributes
    ----------
    recipe : Recipe
    dataset : ImageTextPairDataset
        The input, as it was opened.
    steps : list of Planned
    """

    recipe: Recipe
    dataset: ImageTextPairDataset
    steps: list[Planned] = field(default_factory=list)

    @property
    def start(self) -> int:
        """How many steps need not be looked at, because a save after them is done."""
        saves = [one.number for one in self.steps if one.done and one.step.name == "save"]
        return max(saves, default=0)

    @property
    def stop(self) -> int:
        """The number of the last step that is to be done; 0 when all is done."""
        todo = [one.number for one in self.steps if writes(one.step) and not one.done]
        return max(todo, default=0)

    @property
    def todo(self) -> list[Planned]:
        """The steps that are to be done."""
        return [one for one in self.steps[self.start : self.stop] if one.done is None]

    def state(self, planned: Planned) -> str:
        """``done`` or ``to do``; for steps that write nothing, whether they are needed."""
        is_passed = planned.number <= self.start or planned.number > self.stop
        return "done" if planned.done or (is_passed and not writes(planned.step)) else "to do"


def passes(steps: Sequence[Planned]) -> list[list[Planned]]:
    """Steps that are done together: statistics, hashes and the like share a pass over images."""
    together: list[list[Planned]] = []
    for one in steps:
        last = together[-1][-1] if together else None
        if last and _pass_of(one) is not None and _pass_of(one) == _pass_of(last):
            together[-1].append(one)
        else:
            together.append([one])
    return together


def _pass_of(planned: Planned) -> ImagePass | None:
    """The pass of a stage that needs no model, without the stage; else None."""
    stage = planned.stage
    if not isinstance(stage, PixelStage) or isinstance(stage, ImageEmbedder):
        return None
    return dataclasses.replace(stage.image_pass(), stages=())


def writes(step: Step) -> bool:
    """Whether a step leaves something behind."""
    return step.name == "index" or places.location_of(step) is not None


def plan_recipe(recipe: Recipe, dataset: ImageTextPairDataset | None = None) -> Plan:
    """Check a recipe against its dataset, without computing anything of the rows.

    Weights of models are looked for, and so may be downloaded.

    Parameters
    ----------
    recipe : Recipe
    dataset : ImageTextPairDataset, optional
        In place of the recipe's own.

    Raises
    ------
    ConfigError
        With file, line and step: for columns that are not there at that point, conditions that
        cannot be used, places that cannot be written to, packages that are missing, and steps
        whose result is not used.
    DatasetError
        When the dataset cannot be opened.
    """
    stages = _made(recipe)
    if dataset is None:
        if "path" not in recipe.dataset:
            raise ConfigError("the recipe names no dataset: --set dataset.path=DATASET")
        dataset = ImageTextPairDataset.from_webdataset(**recipe.dataset)
    _refuse([*places.problems_of(recipe.steps, dataset), *_unused(recipe.steps)])
    rehearsal = _Rehearsal(dataset)
    planned = [
        rehearsal.play(number, step, stage)
        for number, (step, stage) in enumerate(zip(recipe.steps, stages, strict=True), 1)
    ]
    prints = fingerprints(dataset, recipe.steps, stages)
    done = read_done(recipe.steps, dataset, prints)
    _refuse(foreign_exports(recipe.steps, prints, done))
    return Plan(
        recipe,
        dataset,
        [
            dataclasses.replace(one, fingerprint=print_, done=finished)
            for one, print_, finished in zip(planned, prints, done, strict=True)
        ],
    )


def _made(recipe: Recipe) -> list[Stage | None]:
    """The stages, with what they need installed, and their parameters checked."""
    defaults = {} if recipe.work_dir is None else {"work_dir": recipe.work_dir}
    stages: list[Stage | None] = []
    problems = []
    for number, step in enumerate(recipe.steps, 1):
        stage = None
        if step.action is None:
            try:
                stage = step.make(**defaults)
                stage.check()
            except CurateError as error:
                problems.append(Problem(step.place, f"step {number} ({step.name})", str(error)))
        stages.append(stage)
    _refuse(problems)
    return stages


def _refuse(problems: Iterable[Problem]) -> None:
    """Raise what is wrong, if anything is."""
    if told := "\n".join(map(str, problems)):
        raise ConfigError(told)


def _unused(steps: Sequence[Step]) -> list[Problem]:
    """Steps after which nothing is written, and indexes that nothing saved goes with."""
    last = max((number for number, step in enumerate(steps) if writes(step)), default=-1)
    problems = [
        Problem(
            step.place,
            f"step {number + 1} ({step.name})",
            "nothing is written after it: end with a save, export, selection or report.",
        )
        for number, step in enumerate(steps)
        if number > last
    ][:1]
    changed = False
    for number, step in enumerate(steps, 1):
        if step.name == "index" and changed:
            text = "an index goes with what is saved: put it right after a save."
            problems.append(Problem(step.place, f"step {number} (index)", text))
        changed = step.name != "save" and (changed or not writes(step))
    return problems


class _Rehearsal:
    """Plays steps with a dataset whose columns are right and whose rows nobody looks at."""

    def __init__(self, dataset: ImageTextPairDataset):
        self.dataset = dataset
        # Columns that a step made and none has looked at, and the step's number.
        self.unread: dict[str, int] = {}

    def play(self, number: int, step: Step, stage: Stage | None) -> Planned:
        before = self.dataset
        try:
            self.dataset = self._played(number, step, stage)
        except CurateError as error:
            raise ConfigError(
                str(Problem(step.place, f"step {number} ({step.name})", str(error)))
            ) from error
        kinds = {one.name: str(one.type) for one in frames.schema(self.dataset.metadata)}
        own = stage.columns() if stage else {}
        there = set(before.metadata.columns)
        adds = {name: kind for name, kind in kinds.items() if name in own or name not in there}
        return Planned(number, step, stage, before, adds, list(kinds))

    def _played(self, number: int, step: Step, stage: Stage | None) -> ImageTextPairDataset:
        dataset = self.dataset
        if stage is None:
            return self._acted(step)
        needs = stage.needs(dataset)
        self._read(needs)
        frames.require_columns(dataset.metadata, *needs)
        lazy = isinstance(stage, (PixelStage, ColumnStage)) and not isinstance(stage, PreparedStage)
        if lazy:
            played = stage(dataset)
        else:
            played = dataset.with_columns(_nothing, stage.columns(), stage.provenance())
        for name in stage.columns():
            if name in self.unread and name != ERROR_COLUMN:
                raise ConfigError(
                    f"it replaces the column {name!r} of step {self.unread[name]}, which no step "
                    "has looked at: give one of them a prefix or another name, or take it out."
                )
            self.unread[name] = number
        return played

    def _acted(self, step: Step) -> ImageTextPairDataset:
        dataset, options = self.dataset, step.options
        there = list(dataset.metadata.columns)
        if step.name == "filter":
            self._read(check(options["condition"], there))
            return dataset.filter(options["condition"])
        if step.name == "select":
            return dataset.select(options["columns"])
        if step.name == "index":
            named = [options.get("embedding_column", "image_embedding")]
            named += filter(None, [options.get("caption_column")])
            frames.require_columns(dataset.metadata, *named)
            return dataset
        self.unread.clear()
        if options.get("columns"):
            frames.require_columns(dataset.metadata, *options["columns"])
        asked = ("filter_column", "multiplicity", "weight")
        wanted = {name: options[name] for name in asked if options.get(name)}
        Wanted(dataset.id_col, **wanted).check(dataset.metadata)
        if step.name == "save" and options.get("columns"):
            return dataset.select(options["columns"])
        return dataset

    def _read(self, columns: Sequence[str]) -> None:
        for name in columns:
            self.unread.pop(name, None)


def _nothing(frame: Any) -> dict[str, Any]:
    """Stands for what looks at all rows; it is never called."""
    raise AssertionError("a rehearsal computes nothing")
