"""What runs on workers says so: functions handed to Dask, found in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import nemo_image_curate

PACKAGE = Path(nemo_image_curate.__file__).parent
# Calls that hand a function to Dask, with its place among their arguments.
HANDED = {"dask.delayed": 0, "partitions.run": 1, "blocks.map": 0, "self._map": 0, "_step": 3}
# The same of a method, whatever it is called on.
HANDED_METHODS = {"fill": 0}


def _trees() -> Iterator[ast.Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ast.parse(path.read_text("utf-8"))


def _handed_over(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        place = HANDED.get(called, HANDED_METHODS.get(called.rpartition(".")[2]))
        if place is not None:
            function = node.args[place] if len(node.args) > place else None
            if isinstance(function, ast.Name):
                yield function.id


def test_functions_that_dask_runs_say_so_and_no_others():
    handed_over: set[str] = set()
    says_so: set[str] = set()
    for tree in _trees():
        handed_over |= set(_handed_over(tree))
        says_so |= {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and "runs on a worker" in " ".join((ast.get_docstring(node) or "").split())
        }
    # The parameters of those that hand over what they are given.
    assert handed_over - {"function", "value"} == says_so
    assert len(says_so) > 10
