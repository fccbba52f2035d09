"""The list of public names tells the truth, and commands offer what it says."""

from __future__ import annotations

import inspect
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import nemo_image_curate
from nemo_image_curate import ColumnStage, PixelStage, Stage, catalog
from nemo_image_curate.classifiers.probe_file import ProbeFile
from nemo_image_curate.cli import main
from tests.make_data import make_dataset

BASES = {"images": PixelStage, "embeddings": ColumnStage, "pairs": ColumnStage}


@pytest.mark.parametrize("name", catalog.PUBLIC)
def test_a_public_name_is_defined_where_it_says_and_documented(name):
    thing = catalog.load(name)
    assert thing is getattr(nemo_image_curate, name)
    assert thing.__module__ == f"nemo_image_curate.{catalog.PUBLIC[name].module}"
    assert thing.__name__ == name
    summary = (thing.__doc__ or "").partition("\n\n")[0]
    assert len(summary) > 10, "docs/api.md is made of docstrings"
    # A dataclass without one is given its signature.
    assert not summary.startswith(f"{name}(")


def test_all_public_stages_are_stages_and_what_commands_offer_is_a_stage():
    for name, entry in catalog.PUBLIC.items():
        thing = catalog.load(name)
        if entry.sees is not None:
            assert issubclass(thing, BASES[entry.sees]), name
            assert not inspect.isabstract(thing)
            assert entry.option
            assert entry.help
        elif inspect.isclass(thing) and callable(getattr(thing, "provenance", None)):
            assert issubclass(thing, Stage), name


def test_options_differ():
    options = [entry.option for entry in catalog.PUBLIC.values() if entry.option]
    assert len(set(options)) == len(options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A shard without embeddings."""
    folder = tmp_path_factory.mktemp("made")
    make_dataset(folder, sizes=[2])
    return folder


@pytest.fixture
def command(workers, monkeypatch):
    """Runs a command in this process."""
    # Each run adds a handler, which prints where nobody listens any more.
    monkeypatch.setattr(logging.getLogger("nemo_image_curate"), "handlers", [])

    def run(*words: object) -> tuple[int, str]:
        last = ["--backend", "cpu", "--scheduler", workers.scheduler_address]
        done = CliRunner().invoke(main, [*map(str, words), *last])
        return done.exit_code, done.output

    return run


@pytest.mark.parametrize("name", catalog.offered("images"))
def test_an_option_of_embed_adds_the_columns_of_its_stage(name, command, made, tmp_path):
    option = f"--{catalog.PUBLIC[name].option}"
    words = ("embed", made, "--model", "test_vit", option, "--output", tmp_path / "out")
    code, told = command(*words)
    assert code == 0, told
    schema = pq.read_schema(tmp_path / "out" / "00000.parquet")
    for column, data_type in catalog.load(name)().columns().items():
        assert schema.field(column).type == data_type


@pytest.fixture
def option(tmp_path):
    """The option of a stage, with the file that it is made of, if it is: here that of a probe."""

    def words(name: str) -> list[str]:
        entry = catalog.PUBLIC[name]
        if not entry.takes_file:
            return [f"--{entry.option}"]
        recipe = {"classes": ["a", "b"], "is_bool": False, "pred_column": "x", "encoder": "other"}
        weight, bias = np.zeros((2, 192), np.float32), np.zeros(2, np.float32)
        ProbeFile(weight, bias, recipe).write(str(tmp_path / "probe.safetensors"))
        return [f"--{entry.option}", str(tmp_path / "probe.safetensors")]

    return words


@pytest.mark.parametrize("name", catalog.offered("embeddings"))
def test_embed_hands_the_embeddings_to_the_stage_of_an_option(
    name, command, made, option, tmp_path
):
    # Which refuses those of this model.
    words = ("embed", made, "--model", "test_vit", *option(name), "--output", tmp_path / "out")
    code, told = command(*words)
    assert code == 1
    assert told.startswith("error: ")
    assert name in told


@pytest.mark.parametrize("name", catalog.offered("embeddings", "pairs"))
def test_score_asks_for_what_the_stage_of_an_option_needs(name, command, made, option):
    code, told = command("score", made, *option(name))
    assert code == 2
    assert "no column 'image_embedding'" in told
