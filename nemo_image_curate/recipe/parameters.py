"""What can be given to a stage or a function in a recipe: a pydantic model made of its signature.

So a new parameter, and a new stage in `catalog.PUBLIC`, are in recipes without another list.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from nemo_image_curate import catalog
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.stages.base import Stage

# Of functions, what a recipe says elsewhere, or not at all.
_NOT_IN_RECIPES = frozenset({"self", "dataset", "progress", "options"})
_WORK_DIR = "work_dir"


@dataclass(frozen=True)
class Nested:
    """A parameter that is itself a stage, or several.

    Attributes
    ----------
    base : type
        What it must be.
    many : bool
    """

    base: type
    many: bool


@dataclass(frozen=True)
class Parameters:
    """What a stage or function takes.

    Attributes
    ----------
    model : type of pydantic.BaseModel
        Checks names and types; stages among the parameters are checked apart.
    nested : dict of str to Nested
        The parameters that are stages.
    inputs : set of str
        The parameters that say where a file or dataset is that is read.
    """

    model: type[pydantic.BaseModel]
    nested: dict[str, Nested]
    inputs: frozenset[str]

    @property
    def names(self) -> list[str]:
        """What can be given."""
        return [*self.model.model_fields]

    @property
    def required(self) -> list[str]:
        """What has to be given."""
        fields = self.model.model_fields.items()
        return [name for name, field in fields if field.is_required()]


@functools.cache
def stage_classes() -> dict[str, type[Stage]]:
    """The public stages that recipes may name; not those that others are derived from."""
    public = {name: catalog.load(name) for name in catalog.PUBLIC}
    stages = {
        name: item
        for name, item in public.items()
        if isinstance(item, type) and issubclass(item, Stage)
    }
    bases = {base for stage in stages.values() for base in stage.__mro__[1:]}
    return {name: stage for name, stage in stages.items() if stage not in bases}


@functools.cache
def parameters_of(function: Callable[..., Any]) -> Parameters:
    """What a stage's class or a function takes.

    Parameters
    ----------
    function : callable
        With annotations; of types that no YAML text can hold, such as arrays, it is left out.
    """
    fields: dict[str, Any] = {}
    nested: dict[str, Nested] = {}
    inputs = set()
    for name, (annotation, default) in _annotated(function).items():
        stage = _nested(annotation)
        if stage is not None:
            nested[name] = stage
        elif _names_a_place(annotation) and name != _WORK_DIR:
            inputs.add(name)
        kind = Any if stage else _plain(annotation)
        if kind is type(None):
            continue
        fields[name] = (kind, default)
    config = pydantic.ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    model = pydantic.create_model(function.__name__, __config__=config, **fields)
    return Parameters(model, nested, frozenset(inputs))


def _annotated(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The parameters' types and defaults, ``...`` where there is none."""
    parameters: dict[str, tuple[Any, Any]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in _NOT_IN_RECIPES and parameter.kind is not parameter.VAR_KEYWORD:
            continue
        annotation = _resolved(function, parameter)
        if parameter.kind is parameter.VAR_KEYWORD:
            if typing.get_origin(annotation) is typing.Unpack:
                (options,) = typing.get_args(annotation)
                for name, kind in typing.get_type_hints(options, None, _Names(options)).items():
                    parameters[name] = (kind, _default_of_base(function, name))
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        parameters[parameter.name] = (annotation, default)
    return parameters


def _default_of_base(function: Callable[..., Any], name: str) -> Any:
    """What an option that a class passes on to its base is by default; None where nobody says."""
    for base in function.__mro__[1:-1] if isinstance(function, type) else ():
        parameter = inspect.signature(base).parameters.get(name)
        if parameter is not None and parameter.default is not parameter.empty:
            return parameter.default
    return None


def _resolved(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type of a parameter, whose annotation is a text in the module that wrote it."""
    text = parameter.annotation
    if not isinstance(text, str):
        return text
    owners: list[Any] = [function]
    if isinstance(function, type):
        # A field of a dataclass, or else a parameter of a constructor.
        known = {cls: vars(cls).get("__annotations__", {}) for cls in function.__mro__}
        fields = [cls for cls in function.__mro__ if known[cls].get(parameter.name) == text]
        constructors = [cls for cls in function.__mro__ if "__init__" in vars(cls)]
        owners = [*fields, *constructors]
    return eval(text, {}, _Names(owners[0]))


class Other:
    """Stands for a type that no recipe can hold."""


class _Names(dict[str, Any]):
    """The names of the module that something is defined in, for annotations there.

    Those that only type checkers import are stages, or what no recipe can hold.
    """

    def __init__(self, owner: Any):
        super().__init__(vars(sys.modules[owner.__module__]))

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return catalog.load(name) if name in catalog.PUBLIC else _Module


class _MetaOther(type):
    def __getattr__(cls, name: str) -> Any:
        return Other


class _Module(Other, metaclass=_MetaOther):
    """A module that only type checkers import."""


def _nested(annotation: Any) -> Nested | None:
    """The stage that a type asks for, if it does."""
    if isinstance(annotation, type) and issubclass(annotation, Stage):
        return Nested(annotation, many=False)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType and len(arguments) == 2 and type(None) in arguments:
        return _nested(next(argument for argument in arguments if argument is not type(None)))
    if origin is Sequence and (inner := _nested(arguments[0])):
        return Nested(inner.base, many=True)
    return None


def _plain(annotation: Any) -> Any:
    """A type as YAML can hold it: texts for paths and datasets, lists for sequences."""
    if annotation in (bool, int, float, str, type(None)):
        return annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = dict.fromkeys(_plain(argument) for argument in arguments if not _is_other(argument))
        return functools.reduce(operator.or_, kinds) if kinds else type(None)
    if origin is typing.Literal:
        return annotation
    if origin in (Sequence, list, tuple):
        return list[_plain(arguments[0])]  # type: ignore[misc]
    if origin in (Mapping, dict):
        return dict[str, _plain(arguments[1])]  # type: ignore[misc]
    # Whatever else it takes, datasets are named by their paths.
    return str | list[str] | dict[str, str]


def _names_a_place(annotation: Any) -> bool:
    """Whether a text stands for what lies there: for a path, a dataset, or whatever is taken."""
    members = typing.get_args(annotation) or [annotation]
    return annotation in (Any, Other) or any(map(_is_other, members))


def _is_other(kind: Any) -> bool:
    """Whether no YAML holds values of a type: datasets, arrays, paths that are no texts."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Sequence, Mapping, list, dict):
        return _is_other(arguments[-1])
    plain = origin or kind
    others = Other, ImageTextPairDataset, os.PathLike
    return isinstance(plain, type) and issubclass(plain, others)
