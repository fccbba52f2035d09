"""Modules import only what stands before them in one order, and nothing private of each other."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "nemo_image_curate"

# Folders and modules of the package, each of which may import those before it. CONTRIBUTING.md
# says in the same order what each is for.
LAYERS = """
errors storage outputs locks tables frames html version catalog compute shards decode vectors
expressions dataset stages models learning embedders quality classifiers dedup selection index
search recipe report serve demo doctor cli
""".split()

# Modules that hold the private names of other packages; each has a test that fails when one moves.
COMPAT = {f"{PACKAGE}.compute.{module}" for module in ("_bundles", "_dali", "_dask", "_torch")}
COMPAT |= {f"{PACKAGE}.search.live._chroma"}
# Names that look private and are documented: of named tuples and of os.
DOCUMENTED = {"_asdict", "_exit", "_replace"}


def _sources() -> dict[str, Path]:
    """The modules of the package, by dotted name."""
    paths = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        paths[name.removesuffix(".__init__")] = path
    return paths


SOURCES = _sources()


@functools.cache
def _tree(module: str) -> ast.Module:
    # Not while tests are collected, which each process does.
    return ast.parse(SOURCES[module].read_text("utf-8"), str(SOURCES[module]))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, but for what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _executed(child)


def _imports(module: str) -> set[str]:
    """The modules of the package that one imports, anywhere in it."""
    found = set()
    for node in _executed(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in SOURCES else node.module for name in below}
    return found & set(SOURCES)


def _layer(module: str) -> str | None:
    """The layer of a module; None for the package itself, which imports names when asked."""
    return module.partition(".")[2].partition(".")[0] or None


def test_every_module_is_in_a_layer_and_each_layer_exists():
    assert {_layer(module) for module in SOURCES} - {None} == set(LAYERS)


def test_contributors_are_told_the_same_order():
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("```")[1]
    assert [line.split()[0] for line in tree.strip().splitlines()] == LAYERS


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_to_earlier_layers(layer):
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    climbing = {
        f"{module} imports {imported}"
        for module in SOURCES
        if _layer(module) == layer
        for imported in _imports(module)
        if _layer(imported) not in allowed
    }
    assert not climbing


def test_the_package_itself_imports_the_list_of_names_alone():
    assert _imports(PACKAGE) == {f"{PACKAGE}.catalog"}


def test_no_modules_import_each_other():
    # A folder's __init__ that imports what is below it is no circle, unless that imports it.
    graph = {module: _imports(module) - {module} for module in SOURCES}
    graphlib.TopologicalSorter(graph).prepare()


def _defined(tree: ast.Module) -> set[str]:
    """Names that a module defines, of whatever kind."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _private_uses(module: str) -> set[str]:
    """Private names that a module uses and does not define."""
    own, used = _defined(_tree(module)), set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Attribute) and node.attr not in own:
            used.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            source = getattr(node, "module", None) or ""
            if source not in COMPAT:
                whole = {f"{source}.{alias.name}".strip(".") for alias in node.names}
                used |= {part for name in whole - COMPAT for part in name.split(".")}
    return {name for name in used if _is_private(name)} - DOCUMENTED


@pytest.mark.parametrize("module", sorted(set(SOURCES) - COMPAT))
def test_private_names_stay_in_their_modules(module):
    assert not _private_uses(module)
