"""Values that a command line puts into a recipe."""

from __future__ import annotations

import pytest

from nemo_image_curate import Recipe
from nemo_image_curate.errors import ConfigError
from tests.recipe.test_recipe import WHOLE


def read(*settings: str) -> Recipe:
    return Recipe.parse(WHOLE, "r", settings)


def test_a_path_leads_to_values_and_into_steps_by_number_or_name():
    recipe = read(
        "dataset.path=other/",
        "dataset.id_col=uid",
        "steps.2.filter=width > 3 and caption != 'a: b'",
        "steps.TopFraction.fraction=0.1",
        "steps.1.TimmImageEmbedder.batch_size=8",
        "steps.TimmImageEmbedder.image_stages.PerceptualHash.flips=true",
        "steps.save.retry=true",
    )
    assert recipe.dataset == {"path": "other/", "id_col": "uid"}
    assert recipe.steps[1].options == {"condition": "width > 3 and caption != 'a: b'"}
    assert recipe.steps[2].options["fraction"] == 0.1
    assert recipe.steps[0].options["batch_size"] == 8
    assert recipe.steps[0].options["image_stages"][1].options == {"flips": True}
    # The bare value stays that of the option that it stood for.
    assert recipe.steps[4].options == {"path": "out", "retry": True}


def test_steps_are_replaced_added_and_taken_out_by_the_numbers_of_the_file():
    recipe = read(
        "steps.2=null",
        "steps.3=null",
        "steps.ZeroShotClassifier=null",
        "steps.1={ConseEmbedder: {batch_size: 4}}",
        "steps.7=index",
        "client=null",
    )
    assert [step.name for step in recipe.steps] == ["ConseEmbedder", "save", "export", "index"]
    assert recipe.client == {}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("steps.filtr=x", "Did you mean 'filter'"),
        ("steps.9=index", "there are 6 of these, counted from 1"),
        ("steps.0=index", "counted from 1"),
        ("steps.8.filter=x", "counted from 1"),
        ("=x", "give PATH=VALUE"),
        ("dataset.path", "give PATH=VALUE"),
        ("a..b=1", "give PATH=VALUE"),
        (".".join("a" * 50) + "=1", "give PATH=VALUE"),
        ("steps.TopFraction.fraction=no", "--set steps.TopFraction.fraction: step 3 (TopFraction)"),
        ("stepz=3", "--set stepz: unknown key 'stepz'. Did you mean 'steps'?"),
        ("about={a: 1}", "--set about: about: should be a text"),
    ],
)
def test_a_setting_that_leads_nowhere_says_what_there_is(setting, told):
    with pytest.raises(ConfigError) as caught:
        read(setting)
    assert told in str(caught.value)


def test_a_name_that_is_there_twice_needs_its_number():
    twice = WHOLE + "- filter: height > 3\n- save: last\n"
    with pytest.raises(ConfigError, match="give its number: 2, 7"):
        Recipe.parse(twice, "r", ["steps.filter=x"])
