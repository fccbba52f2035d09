"""What a lazy Dask frame will compute, as a fingerprint that tells finished work from missing work.

A partition's fingerprint is a hash of its inputs and of everything done to them. The second part
is the Dask expression itself, with the reading of the shards taken out: so it covers a user's own
filters and column assignments as well as our stages, and does not change when shards are added.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from dask.base import tokenize

from nemo_image_curate.compute import _dask
from nemo_image_curate.dataset.sources import MetadataReader

# Operands that only repeat the schema, which in-place runs see grow while they are under way, and
# Dask's way to shuffle, which it chooses by whether there is a client.
_IGNORED_OPERANDS = frozenset({"meta", "user_meta", "parent_meta", "_meta", "shuffle_method"})


class Lineage:
    """The expression of a frame, seen from the shards it reads.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame

    Attributes
    ----------
    aligned : bool
        Partition i holds rows of source i only, so it can be saved under that shard's name.
    independent : bool
        Partition i depends on source i and on no other.
    token : str
        Hash of all that is done after reading.
    scans_tars : bool
        Some of it reads all headers of the tars.
    reads_tars : bool
        Some of it reads the tars, wholly or in part.
    readers : list of (MetadataReader, list of Source)
        What the frame reads: more than one after a merge.
    """

    def __init__(self, frame: Any):
        expr = frame.expr
        self.readers = [
            (node.operand("func"), list(node.operand("iterables")[0]))
            for node in expr.walk()
            if is_reader(node)
        ]
        inputs = {tuple(sources) for _, sources in self.readers}
        same_count = [len(sources) for sources in inputs] == [expr.npartitions]
        self.aligned = same_count and _row_aligned(expr)
        self.independent = self.aligned and _blockwise_only(expr)
        self.token = fingerprint(describe(expr))
        functions = [dict(_dask.operands(node)).get("func") for node in expr.walk()]
        self.scans_tars = any(getattr(function, "scans_tars", False) for function in functions)
        self.reads_tars = any(getattr(function, "reads_tars", False) for function in functions)


def is_reader(node: Any) -> bool:
    """Whether an expression is the reading of the shards."""
    return isinstance(dict(_dask.operands(node)).get("func"), MetadataReader)


def _row_aligned(node: Any) -> bool:
    if is_reader(node):
        return _dask.chosen_partitions(node) is None
    if not _dask.is_blockwise(node):
        return False
    # Dask broadcasts single values, such as a quantile to compare with, to every partition.
    return all(_row_aligned(child) or child.ndim == 0 for child in node.dependencies())


def _blockwise_only(node: Any) -> bool:
    if is_reader(node):
        return True
    return _dask.is_blockwise(node) and all(map(_blockwise_only, node.dependencies()))


def describe(value: Any, callers: tuple[Any, ...] = ()) -> Any:
    """A value as plain lists and strings; `callers` are the functions and classes around it."""
    if any(value is caller for caller in callers):
        return "recursion"
    if _dask.is_expression(value):
        if is_reader(value):
            return ["read", value.operand("func").id_col]
        described = [
            [name, describe(operand)] if name else describe(operand)
            for name, operand in _dask.operands(value)
            if name not in _IGNORED_OPERANDS
        ]
        return [type(value).__name__, *described]
    if isinstance(value, (list, tuple)):
        return [describe(item, callers) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(describe(item, callers)) for item in value)
    if isinstance(value, dict):
        return [[str(name), describe(item, callers)] for name, item in value.items()]
    if hasattr(type(value), "content_token"):
        # To Dask it matters where something is read from, here only what is read.
        return list(value.content_token())
    if isinstance(value, functools.partial):
        return ["partial", describe((value.func, value.args, value.keywords), callers)]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, types.FunctionType) and not _importable(value):
        return _describe_function(value, (*callers, value))
    if isinstance(value, type) and not _importable(value):
        return _describe_class(value, (*callers, value))
    return tokenize(value)


def _importable(definition: types.FunctionType | type) -> bool:
    """Whether other processes find it by its name; else what counts is what it does."""
    module = sys.modules.get(definition.__module__)
    importable = getattr(module, definition.__qualname__, None)
    return definition.__module__ != "__main__" and importable is definition


def _describe_function(function: types.FunctionType, callers: tuple[Any, ...]) -> Any:
    """A function as its code and the values that it uses.

    Dask would also hash the file name and line, which are others in every run of a notebook.
    """
    code = function.__code__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    names = sorted(_names(code) & function.__globals__.keys())
    return [
        "function",
        _describe_code(code),
        describe(function.__defaults__, callers),
        describe(function.__kwdefaults__, callers),
        [describe(value, callers) for value in cells],
        [[name, describe(function.__globals__[name], callers)] for name in names],
    ]


def _describe_class(cls: type, callers: tuple[Any, ...]) -> Any:
    """A class as its bases and what its body defines: Dask's hash is another in every run."""
    body = [[name, kind, describe(value, callers)] for name, kind, value in _body(cls)]
    return ["class", cls.__qualname__, describe(cls.__bases__, callers), body]


def describe_code(cls: type) -> Any:
    """Where a class is defined and what its body says: its functions' code, and constants.

    The functions, classes and constants of its package that these use by name count as well. Lists
    and other things that a program may change while it runs are left out.
    """
    if not _importable(cls):
        return _describe_class(cls, (cls,))
    return ["code", cls.__module__, cls.__qualname__, _describe_source(cls, {cls})]


def _describe_source(definition: types.FunctionType | type, seen: set[Any]) -> list[Any]:
    """A function's code and all of its package that it uses; of a class, that of its body.

    What is in `seen` is described already: call graphs have too many paths to follow each.
    """
    if isinstance(definition, type):
        used = {f"{name} {kind}": value for name, kind, value in _body(definition)}
        bases = [base for base in definition.__bases__ if _package(base) == _package(definition)]
        used |= {f"base {number}": base for number, base in enumerate(bases)}
        described: list[Any] = []
    else:
        known = definition.__globals__
        used = {name: known[name] for name in _names(definition.__code__) & known.keys()}
        defaults = describe((definition.__defaults__, definition.__kwdefaults__))
        described = [_describe_code(definition.__code__), defaults]
    for name, value in sorted(used.items()):
        if isinstance(value, (str, bytes, int, float, tuple)):
            described.append([name, describe(value)])
        elif isinstance(value, (types.FunctionType, type)) and _package(value) == _package(
            definition
        ):
            is_new = value not in seen
            seen.add(value)
            inner = _describe_source(value, seen) if is_new else []
            described.append([name, value.__module__, value.__qualname__, inner])
    return described


def _package(definition: types.FunctionType | type) -> str:
    return definition.__module__.partition(".")[0]


def _body(cls: type) -> Iterator[tuple[str, str, Any]]:
    """Name, kind and value of what a class defines; of methods and properties the function."""
    for name, value in sorted(vars(cls).items()):
        inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        plain = not name.startswith("__") and name != "_abc_impl"
        if plain or isinstance(inner, types.FunctionType):
            yield name, type(value).__name__, inner


def _describe_code(code: types.CodeType) -> Any:
    constants = [
        _describe_code(constant) if isinstance(constant, types.CodeType) else describe(constant)
        for constant in code.co_consts
    ]
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return [code.co_code.hex(), constants, *shape, *names, code.co_exceptiontable.hex()]


def _names(code: types.CodeType) -> set[str]:
    """The global names that a function's code, or a function inside it, may look up."""
    inner = [
        _names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)
    ]
    return set(code.co_names).union(*inner)


def fingerprint(*parts: Any) -> str:
    """A hash of plain values: strings, numbers, None, and lists of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
