"""The command run."""

from __future__ import annotations

import json
import logging

import pytest
from click.testing import CliRunner

from nemo_image_curate import Recipe
from nemo_image_curate.cli import main
from tests.make_data import make_dataset

RECIPE = """
output: OUT
steps:
- ImageStatistics
- filter: width >= 3
- save: measured
- filter: score >= 3
- export: {path: tars, samples_per_shard: 3}
"""


@pytest.fixture
def run(workers, monkeypatch):
    """Runs a command in this process, and gives what it printed."""
    # Each run adds a handler, which prints where nobody listens any more.
    monkeypatch.setattr(logging.getLogger("nemo_image_curate"), "handlers", [])

    def call(*words: object, code: int = 0) -> str:
        last = ["--backend", "cpu", "--scheduler", workers.scheduler_address]
        done = CliRunner().invoke(main, [*map(str, words), *last])
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    return call


@pytest.fixture
def recipe(tmp_path):
    make_dataset(tmp_path / "in", sizes=[4, 3])
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("OUT", str(tmp_path / "out")))
    return path


def test_a_recipe_is_planned_run_and_run_again(run, recipe, tmp_path):
    dataset = ("--set", f"dataset.path={tmp_path / 'in'}")
    plan = run("run", recipe, *dataset, "--dry-run")
    assert " 2 to do  filter: width >= 3" in plan
    assert "decode   at most 7 images: step 1 (ImageStatistics)" in plan
    assert not (tmp_path / "out").exists()

    told = json.loads(run("run", recipe, *dataset, "--json"))
    account = told["account"]
    kept = account["written"]
    assert kept + account["dropped_by_condition"] == account["rows_in_sidecars"] == 7
    assert told["dropped_by"] == {"width >= 3": 0, "score >= 3": 7 - kept}
    record = json.loads((tmp_path / "out/tars/_run.json").read_text())
    assert record["command"] == "run"
    assert Recipe.parse(record["recipe"]).dataset == {"path": str(tmp_path / "in")}

    again = run("run", recipe, *dataset)
    assert f"{kept} written + {7 - kept} dropped by condition" in again
    assert "to do" not in run("run", recipe, *dataset, "--dry-run")


def test_what_was_made_says_how(run, recipe, tmp_path):
    run("run", recipe, "--set", f"dataset.path={tmp_path / 'in'}")
    text = run("run", tmp_path / "out/measured", "--print", "--set", "steps.filter=width >= 4")
    printed = Recipe.parse(text)
    assert [step.name for step in printed.steps] == ["ImageStatistics", "filter", "save"]
    assert printed.steps[1].options == {"condition": "width >= 4"}
    run("stats", tmp_path / "in", "--output", tmp_path / "stats")
    run("filter", tmp_path / "stats", "--where", "score >= 3", "--output", tmp_path / "kept")
    told = Recipe.parse(run("run", tmp_path / "kept/_run.json", "--print"))
    assert [step.data() for step in told.steps] == [
        "ImageStatistics",
        {"filter": "score >= 3"},
        {"export": {"path": str(tmp_path / "kept"), "samples_per_shard": 10000}},
    ]


def test_usage(run, recipe, tmp_path):
    assert "photo-library" in run("run", "--list")
    assert "name a RECIPE" in run("run", code=2)
    assert "# LAION-5B, section 3.2: 0.28" in run("run", "laion-style", "--print")
    assert "names no dataset" in run("run", recipe, code=2)
    faulty = run("run", recipe, "--set", "steps.2.filter=widht > 3", "--set",
                 f"dataset.path={tmp_path / 'in'}", code=2)  # fmt: skip
    assert "recipe.yaml:5: step 2 (filter): no column 'widht'. Did you mean" in faulty
    assert "Did you mean 'photo-library'" in run("run", "photolibrary", code=2)
