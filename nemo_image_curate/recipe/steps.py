"""One step of a recipe: a stage or an action with its options, checked and made."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic

from nemo_image_curate.recipe.actions import Action, actions
from nemo_image_curate.recipe.parameters import Nested, Parameters, parameters_of, stage_classes
from nemo_image_curate.recipe.text import line_of
from nemo_image_curate.stages.base import Stage


@dataclass(frozen=True)
class Problem:
    """What is wrong with a part of a recipe.

    Attributes
    ----------
    place : str
        ``FILE:LINE``.
    step : str
        Which step it is in, as people count; empty outside of them.
    text : str
    """

    place: str
    step: str
    text: str

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.place, self.step, self.text]))


@dataclass(frozen=True)
class Step:
    """A stage or an action.

    Attributes
    ----------
    name : str
        Of the stage's class or of the action.
    options : dict
        What is given; steps where an option is a stage.
    place : str
        Where it is in the file: ``FILE:LINE``.
    """

    name: str
    options: dict[str, Any]
    place: str = field(default="", compare=False)

    @property
    def action(self) -> Action | None:
        """What it does, when it is no stage."""
        return actions().get(self.name)

    @property
    def stage_class(self) -> type[Stage] | None:
        """The class of the stage that it is."""
        return stage_classes().get(self.name)

    def make(self, **defaults: Any) -> Stage:
        """The stage.

        Parameters
        ----------
        **defaults
            Options for it, and for stages in it, that have a parameter of this name.

        Raises
        ------
        ConfigError
            When what it needs is not installed.
        """
        stage_class = stage_classes()[self.name]
        known = parameters_of(stage_class).names
        options = {name: value for name, value in defaults.items() if name in known}
        for name, value in self.options.items():
            if isinstance(value, Step):
                options[name] = value.make(**defaults)
            elif isinstance(value, list) and value and isinstance(value[0], Step):
                options[name] = [step.make(**defaults) for step in value]
            else:
                options[name] = value
        return stage_class(**options)

    def data(self) -> Any:
        """As YAML has it."""
        options = self.options_data()
        action = self.action
        if action and options.keys() == {action.short}:
            return {self.name: options[action.short]}
        return {self.name: options} if options else self.name

    def options_data(self) -> dict[str, Any]:
        """The options as YAML has them."""
        return {name: _data(value) for name, value in self.options.items()}


def _data(value: Any) -> Any:
    if isinstance(value, Step):
        return value.data()
    if isinstance(value, list):
        return [_data(item) for item in value]
    return value


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence that names the nearest, and the others."""
    names = list(names)
    close = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), close, n=1, cutoff=0.5)
    hint = f"Did you mean {close[matches[0]]!r}? " if matches else ""
    return f"{hint}There are: {', '.join(names)}."


def read_step(
    data: Any, place: str, label: str, base: type | None = None
) -> tuple[Step | None, list[Problem]]:
    """A step of a recipe's data, or what is wrong with it.

    Parameters
    ----------
    data
        A name, or a mapping of one name to its options.
    place : str
        ``FILE:LINE``.
    label : str
        What messages call it.
    base : type, optional
        The stage that it must be a kind of. Default: any stage or action.
    """
    if isinstance(data, str):
        data = {data: {}}
    if not isinstance(data, Mapping) or len(data) != 1:
        content = ", ".join(map(repr, data)) if isinstance(data, Mapping) else repr(data)
        text = f"is {content}; a step is one name with its options, such as 'save: DIR'."
        return None, [Problem(place, label, text)]
    ((name, given),) = data.items()
    names = [key for key, cls in stage_classes().items() if base is None or issubclass(cls, base)]
    names += [] if base else [*actions()]
    if name not in names:
        return None, [Problem(place, label, f"no step {name!r}. {nearest(name, names)}")]
    action = actions().get(name)
    label = f"{label} ({name})"
    if action and not isinstance(given, Mapping) and given is not None:
        given = {action.short: given}
    if given is not None and not isinstance(given, Mapping):
        text = f"the options are {given!r}; give them by name, as {{name: value}}."
        return None, [Problem(place, label, text)]
    parameters = parameters_of(action.function if action else stage_classes()[name])
    options, problems = _read_options(given or {}, parameters, place, label)
    return Step(name, options, place), problems


def _read_options(
    given: Mapping[str, Any], parameters: Parameters, place: str, label: str
) -> tuple[dict[str, Any], list[Problem]]:
    options, problems = checked(parameters, given, place, label)
    for name, nested in parameters.nested.items():
        if name in given:
            where = line_of(given, (name,)) or place
            read = _read_many if nested.many else _read_one
            options[name], wrong = read(given[name], nested, where, f"{label}: {name}")
            problems += wrong
    return options, problems


def _read_one(data: Any, nested: Nested, place: str, label: str) -> tuple[Any, list[Problem]]:
    return read_step(data, place, label, nested.base)


def _read_many(data: Any, nested: Nested, place: str, label: str) -> tuple[Any, list[Problem]]:
    if not isinstance(data, list):
        return None, [Problem(place, label, f"is {data!r}; give a list, as [NAME: {{...}}].")]
    steps, problems = [], []
    for number, item in enumerate(data):
        step, wrong = read_step(item, line_of(data, (number,)) or place, label, nested.base)
        steps.append(step)
        problems += wrong
    return steps, problems


def checked(
    parameters: Parameters, given: Mapping[str, Any], place: str, label: str
) -> tuple[dict[str, Any], list[Problem]]:
    """The options with their types checked, and what is wrong with them."""
    try:
        model = parameters.model.model_validate(dict(given))
    except pydantic.ValidationError as error:
        problems: dict[tuple[str, str], Problem] = {}
        for fault in error.errors(include_url=False):
            path = fault["loc"]
            where = line_of(given, path) or place
            # A union tells of each of its members.
            text = _message(fault, parameters)
            known = problems.get((str(path[0]), where))
            if known is None:
                problems[(str(path[0]), where)] = Problem(where, label, text)
        return {}, list(problems.values())
    return {name: getattr(model, name) for name in given if name in model.model_fields_set}, []


def _message(error: Any, parameters: Parameters) -> str:
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"no option {name!r}. {nearest(name, parameters.names)}"
    if error["type"] == "missing":
        return f"the option {name!r} is missing."
    kind = _kind(parameters.model.model_fields[name].annotation)
    value = error["input"]
    hint = " Put it in quotes." if "text" in kind and not isinstance(value, (dict, list)) else ""
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
        hint = " Bools are true and false."
    return f"{name} should be {kind}, not {value!r}.{hint}"


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _kind(annotation: Any) -> str:
    """A type as people call it."""
    if annotation is type(None):
        return "null"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_kind, arguments))
    if origin is list:
        return f"a list (each {_kind(arguments[0])})"
    if origin is dict:
        return f"a mapping (each value {_kind(arguments[1])})"
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    return _KINDS.get(annotation, "something else")
