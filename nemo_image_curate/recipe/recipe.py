"""`Recipe`: a whole curation in one YAML file, checked before any work."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from nemo_image_curate import storage
from nemo_image_curate.compute.client import get_client
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.frames import Backend
from nemo_image_curate.recipe import settings as set_
from nemo_image_curate.recipe import shipped, text
from nemo_image_curate.recipe.parameters import parameters_of
from nemo_image_curate.recipe.steps import Problem, Step, checked, nearest, read_step

# The parts of a recipe that functions take as they are.
_PARTS = {"dataset": ImageTextPairDataset.from_webdataset, "client": get_client}
_TEXTS = ("about", "output", "work_dir")
_NAMES = (*_PARTS, *_TEXTS, "steps")
# Of problems that are told together.
_MOST_TOLD = 10


@dataclass(frozen=True)
class Recipe:
    """A whole curation: the dataset, the steps, and what is written.

    Make one with `Recipe.read` or `Recipe.parse`, and do it with `run_recipe`. Two are equal when
    they say the same.

    Parameters
    ----------
    dataset : dict
        What `ImageTextPairDataset.from_webdataset` is called with.
    steps : tuple of Step
        Stages and what else is done, one after the other.
    client : dict, optional
        What `get_client` is called with.
    work_dir : str, optional
        For the intermediate files of all stages that have such a parameter, and do not give it.
    about : str, optional
        What the recipe is for.
    notes : tuple of str
        What is not known of how a recipe came about that was made of something else.

    Examples
    --------
    >>> recipe = Recipe.parse('''
    ... dataset: {path: photos/}
    ... steps:
    ... - ImageStatistics
    ... - filter: width >= 256
    ... - save: curated/
    ... ''')
    >>> recipe.steps[1].options
    {'condition': 'width >= 256'}
    """

    dataset: dict[str, Any]
    steps: tuple[Step, ...]
    client: dict[str, Any] = field(default_factory=dict)
    work_dir: str | None = None
    about: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str], settings: Iterable[str] = ()) -> Recipe:
        """Read a recipe's file, or one that comes with this package by its name.

        Parameters
        ----------
        path : str or path
            A file, a URL, or a name of `shipped.names`.
        settings : iterable of str
            ``PATH=VALUE`` each, which replace what the file says; see `settings.put`.

        Raises
        ------
        ConfigError
            With file, line and step of everything that is wrong.
        """
        name = os.fspath(path)
        if name in shipped.names():
            return cls.parse(shipped.text(name), name, settings)
        location = storage.normalise(name)
        info = storage.stat(location)
        if info is None:
            known = nearest(name, shipped.names())
            raise ConfigError(f"{name} is no file, and no recipe that comes with this. {known}")
        if info.size > text.MAX_BYTES:
            raise ConfigError(f"{name} has {info.size:,} bytes; a recipe has not.")
        try:
            content = storage.read_bytes(location).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name} is no text in UTF-8: {error}.") from error
        return cls.parse(content, name, settings)

    @classmethod
    def parse(cls, content: str, name: str = "recipe", settings: Iterable[str] = ()) -> Recipe:
        """A recipe from its YAML text.

        Parameters
        ----------
        content : str
        name : str
            What to call it in messages.
        settings : iterable of str
            As `read` takes them.

        Raises
        ------
        ConfigError
            With file, line and step of everything that is wrong.
        """
        data = text.parse(content, name)
        if not isinstance(data, dict):
            raise ConfigError(f"{name} is no recipe: it needs the keys dataset and steps.")
        set_.put(data, settings)
        return cls._of(data, name)

    @classmethod
    def _of(cls, data: Mapping[str, Any], name: str) -> Recipe:
        problems = [
            Problem(text.line_of(data, (key,)), "", f"unknown key {key!r}. {nearest(key, _NAMES)}")
            for key in data
            if key not in _NAMES
        ]
        parts = {}
        for part, function in _PARTS.items():
            options = data.get(part)
            place = text.line_of(data, (part,)) or name
            if options is not None and not isinstance(options, Mapping):
                example = "{path: data/}" if part == "dataset" else "{n_workers: 2}"
                problems.append(Problem(place, part, f"is {options!r}; give {part}: {example}"))
                continue
            # What comes with this package leaves the dataset to be named.
            whole = {"path": "", **(options or {})} if part == "dataset" else options or {}
            parts[part], wrong = checked(parameters_of(function), whole, place, part)
            problems += wrong
        if not parts.get("dataset", {}).get("path", ""):
            parts.get("dataset", {}).pop("path", None)
        if (workers := parts.get("client", {}).get("n_workers")) is not None and workers < 1:
            place = text.line_of(data, ("client", "n_workers"))
            problems.append(Problem(place, "client", f"n_workers should be 1 or more: {workers}."))
        kinds = ("auto", *get_args(Backend))
        if (kind := parts.get("client", {}).get("kind", "auto")) not in kinds:
            place = text.line_of(data, ("client", "kind"))
            message = f"kind should be {', '.join(kinds)}, not {kind!r}."
            problems.append(Problem(place, "client", message))
        for key in _TEXTS:
            if not isinstance(data.get(key), (str, type(None))):
                place = text.line_of(data, (key,))
                problems.append(Problem(place, key, f"should be a text, not {data[key]!r}."))
        steps, wrong = _read_steps(data.get("steps"), text.line_of(data, ("steps",)) or name)
        problems += wrong
        if problems:
            raise ConfigError(_listed(problems, name))
        steps = [_below(step, data.get("output")) for step in steps]
        about, work_dir = data.get("about"), data.get("work_dir")
        return cls(parts["dataset"], tuple(steps), parts["client"], work_dir, about)

    def data(self) -> dict[str, Any]:
        """What the recipe says, as plain dicts, lists and values."""
        whole = {"about": self.about, "dataset": self.dataset, "client": self.client}
        whole |= {"work_dir": self.work_dir}
        entries = {name: value for name, value in whole.items() if value not in (None, {})}
        return {**entries, "steps": [step.data() for step in self.steps]}

    def to_yaml(self) -> str:
        """The recipe as a text that `parse` reads as the same recipe; notes are comments."""
        notes = [f"# {line}\n" for note in self.notes for line in note.splitlines()]
        return "".join([*notes, text.dump(self.data())])


def _below(step: Step, output: str | None) -> Step:
    """The step, with what it writes below a folder, unless its place says where that is."""
    if not output or step.action is None or step.action.writes is None:
        return step
    path = step.options["path"]
    is_whole = os.path.isabs(os.path.expanduser(path)) or "://" in path
    place = path if is_whole else f"{output.rstrip('/')}/{path}"
    return dataclasses.replace(step, options={**step.options, "path": place})


def _read_steps(items: Any, place: str) -> tuple[list[Step], list[Problem]]:
    if not isinstance(items, list) or not items:
        example = "steps: [ImageStatistics, save: curated/]"
        return [], [Problem(place, "steps", f"is {items!r}; give a list, such as {example}")]
    steps, problems = [], []
    for number, item in enumerate(items):
        where = text.line_of(items, (number,)) or place
        step, wrong = read_step(item, where, f"step {number + 1}")
        problems += wrong
        if step is not None:
            steps.append(step)
    return steps, problems


def _listed(problems: list[Problem], name: str) -> str:
    if len(problems) == 1:
        return str(problems[0])
    lines = [f"  {problem}" for problem in problems[:_MOST_TOLD]]
    more = len(problems) - len(lines)
    lines += [f"  and {more} more"] if more else []
    return "\n".join([f"{name} has {len(problems)} faults:", *lines])
