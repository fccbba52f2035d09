"""Recipes of what was made: of a run's record, of commands, and of what columns say."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest

from nemo_image_curate import (
    BalancedSample,
    CaptionStatistics,
    ClipScore,
    ColumnStage,
    ConseEmbedder,
    Decontaminate,
    ExactDedup,
    ImageStatistics,
    ImageTextPairDataset,
    PerceptualHash,
    Recipe,
    SemanticDedup,
    TimmImageEmbedder,
    TopFraction,
    ZeroShotClassifier,
    recipe_of,
    run_recipe,
)
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.quality.caption_quality import CaptionQuality
from nemo_image_curate.recipe.origin import read_recipe
from nemo_image_curate.recipe.provenance import _options, steps_of
from tests.recipe.test_running import parse


@pytest.fixture
def opened(data):
    return ImageTextPairDataset.from_webdataset(data)


def test_of_a_run_it_is_that_of_the_run_up_to_there(data, tmp_path):
    steps = "- ImageStatistics\n- save: a\n- filter: score > 1\n- save: b\n- export: c"
    recipe = parse(data, tmp_path, steps)
    run_recipe(recipe)
    whole = list(recipe.steps)
    for folder, count in (("a", 2), ("b", 4), ("c", 5)):
        made = ImageTextPairDataset.from_webdataset(tmp_path / folder)
        assert list(recipe_of(made).steps) == whole[:count]
        assert list(read_recipe(str(tmp_path / folder)).steps) == whole[:count]
        assert list(read_recipe(str(tmp_path / folder / "_run.json")).steps) == whole[:count]
    more = recipe_of(made.filter("width > 3")).steps
    assert [step.name for step in more[-2:]] == ["export", "filter"]


def _rebuilt(dataset, tmp_path):
    """A dataset saved, and made again by its recipe from what it was made of."""
    saved = dataset.save_metadata(tmp_path / "saved")
    recipe = recipe_of(saved)
    assert recipe.notes == ()
    assert Recipe.parse(recipe.to_yaml()) == recipe
    text = recipe.to_yaml().replace(str(tmp_path / "saved"), str(tmp_path / "again"))
    return saved, run_recipe(Recipe.parse(text)).dataset


def _same(one, two) -> None:
    left, right = one.metadata.compute(), two.metadata.compute()
    assert sorted(left.columns) == sorted(right.columns)
    for name in left.columns:
        first, second = (pa.array(frame[name].array) for frame in (left, right))
        assert first.equals(second), name


def test_what_columns_record_gives_them_again(opened, tmp_path):
    stages = [ImageStatistics(), PerceptualHash(flips=True)]
    ds = TimmImageEmbedder(
        "offline", image_embedding_column="vector", normalize_embeddings=False, image_stages=stages
    )(opened)
    ds = CaptionStatistics(detect_language=False)(ds).save_metadata(tmp_path / "first")
    ds = SemanticDedup(0.1, keep="first", embedding_column="vector", prefix="near_")(ds)
    ds = ExactDedup(prefix="same_")(ds)
    ds = TopFraction("sharpness", 0.5, prefix="sharp_")(ds)
    ds = BalancedSample(4, ["near_cluster"], prefix="even_")(ds)
    _same(*_rebuilt(ds, tmp_path))


def test_labels_and_captions_are_made_again(opened, tmp_path):
    ds = ConseEmbedder(text_embedding_column="words")(opened)
    labels = ZeroShotClassifier(ConseEmbedder(), ["a cat", "no"], ["a {}"], pred_column="animal")
    ds = ClipScore(text_embedding_column="words", pred_column="fits")(labels(ds))
    names = [step.name for step in recipe_of(ds).steps]
    assert names == ["ConseEmbedder", "ZeroShotClassifier", "ClipScore", "save"]
    recipe = recipe_of(ds)
    assert recipe.steps[0].options == {"text_embedding_column": "words"}
    assert recipe.steps[1].make().columns().keys() == {"animal", "animal_score"}
    assert recipe.steps[2].make().inputs() == ["image_embedding", "words"]


class Loud(ColumnStage):
    """A stage of a user's own."""

    def inputs(self):
        return ["caption"]

    def columns(self):
        return {"loud": pa.bool_()}

    def run(self, frame):
        return {"loud": pa.array(np.ones(len(frame), bool))}


def test_what_is_not_known_is_a_comment(opened):
    recipe = recipe_of(Loud()(ImageStatistics()(opened)).filter("width > 3 and loud"))
    assert recipe.notes == ("loud: made by 'Loud', which recipes do not know.",)
    text = recipe.to_yaml()
    assert text.startswith("# loud: made by")
    assert "filter: width > 3 and loud" in text
    assert Recipe.parse(text) == recipe


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000])
def test_what_holds_no_run_is_refused(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ConfigError, match="holds no run"):
        read_recipe(str(tmp_path / "other.json"))
    shutil.rmtree(tmp_path)


def test_where_references_lie_is_told_to_be_unknown(opened, tmp_path):
    reference = ImageStatistics()(opened).save_metadata(tmp_path / "val")
    ds = Decontaminate({"val": str(tmp_path / "val")}, by=["exact"])(reference)
    recipe = recipe_of(ds.save_metadata(tmp_path / "clean"))
    assert "Decontaminate" not in [step.name for step in recipe.steps]
    note = next(note for note in recipe.notes if "is_leak" in note)
    assert "made by Decontaminate" in note
    assert "reference" in note


@pytest.mark.parametrize("given", [{}, {"boilerplate": ["^buy .* online$"]}])
def test_patterns_of_a_stage_itself_are_not_written(given):
    stage = CaptionQuality(**given)
    steps, notes = steps_of([*stage.columns()], stage.provenance())
    assert [one.options for one in steps] == [given]
    assert not notes


def test_lists_are_written_as_they_were_given():
    record = {"stage": "Decontaminate", "by": ["exact", "perceptual"], "reference": ["val"]}
    usual = ["exact", "perceptual", "semantic"]
    for by in (["exact"], ["exact", "perceptual"], usual):
        options = _options(Decontaminate, {**record, "by": by})
        assert options.get("by", usual) == by


def test_what_looks_at_pixels_shares_the_pass_of_an_embedder():
    stage = ImageStatistics()
    record = {"stage": "TimmImageEmbedder", "model": "offline", "orientation": "stored"}
    provenance = {"image_embedding": record, **stage.provenance()}
    (step,), notes = steps_of(["image_embedding", *stage.columns()], provenance)
    assert step.data() == {
        "TimmImageEmbedder": {"model_name": "offline", "image_stages": ["ImageStatistics"]}
    }
    assert not notes
