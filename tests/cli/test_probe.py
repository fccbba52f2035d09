"""The command probe, and the commands and recipes that use what it wrote."""

from __future__ import annotations

import json
import logging

import pytest
from click.testing import CliRunner

from nemo_image_curate import ImageTextPairDataset, LinearProbe, Recipe, recipe_of
from nemo_image_curate.cli import main
from tests.classifiers.test_base import with_vectors
from tests.make_embedders import column

VECTORS = [[1, 0], [0.9, 0.1], [0.8, 0.3], [0, 1], [0.1, 0.9], [0.3, 0.8]]
EXPECTED = [True] * 3 + [False] * 3


@pytest.fixture
def command(monkeypatch):
    """Runs a command in this process."""
    # Each run adds a handler, which prints where nobody listens any more.
    monkeypatch.setattr(logging.getLogger("nemo_image_curate"), "handlers", [])

    def run(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(main, [*map(str, words), "--backend", "cpu"])
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    return run


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "shards"
    folder.mkdir()
    with_vectors(folder, VECTORS, VECTORS, encoder="acme/encoder")
    (folder.parent / "labels.csv").write_text(
        "key,label\n00000,true\n00001,true\n00003,false\n00004,FALSE\n00005,\n99999,true\n"
    )
    return folder


def test_labels_become_a_file_and_the_file_columns(command, workers, shards, tmp_path):
    model, labels = tmp_path / "wanted.safetensors", shards.parent / "labels.csv"
    words = ("probe", shards, "--labels", labels, "--label-column", "wanted", "--c", 1000)
    told = command(*words, "--output", model)
    assert "4 used of 5; 1 not in the dataset" in told
    assert "1 samples without label" in told
    assert f"output      {model}" in told
    record = json.loads(command(*words, "--output", tmp_path / "b.safetensors", "--json"))
    assert record["counts"] == {"False": 2, "True": 2}
    assert record["C"] == 1000

    cluster = ("--scheduler", workers.scheduler_address)
    command("score", shards, "--probe", model, "--output", tmp_path / "scored", *cluster)
    scored = ImageTextPairDataset.from_webdataset(tmp_path / "scored", backend="cpu")
    assert column(scored, "wanted") == EXPECTED * 2
    recipe = recipe_of(scored)
    step = next(step for step in recipe.steps if step.name == "LinearProbe")
    assert step.options["model_path"] == str(model)

    text = f"""
    dataset: {{path: {shards}}}
    steps:
      - LinearProbe: {{model_path: {model}, pred_column: own, each_class: true}}
      - filter: own
      - save: {tmp_path / "run"}
    """
    (tmp_path / "recipe.yaml").write_text(text)
    command("run", tmp_path / "recipe.yaml", *cluster)
    kept = ImageTextPairDataset.from_webdataset(tmp_path / "run", backend="cpu")
    assert column(kept, "own") == [True] * 6
    assert {"own_score", "own_True", "own_False"} <= set(kept.metadata.columns)
    assert Recipe.parse(recipe.to_yaml()).steps == recipe.steps


def test_unusable_calls(command, shards, tmp_path):
    words = ("probe", shards, "--output", tmp_path / "p.safetensors")
    assert "no column 'kind'" in command(*words, "--labels", "kind", code=2)
    told = command(*words, "--labels", shards.parent / "absent.csv", code=1)
    assert "absent.csv" in told


def test_what_is_trained_here_is_what_the_command_trains(command, shards, tmp_path):
    labels = shards.parent / "labels.csv"
    command("probe", shards, "--labels", labels, "--output", tmp_path / "a.safetensors")
    ds = ImageTextPairDataset.from_webdataset(shards, backend="cpu")
    LinearProbe.fit(ds, labels, tmp_path / "b.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
