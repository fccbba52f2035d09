"""Values that a command line puts into a recipe: ``--set steps.2.filter="width >= 256"``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.recipe.actions import actions
from nemo_image_curate.recipe.steps import nearest
from nemo_image_curate.recipe.text import MAX_DEPTH, Mapping_, Sequence_, parse_value


def put(data: Any, settings: Iterable[str]) -> None:
    """Put values into the data of a recipe.

    Parameters
    ----------
    data : dict
        As `text.parse` gives it; it is changed.
    settings : iterable of str
        Each ``PATH=VALUE``. A path has names and, into lists, numbers counted from 1 or the name
        of a step that is there once, parted by points: ``dataset.path``, ``steps.2.filter``,
        ``steps.TimmImageEmbedder.model_name``. The value is YAML, or else a text. ``null`` takes
        a step out, and an option back to its default. A step one past the last is added.

    Raises
    ------
    ConfigError
        For a path that leads nowhere, with what there is.
    """
    # Numbers are those of the file, whatever other settings take out.
    removed: list[tuple[Any, int]] = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names) or len(names) > MAX_DEPTH:
            raise ConfigError(
                f"--set {setting}: give PATH=VALUE, such as dataset.path=data/ or "
                "steps.2.filter='width >= 256'."
            )
        where = f"--set {path.strip()}"
        _put(data, names, parse_value(text), where, removed)
    for items, number in sorted(removed, key=lambda entry: -entry[1]):
        del items[number]
        del items.lines[number]


def _put(
    data: Any, names: list[str], value: Any, where: str, removed: list[tuple[Any, int]]
) -> None:
    name, rest = names[0], names[1:]
    if isinstance(data, Sequence_):
        number = _number(data, name, where)
        # What is found by the name of a step is what stands below that name.
        below = names if not name.isdigit() and isinstance(data[number], (str, dict)) else rest
        if number == len(data) and not rest:
            data.append(value)
            data.lines.append(where)
        elif not rest and value is None:
            removed.append((data, number))
        elif not below:
            data[number], data.lines[number] = value, where
        elif number < len(data):
            if isinstance(data[number], str):
                data[number] = _mapping({data[number]: None}, where)
            _put(data[number], below, value, where, removed)
            if not data[number]:
                removed.append((data, number))
        else:
            raise ConfigError(f"{where}: there are {len(data)} of these, counted from 1.")
        return
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: {name!r} leads into {data!r}, which has no parts.")
    if not rest and value is None:
        data.pop(name, None)
    elif not rest:
        data[name] = value
        _note(data, name, where)
    else:
        if not isinstance(data.get(name), (dict, list)):
            # A bare value is that of one option, which keeps it.
            action, bare = actions().get(name), data.get(name)
            options = {} if action is None or bare is None else {action.short: bare}
            data[name] = _mapping(options, where)
            _note(data, name, where)
        _put(data[name], rest, value, where, removed)


def _mapping(options: dict[str, Any], where: str) -> Mapping_:
    mapping = Mapping_(options)
    mapping.lines = dict.fromkeys(options, where)
    return mapping


def _note(data: Any, name: str, where: str) -> None:
    if isinstance(data, Mapping_):
        data.lines[name] = where


def _number(items: Sequence_, name: str, where: str) -> int:
    """The place of an item: by its number, or by the name of a step."""
    if name.isdigit():
        number = int(name) - 1
        if not 0 <= number <= len(items):
            raise ConfigError(f"{where}: there are {len(items)} of these, counted from 1.")
        return number
    names = [item if isinstance(item, str) else next(iter(item or [None]), None) for item in items]
    there = [number for number, step_name in enumerate(names) if step_name == name]
    if len(there) > 1:
        numbers = ", ".join(str(number + 1) for number in there)
        raise ConfigError(f"{where}: {name!r} is there several times; give its number: {numbers}.")
    if not there:
        raise ConfigError(f"{where}: no step {name!r}. {nearest(name, map(str, names))}")
    return there[0]
