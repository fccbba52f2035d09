"""YAML of recipes: plain data with the line of each part, read safely, and written.

A recipe may come from anywhere, so only plain values are read: no tags, one document, bounds on
size and depth, and on what aliases make of it. Scalars are those of YAML 1.2's core schema: ``no``
and ``on`` are texts, not bools, dates are texts, and ``1e-3`` is a number.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import yaml

from nemo_image_curate.errors import ConfigError

# A recipe has some dozen lines. Aliases count as often as they are used.
MAX_BYTES, MAX_DEPTH, MAX_NODES = 2**20, 24, 20_000
# No float is larger, and Python does not write out whole numbers of 4,300 digits.
MAX_BITS = 1024
_TAG = "tag:yaml.org,2002:"


class Mapping_(dict[str, Any]):
    """A mapping that knows the lines of its keys."""

    lines: dict[str, str]


class Sequence_(list[Any]):
    """A sequence that knows the lines of its items."""

    lines: list[str]


# YAML 1.2.2, 10.3.2: the core schema.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """Resolves scalars as YAML 1.2 does."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader`, or a reader of YAML 1.1, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {}
for _kind, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _first_letters = [*_first, *([""] if _kind == "null" else [])]
        _class.add_implicit_resolver(
            f"{_TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), _first_letters
        )


def parse(text: str, name: str = "recipe") -> Any:
    """The data of a YAML text: dicts and lists that know their lines, texts, numbers, bools, None.

    Parameters
    ----------
    text : str
    name : str
        What to call it in messages.

    Raises
    ------
    ConfigError
        With the line, for what is no YAML, or no plain data.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name} is longer than {MAX_BYTES:,} characters; recipes are not.")
    try:
        _check_events(text, name)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = _where(name, error.problem_mark or error.context_mark)
        raise ConfigError(
            f"{where}: no YAML: {error.problem or error.context}. Put texts with a colon, #, or "
            "brackets in quotes."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: no YAML: {error}") from error
    return None if node is None else _Constructor(name).value(node, 0)


def _check_events(text: str, name: str) -> None:
    """Refuse tags, more than one document, and depth, before anything is built of the text."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = _where(name, event.start_mark)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise ConfigError(f"{where}: a second document begins here; a recipe is one.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested more than {MAX_DEPTH} deep.")
        if tag := getattr(event, "tag", None):
            raise ConfigError(f"{where}: the tag {tag} is not allowed: values are plain.")


def _where(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}" if mark else name


class _Constructor:
    """Makes data of YAML nodes, within bounds."""

    def __init__(self, name: str):
        self.name = name
        self.nodes = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        where = self._line(node)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError(f"{where}: its aliases stand for more than {MAX_NODES:,} values.")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested more than {MAX_DEPTH} deep, or in itself.")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            items = Sequence_(self.value(item, depth + 1) for item in node.value)
            items.lines = [self._line(item) for item in node.value]
            return items
        return _scalar(node.tag.removeprefix(_TAG), node.value, where)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> Mapping_:
        mapping = Mapping_()
        mapping.lines = {}
        for key_node, value_node in node.value:
            where = self._line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{where}: a key is no text.")
            key = key_node.value
            if key in mapping:
                raise ConfigError(f"{where}: {key!r} is there twice; see {mapping.lines[key]}.")
            mapping[key] = self.value(value_node, depth + 1)
            mapping.lines[key] = where
        return mapping

    def _line(self, node: yaml.Node) -> str:
        return _where(self.name, node.start_mark)


def _scalar(kind: str, text: str, where: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        with contextlib.suppress(ValueError):
            number = int(text, 0 if text[:2] in ("0o", "0x") else 10)
            if number.bit_length() <= MAX_BITS:
                return number
        raise ConfigError(f"{where}: {text[:20]}... has too many digits.")
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def parse_value(text: str) -> Any:
    """What is set on a command line: plain YAML where it is, else the text as it stands."""
    try:
        value = parse(text, "--set")
    except ConfigError:
        # An expression may hold ": ", brackets, or begin with a quote.
        return text
    # "a: b" on a command line is rather a text than a mapping.
    is_block = isinstance(value, (dict, list)) and text.lstrip()[:1] not in ("{", "[")
    return text if is_block else value


def dump(data: Any) -> str:
    """The YAML text of plain data, which `parse` reads as the same data."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=96,
        default_flow_style=False,
    )


def line_of(data: Any, path: tuple[str | int, ...]) -> str:
    """The line of a part of the data; of the nearest around it that has one."""
    where = ""
    for step in path:
        lines = getattr(data, "lines", None)
        try:
            where = lines[step] if lines is not None else where
            data = data[step]
        except (KeyError, IndexError, TypeError):
            break
    return where


def _represent_float(dumper: _Dumper, value: float) -> yaml.Node:
    if math.isfinite(value):
        return dumper.represent_scalar(f"{_TAG}float", repr(value))
    text = ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return dumper.represent_scalar(f"{_TAG}float", text)


_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(Mapping_, yaml.SafeDumper.represent_dict)
_Dumper.add_representer(Sequence_, yaml.SafeDumper.represent_list)


def dump_inline(data: Any) -> str:
    """The same on one line, for people."""
    written = yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
        default_flow_style=True,
    )
    line = written.removesuffix("\n").removesuffix("\n...")
    return line[1:-1] if line.startswith("{") and line.endswith("}") else line


def _represent_text(dumper: _Dumper, value: str) -> yaml.Node:
    # Line ends other than these are read as spaces, unless they are escaped.
    style = None if value.replace("\n", "").isprintable() else '"'
    return dumper.represent_scalar(f"{_TAG}str", value, style=style)


_Dumper.add_representer(str, _represent_text)
