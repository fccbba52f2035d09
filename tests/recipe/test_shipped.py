"""The recipes that come with this run, on a small dataset without a download."""

from __future__ import annotations

import pytest
import yaml

from nemo_image_curate import ImageTextPairDataset, Recipe, run_recipe
from nemo_image_curate.recipe import shipped
from tests.make_data import make_dataset

CONSE = "steps.1={ConseEmbedder: {image_stages: [ImageStatistics]}}"
# What takes the place of weights that are not here, and of bounds that no small picture meets.
SETTINGS = {
    "photo-library": ["steps.6.filter=width >= 32"],
    "laion-style": [
        CONSE,
        "steps.6.filter=caption_language.notna()",
        "steps.7.filter=clip_score > -1",
    ],
    "datacomp-basic": ["steps.4.filter=passes_words"],
    "datacomp-image-based": [
        *(CONSE, "steps.DataCompFilter.target=TARGET", "steps.DataCompFilter.n_clusters=2"),
        "steps.6.filter=passes_target",
    ],
    "classifier-training-set": [
        *(CONSE, "steps.ZeroShotClassifier.embedder=ConseEmbedder"),
        *("steps.4.filter=width >= 32", "steps.5.filter=label_score > 0"),
    ],
    "decontaminated-benchmark-split": ["steps.Decontaminate.reference=TARGET"],
}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Other pictures, embedded."""
    folder = tmp_path_factory.mktemp("target")
    make_dataset(folder, sizes=[0, 3])
    ds = ImageTextPairDataset.from_webdataset(folder)
    from nemo_image_curate import ConseEmbedder

    return ConseEmbedder()(ds).save_metadata(folder / "embedded").metadata_path


@pytest.mark.parametrize("name", shipped.names())
def test_a_recipe_that_comes_with_this_runs(name, data, target, tmp_path):
    settings = [one.replace("TARGET", target) for one in SETTINGS[name]]
    places = [f"dataset.path={data}", f"output={tmp_path}"]
    done = run_recipe(Recipe.read(name, [*settings, *places]))
    assert done.counts["written"] > 0
    total = sum(done.counts[name] for name in ("written", "dropped_by_condition", "missing"))
    assert total + done.counts["dropped_by_null"] == 11


@pytest.mark.parametrize("name", shipped.names())
def test_it_says_what_it_is_for_and_names_the_source_of_each_constant(name):
    text = shipped.text(name)
    assert Recipe.read(name).about
    lines = text.splitlines()
    for number, line in enumerate(lines):
        value = yaml.safe_load(line.strip().removeprefix("- ")) if ">=" in line else None
        if value:
            assert lines[number - 1].lstrip().startswith("#"), line
