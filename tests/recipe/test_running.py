"""Runs: what Python gives, gone on with where it was, and an account that closes."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

from nemo_image_curate import (
    ImageStatistics,
    ImageTextPairDataset,
    PerceptualDedup,
    PerceptualHash,
    Recipe,
    TimmImageEmbedder,
    TopFraction,
    locks,
    plan_recipe,
    run_recipe,
)
from nemo_image_curate.errors import ConfigError, DatasetError, JobError
from nemo_image_curate.recipe import records
from tests.make_data import digests

STEPS = """
- TimmImageEmbedder: {model_name: test_vit, image_stages: [ImageStatistics, PerceptualHash]}
- filter: score >= 1
- save: scored
- PerceptualDedup: {radius: 0}
- filter: not is_duplicate
- TopFraction: {column: sharpness, fraction: 0.5}
- filter: selected
- save: chosen
- index
- selection: chosen.parquet
- export: {path: tars, samples_per_shard: 3}
"""


def parse(data, out, steps: str = STEPS) -> Recipe:
    return Recipe.parse(f"dataset: {{path: {data}}}\noutput: {out}\nsteps:\n{steps.strip()}", "r")


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """The folder that the recipe wrote to, and what came of it."""
    out = tmp_path_factory.mktemp("made")
    return out, run_recipe(parse(data, out))


def test_a_run_gives_what_python_gives(data, made, tmp_path):
    out, _ = made
    ds = ImageTextPairDataset.from_webdataset(data)
    stages = [ImageStatistics(), PerceptualHash()]
    ds = TimmImageEmbedder("test_vit", image_stages=stages)(ds).filter("score >= 1")
    ds = ds.save_metadata(tmp_path / "scored")
    ds = PerceptualDedup(radius=0)(ds).filter("not is_duplicate")
    ds = TopFraction("sharpness", 0.5)(ds).filter("selected")
    ds.save_metadata(tmp_path / "chosen")
    for folder in ("scored", "chosen"):
        for path in sorted((tmp_path / folder).glob("*.parquet")):
            assert pq.read_table(path).equals(pq.read_table(out / folder / path.name))


def test_the_account_closes(made):
    out, done = made
    kept = [pq.read_table(path)["score"] for path in sorted((out / "scored").glob("0*.parquet"))]
    scores = [score for column in kept for score in column.to_pylist()]
    assert done.dropped_by["score >= 1"] == 11 - len(scores) > 0
    chosen = pq.read_table(out / "chosen.parquet")
    counts = done.counts
    assert counts["written"] == len(chosen) > 0
    assert counts["read"] == 11
    assert counts["unreadable"] == {}
    dropped = counts["dropped_by_condition"] + counts["dropped_by_null"] + counts["missing"]
    assert counts["written"] + dropped == done.account.rows_in_sidecars
    assert sum(done.dropped_by.values()) == dropped
    # The first was followed by a stage, which saw the rest.
    assert {*done.dropped_by} <= {"score >= 1", "not is_duplicate", "selected"}
    assert [one.name for one in done.done] == ["save", "save", "index", "selection", "export"]
    assert len(done.dataset) == counts["written"]


def test_what_is_done_is_not_done_again(data, made):
    out, _ = made
    before = digests(out)
    plan = plan_recipe(parse(data, out))
    assert [plan.state(one) for one in plan.steps] == ["done"] * 11
    assert plan.todo == []
    again = run_recipe(parse(data, out))
    assert digests(out) == before
    assert again.counts == made[1].counts
    assert again.dropped_by == made[1].dropped_by


def test_a_record_holds_the_recipe(data, made):
    out, _ = made
    for folder, steps in (("scored", 1), ("chosen", 4), ("tars", 5)):
        run = json.loads((out / folder / "_run.json").read_text())
        assert Recipe.parse(run["recipe"]) == parse(data, out)
        assert len(run["recipe_steps"]) == steps


def test_a_run_goes_on_from_the_last_save(data, made, tmp_path):
    recipe = parse(data, tmp_path)
    run_recipe(recipe)
    shutil.rmtree(tmp_path / "tars")
    assert [one.number for one in plan_recipe(recipe).todo] == [11]
    run_recipe(recipe)
    assert _data_of(tmp_path) == _data_of(made[0])
    # What follows is whole, so only what is gone is made.
    shutil.rmtree(tmp_path / "chosen")
    numbers = [one.number for one in plan_recipe(recipe).todo]
    assert numbers == [4, 5, 6, 7, 8, 9, 10]
    run_recipe(recipe)
    assert plan_recipe(recipe).todo == []


def _data_of(folder):
    """Digests of what was written, without records of places and times."""
    records = ("_run.json", "_dataset.json", "_export.json")
    return {
        name: digest
        for name, digest in digests(folder).items()
        if not name.endswith(records) and "/index/" not in name
    }


def test_an_export_of_another_recipe_is_told_before_any_work(data, made):
    changed = STEPS.replace("samples_per_shard: 3", "samples_per_shard: 4")
    with pytest.raises(
        ConfigError, match=r"r:14: step 11 \(export\): .* of other rows or settings"
    ):
        plan_recipe(parse(data, made[0], changed))
    (made[0] / "other").mkdir()
    shutil.copy(data / "00000.tar", made[0] / "other")
    with pytest.raises(ConfigError, match=r"step 1 \(export\): .* already holds .tar files"):
        plan_recipe(parse(data, made[0], "- export: other"))


@pytest.mark.parametrize(
    ("old", "new", "todo"),
    [
        ("fraction: 0.5", "fraction: 0.4", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("score >= 1", "score >= 2", [*range(1, 12)]),
        ("tars, samples_per_shard: 3", "tars2, samples_per_shard: 4", [11]),
        ("- index\n", "", []),
        ("- save: chosen\n", "- save: elsewhere\n", [4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_what_a_change_touches_is_done_again(data, made, old, new, todo):
    steps = STEPS.replace(old, new)
    if 1 in todo or "fraction" in old:
        steps = steps.replace("path: tars", "path: elsewhere")
    plan = plan_recipe(parse(data, made[0], steps))
    numbers = [one.number for one in plan.todo]
    if old == "- index\n":
        # Its numbers are others, its results are not.
        assert {one.step.name for one in plan.todo} <= {"selection", "export"}
    else:
        assert numbers == todo


def test_a_dataset_that_changed_is_read_again(data, tmp_path):
    shutil.copytree(data, tmp_path / "in")
    recipe = parse(tmp_path / "in", tmp_path / "out", "- ImageStatistics\n- save: a")
    run_recipe(recipe)
    assert plan_recipe(recipe).todo == []
    for ending in (".tar", ".parquet"):
        shutil.copy(tmp_path / f"in/00000{ending}", tmp_path / f"in/00002{ending}")
    assert len(plan_recipe(recipe).todo) == 2
    assert run_recipe(recipe).counts["written"] == 17


def test_results_that_were_changed_are_made_again(data, tmp_path):
    recipe = parse(data, tmp_path, "- ImageStatistics\n- save: a")
    run_recipe(recipe)
    before = _data_of(tmp_path / "a")
    pq.write_table(
        pq.read_table(tmp_path / "a/00000.parquet").slice(1), tmp_path / "a/00000.parquet"
    )
    assert len(plan_recipe(recipe).todo) == 2
    run_recipe(recipe)
    assert _data_of(tmp_path / "a") == before


def test_columns_that_were_added_to_results_are_no_part_of_the_next_run(data, tmp_path):
    """Nor are they refused: a recipe's folders are its own."""
    recipe = parse(data, tmp_path, STEPS.partition("- PerceptualDedup")[0])
    run_recipe(recipe)
    first = _data_of(tmp_path / "scored")
    scored = ImageTextPairDataset.from_webdataset(tmp_path / "scored")
    scored.metadata["own"] = scored.metadata["score"] * 2
    scored.save_metadata()
    again = run_recipe(recipe)
    assert "own" not in again.dataset.metadata.columns
    assert _data_of(tmp_path / "scored") == first


def test_two_runs_at_once_into_one_place_are_refused(data, tmp_path):
    recipe = parse(data, tmp_path, "- filter: score > 1\n- save: a")
    with (
        locks.exclusive(str(tmp_path / "a"), "recipe"),
        pytest.raises(DatasetError, match=r"another process is writing to .*/a"),
    ):
        run_recipe(recipe)
    assert run_recipe(recipe).counts["written"] == 8


def test_what_an_export_drops_counts_also_where_an_index_comes_last(data, tmp_path):
    embed = "- TimmImageEmbedder: {model_name: test_vit}\n- save: a\n"
    run_recipe(parse(data, tmp_path, f"{embed}- index\n- filter: score > 3\n- export: b"))
    recipe = parse(data, tmp_path, f"{embed}- index\n- filter: score > 3\n- selection: c.parquet")
    done = run_recipe(recipe)
    assert done.dropped_by == {"score > 3": 3}
    assert done.counts["written"] == 8


def test_what_a_step_raises_says_which_it_was(data, tmp_path):
    column = "- CaptionStatistics: {detect_language: false}\n"
    recipe = parse(data, tmp_path, f"{column}- export: {{path: a, multiplicity: score}}")
    with pytest.raises(JobError, match="should be a whole number") as caught:
        run_recipe(recipe)
    assert caught.value.__notes__ == ["in r:5: step 2 (export)"]


def test_a_record_nested_too_deep_counts_as_none(made, data, tmp_path):
    shutil.copytree(made[0] / "tars", tmp_path / "tars")
    assert records.read_account(str(tmp_path / "tars")) is not None
    (tmp_path / "tars/_run.json").write_text("[" * 100_000)
    assert records.read_account(str(tmp_path / "tars")) is None
    # An export that was made before is there all the same.
    plan_recipe(parse(data, tmp_path))
