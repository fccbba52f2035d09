"""Plans: what cannot work is told before any work."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil

import pytest

from nemo_image_curate import PerceptualHash, Recipe, plan_recipe
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.recipe.cost import cost_of
from nemo_image_curate.recipe.plan import passes

EMBED = "TimmImageEmbedder: {model_name: test_vit}"


def parse(data, out, steps: str) -> Recipe:
    return Recipe.parse(f"dataset: {{path: {data}}}\noutput: {out}\nsteps:\n{steps}", "r")


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("- filter: widht > 3\n- save: o",
         "r:4: step 1 (filter): no column 'widht'. Did you mean 'width'?"),
        ("- filter: height > 3\n- ImageStatistics\n- save: o",
         "r:4: step 1 (filter): no column 'height'"),
        ("- filter: width = 3\n- save: o", "step 1 (filter): cannot use the expression"),
        ("- filter: width\n- save: o", "step 1 (filter)"),
        ("- filter: caption > 3\n- save: o", "step 1 (filter)"),
        ("- SemanticDedup\n- save: o", "r:4: step 1 (SemanticDedup): no column 'image_embedding'"),
        (f"- AestheticClassifier\n- {EMBED}\n- save: o",
         "r:4: step 1 (AestheticClassifier): no column"),
        (f"- {EMBED}\n- save: o\n- AestheticClassifier\n- save: p",
         "r:6: step 3 (AestheticClassifier)"),
        ("- TopFraction: {column: sharpnes, fraction: 0.5}\n- save: o", "no column 'sharpnes'"),
        ("- TopFraction: {column: score, fraction: 2}\n- save: o", "r:4: step 1 (TopFraction): "),
        ("- BalancedSample: {n: 3}\n- save: o", "no column 'cluster_1'"),
        ("- SoftCapSample: {n: 3, weights: weight}\n- save: o", "no column 'weight'"),
        ("- PerceptualDedup: {keep: best, by: sharpness}\n- save: o", "no column 'sharpness'"),
        ("- DataCompFilter: {recipe: laion-2b}\n- save: o", "no column 'clip_score'"),
        ("- DataCompFilter: {recipe: laion-3b}\n- save: o", "recipe='laion-3b' should be one of"),
        ("- select: [widht]\n- save: o", "no column 'widht'"),
        ("- select: [url]\n- filter: width > 3\n- save: o", "step 2 (filter): no column 'width'"),
        ("- save: {path: o, columns: [widht]}", "no column 'widht'"),
        ("- export: {path: o, multiplicity: copies}", "no column 'copies'"),
        ("- export: {path: o, multiplicity: caption}", "is string, not numbers"),
        ("- export: {path: o, filter_column: score}", "filter_column 'score' is"),
        ("- save: o\n- index", "step 2 (index): no column 'image_embedding'"),
        ("- save: o\n- index: caption",
         "r:5: step 2 (index): column 'caption' holds string, no embeddings"),
        (f"- {EMBED}\n- save: o\n- index: {{caption_column: score}}",
         "step 3 (index): caption_column 'score' holds double, no texts"),
        ("- report: {path: o.html, pictures: -4}",
         "step 1 (report): pictures=-4 should be at least 1"),
        (f"- {EMBED}\n- index", "step 2 (index): an index goes with what is saved"),
        ("- save: o\n- filter: width > 3", "r:5: step 2 (filter): nothing is written after it"),
        ("- ImageStatistics\n- ImageStatistics\n- save: o",
         "replaces the column 'width' of step 1"),
        ("- TopFraction: {column: width, count: 3}\n- TopFraction: {column: score, count: 3}"
         "\n- save: o",
         "replaces the column 'selected' of step 1"),
        ("- Decontaminate: {reference: nowhere}\n- save: o", "reference: there is no nowhere."),
        ("- select: [url, url]\n- filter: width > 3\n- save: o", "step 2 (filter): no column"),
        ("- export: {path: o, samples_per_shard: 0}", "r:4: step 1 (export): samples_per_shard=0"),
        ("- export: {path: o, old_id_col: url}", "step 1 (export): old_id_col='url' is the name"),
        ("- report: {path: o, where: widht > 3}", "step 1 (report): no column 'widht'"),
        ("- report: {path: o, thresholds: {widht: 3}}", "step 1 (report): no column 'widht'"),
        (f"- {EMBED}\n- save: o\n- index: {{kind: hnsw}}", "step 3 (index): kind='hnsw'"),
        ("- SelectionFile: {path: tests}\n- filter: selected\n- save: o",
         "step 1 (SelectionFile): "),
        ("- SelectionFile: {path: nowhere.parquet}\n- filter: selected\n- save: o",
         "there is no nowhere"),
    ],
)  # fmt: skip
def test_what_a_step_cannot_do_is_told_with_its_line(data, tmp_path, steps, told):
    with pytest.raises(ConfigError) as caught:
        plan_recipe(parse(data, tmp_path, steps))
    assert told in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setattr(PerceptualHash, "requires", (("no_such_module", "hashes"),))
    with pytest.raises(
        ConfigError, match=r"r:4: step 1 .*pip install 'nemo_image_curate\[hashes\]'"
    ):
        plan_recipe(parse(data, tmp_path, "- PerceptualHash\n- save: o"))


def test_a_column_may_be_made_again_after_it_was_looked_at(data, tmp_path):
    top = "TopFraction: {column: COLUMN, fraction: 0.5}\n- filter: selected\n"
    steps = "".join(f"- {top.replace('COLUMN', name)}" for name in ("width", "score"))
    plan_recipe(parse(data, tmp_path, f"{steps}- save: o"))


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("- save: file", "step 1 (save): .*/file is a file; give a folder."),
        ("- selection: folder", "step 1 (selection): .*/folder is a folder; give a file."),
        ("- save: file/below", "cannot be made: .*/file is no folder"),
        ('- save: "a\\0b"', "step 1 (save): .* has the character NUL"),
        ('- Decontaminate: {reference: "a\\0b"}\n- save: a', "reference: .* has the character NUL"),
        (
            "- ExactDedup: {work_dir: REFERENCE/00000.tar}\n- save: a",
            "step 1 (ExactDedup): work_dir: .*/00000.tar is a file; give a folder",
        ),
        ("- save: a\n- export: a", "step 2 (export): .*/a is what step 1 writes, too"),
        ("- save: a\n- export: a/b", "step 2 (export): .* lies in the folder that step 1 writes"),
        ("- save: a/b\n- export: a", "step 2 (export): .* holds the folder that step 1 writes"),
        ("- save: in", "would overwrite the input"),
        ("- save: .", "would overwrite the input"),
        ("- export: in/out", "lies in the input"),
        ("- save: link", "would overwrite the input .*/in"),
        ("- export: link/out", "lies in the input .*/in"),
        ("- report: in/00000.tar", "in/00000.tar would overwrite this file of the input"),
        ("- selection: link/00000.parquet", "00000.parquet would overwrite this file of the input"),
        (
            "- Decontaminate: {reference: REFERENCE, by: [exact]}\n- save: other",
            "would overwrite the input .*/other",
        ),
        (
            "- Decontaminate: {reference: REFERENCE, by: [exact]}\n- save: other/marked",
            "lies in the input .*/other",
        ),
    ],
)
def test_places_that_cannot_be_written_to_are_told(data, tmp_path, steps, told):
    shutil.copytree(data, tmp_path / "in")
    shutil.copytree(data, tmp_path / "other")
    (tmp_path / "link").symlink_to("in")
    steps = steps.replace("REFERENCE", str(tmp_path / "other"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as caught:
        plan_recipe(parse(tmp_path / "in", tmp_path, steps))
    assert re.search(told.replace("(", r"\(").replace(")", r"\)"), str(caught.value))


def test_a_folder_for_all_steps_that_is_a_file_is_told(data, tmp_path):
    (tmp_path / "file").touch()
    recipe = parse(data, tmp_path, "- ExactDedup\n- save: a")
    recipe = dataclasses.replace(recipe, work_dir=str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"work_dir: .*/file is a file; give a folder"):
        plan_recipe(recipe)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_told(data, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="not writable"):
        plan_recipe(parse(data, tmp_path, "- save: o"))


def test_a_recipe_without_a_dataset_is_told():
    with pytest.raises(ConfigError, match=r"--set dataset\.path"):
        plan_recipe(Recipe.parse("steps: [save: x]"))


def test_a_plan_shows_columns_passes_and_cost(data, tmp_path):
    steps = f"""
- ImageStatistics
- PerceptualHash
- {EMBED}
- filter: width > 3
- save: scored
- PerceptualDedup
- filter: not is_duplicate
- export: tars
"""
    plan = plan_recipe(parse(data, tmp_path, steps.strip()))
    assert [plan.state(one) for one in plan.steps] == ["to do"] * 8
    assert plan.steps[2].adds["image_embedding"].startswith("list")
    assert "phash" in plan.steps[1].adds
    assert "phash" not in plan.steps[2].adds
    assert plan.steps[4].columns[:2] == ["key", "shard"]
    together = [[one.number for one in some] for some in passes(plan.todo)]
    assert together == [[1, 2], [3], [4], [5], [6], [7], [8]]
    cost = cost_of(plan)
    tars = sum(path.stat().st_size for path in data.glob("*.tar"))
    # The hashes are there, so that the deduplication looks at no image.
    assert (cost.rows, cost.images, cost.tar_bytes) == (11, 22, 3 * tars)
    assert cost.decoding == ["step 1 (ImageStatistics) and step 2 (PerceptualHash)",
                             "step 3 (TimmImageEmbedder)"]  # fmt: skip
    assert "image_stages" in cost.notes[0]
    assert not list(tmp_path.iterdir())
