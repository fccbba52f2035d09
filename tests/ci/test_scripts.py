"""What scripts, tutorials and documents name is there: nothing else tells before they are run.

That names are used as they are defined is told by mypy, which reads the scripts, too.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GPU = ROOT / "ci" / "gpu"
SCRIPTS = sorted([*(ROOT / "ci").rglob("*.py"), *(ROOT / "tutorials").glob("*.py")])
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("*.toml"),
    *(path for path in (ROOT / "ci").rglob("*") if path.suffix in (".md", ".py", ".sh", ".txt")),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "nemo_image_curate").rglob("*.py"),
]
# Made by running something.
MADE = {"ci/gpu/RESULTS.json", "ci/gpu/timeline.svg"}


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _steps() -> Iterator[tuple[str, str]]:
    """What the steps of ci/gpu/bench.py run, and the mark of their tests."""
    for node in ast.walk(ast.parse((GPU / "bench.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Step":
            mark = ast.literal_eval(node.args[4]) if len(node.args) > 4 else "gpu"
            yield ast.literal_eval(node.args[1]), mark


@pytest.mark.parametrize("where", [where for where, _ in _steps()])
def test_a_gpu_step_runs_what_is_there(where):
    if where.startswith("tests"):
        assert all((ROOT / place).exists() for place in where.split())
        return
    module, function = where.split(".")
    defined = ast.parse((GPU / f"{module}.py").read_text()).body
    assert function in {node.name for node in defined if isinstance(node, ast.FunctionDef)}


def _is_for(path: Path, mark: str) -> bool:
    """Whether a module has tests that run on a GPU: by mark, or by a fixture that has it."""
    fixture = {"gpu": "backend", "cuda": "device"}[mark]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            marks = " ".join(map(ast.unparse, node.decorator_list))
            is_asked_of = node.name.startswith("test_") or "fixture" in marks
            takes_it = fixture in {argument.arg for argument in node.args.args}
            if f"mark.{mark}" in marks:
                return True
            if is_asked_of and takes_it and f"'{fixture}'" not in marks:
                return True
    return False


@pytest.mark.parametrize("mark", ["gpu", "cuda"])
def test_every_test_for_a_gpu_belongs_to_one_gpu_step(mark):
    places = [ROOT / place for where, own in _steps() if own == mark for place in where.split()]
    for path in (ROOT / "tests").rglob("test_*.py"):
        steps = [place for place in places if path.is_relative_to(place)]
        if _is_for(path, mark):
            assert len(steps) == 1, f"{_id(path)} is in {len(steps)} steps of ci/gpu/bench.py"


@pytest.mark.parametrize("path", [*SCRIPTS, *PAGES], ids=_id)
def test_what_is_imported_of_the_package_is_there(path):
    text = path.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S) if path.suffix == ".md" else [text]
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            module = getattr(node, "module", None) or ""
            if not isinstance(node, ast.ImportFrom) or not module.startswith("nemo_image_curate"):
                continue
            for alias in node.names:
                if not hasattr(importlib.import_module(module), alias.name):
                    importlib.import_module(f"{module}.{alias.name}")


def test_paths_that_are_named_exist():
    path_like = re.compile(
        r"(?<![\w/.~-])((?:ci|docs|nemo_image_curate|tests|tutorials)/[\w./-]*\w)"
    )
    missing = {
        f"{_id(path)} names {name}"
        for path in TEXTS
        for name in path_like.findall(path.read_text())
        if name not in MADE and not (ROOT / name).exists()
    }
    assert not missing
