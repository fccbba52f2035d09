"""What a recipe would do with a dataset, step by step: checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.errors import ConfigError, CurateError
from nemo_image_curate.recipe import places
from nemo_image_curate.recipe.recipe import Recipe
from nemo_image_curate.recipe.records import fingerprints, foreign_exports, read_done
from nemo_image_curate.recipe.rehearsal import Planned, Rehearsal
from nemo_image_curate.recipe.steps import Problem, Step
from nemo_image_curate.stages.base import PixelStage, Stage
from nemo_image_curate.stages.image_pass import ImagePass


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
        saves = [
            planned.number for planned in self.steps if planned.done and planned.step.name == "save"
        ]
        return max(saves, default=0)

    @property
    def stop(self) -> int:
        """The number of the last step that is to be done; 0 when all is done."""
        todo = [
            planned.number for planned in self.steps if writes(planned.step) and not planned.done
        ]
        return max(todo, default=0)

    @property
    def todo(self) -> list[Planned]:
        """The steps that are to be done."""
        return [planned for planned in self.steps[self.start : self.stop] if planned.done is None]

    def state(self, planned: Planned) -> str:
        """``done`` or ``to do``; for steps that write nothing, whether they are needed."""
        is_passed = planned.number <= self.start or planned.number > self.stop
        return "done" if planned.done or (is_passed and not writes(planned.step)) else "to do"


def passes(steps: Sequence[Planned]) -> list[list[Planned]]:
    """Steps that are done together: statistics, hashes and the like share a pass over images."""
    together: list[list[Planned]] = []
    for planned in steps:
        last = together[-1][-1] if together else None
        if last and _pass_of(planned) is not None and _pass_of(planned) == _pass_of(last):
            together[-1].append(planned)
        else:
            together.append([planned])
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
    stages = _stages(recipe)
    if dataset is None:
        if "path" not in recipe.dataset:
            raise ConfigError("the recipe names no dataset: --set dataset.path=DATASET")
        dataset = ImageTextPairDataset.from_webdataset(**recipe.dataset)
    problems = [*places.problems_of(recipe.steps, dataset), *_unused(recipe.steps)]
    if recipe.work_dir is not None:
        problems += [Problem("", "", text) for text in places.why_no_work_dir(recipe.work_dir)]
    _refuse(problems)
    rehearsal = Rehearsal(dataset)
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
            dataclasses.replace(step, fingerprint=print_, done=finished)
            for step, print_, finished in zip(planned, prints, done, strict=True)
        ],
    )


def _stages(recipe: Recipe) -> list[Stage | None]:
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
    if message := "\n".join(map(str, problems)):
        raise ConfigError(message)


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
