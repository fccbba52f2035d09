"""Recipes: faults are told with file, line and step; what is right is written as it is read."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate import Recipe, catalog
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.recipe.actions import actions
from nemo_image_curate.recipe.parameters import parameters_of, stage_classes
from nemo_image_curate.stages.base import Stage

WHOLE = """
dataset: {path: photos/}
client: {n_workers: 2}
work_dir: work/
steps:
- TimmImageEmbedder:
    model_name: offline
    image_stages: [ImageStatistics: {}, PerceptualHash]
- filter: width >= 256
- TopFraction: {column: sharpness, fraction: 0.5}
- ZeroShotClassifier: {embedder: ConseEmbedder, labels: [no, cat]}
- save: out
- export: {path: tars, samples_per_shard: 10}
"""


def test_a_recipe_says_what_python_says():
    recipe = Recipe.parse(WHOLE)
    first = recipe.steps[0].make()
    assert (type(first).__name__, first.model_name) == ("TimmImageEmbedder", "offline")
    assert [type(one).__name__ for one in first.image_stages] == [
        *("ImageStatistics", "PerceptualHash")
    ]
    zero_shot = recipe.steps[3].make()
    assert type(zero_shot.embedder).__name__ == "ConseEmbedder"
    # No bool, as YAML 1.1 has it.
    assert zero_shot.labels == ["no", "cat"]
    assert recipe.steps[4].options == {"path": "out"}


def test_options_that_stages_share_are_given_once():
    recipe = Recipe.parse(WHOLE)
    made = recipe.steps[2].make(work_dir="w")
    assert not hasattr(made, "work_dir")
    assert (
        Recipe.parse("steps: [SemanticDedup, save: x]").steps[0].make(work_dir="w").work_dir == "w"
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("filter", "filtre", ["r:9: step 2: no step 'filtre'. Did you mean 'filter'?"]),
        ("image_stages", "image_stage", ["r:8: step 1 (TimmImageEmbedder): no option 'image_stage'."
                                         " Did you mean 'image_stages'?"]),
        ("model_name: offline", "batch_size: 3", ["the option 'model_name' is missing"]),
        ("0.5", "no", ["r:10: step 3 (TopFraction): fraction should be a number or null, not 'no'",
                       "Bools are true and false"]),
        ("width >= 256", "256", ["condition should be a text, not 256. Put it in quotes."]),
        ("[no, cat]", "3", ["labels should be a list (each a text) or a mapping"]),
        ("PerceptualHash", "SemanticDedup", ["step 1 (TimmImageEmbedder): image_stages: no step"]),
        ("ConseEmbedder", "ImageStatistics", ["step 4 (ZeroShotClassifier): embedder: no step",
                                              "AlignedEmbedder, ConseEmbedder, OpenCLIPEmbedder"]),
        ("[ImageStatistics: {}, PerceptualHash]", "{ImageStatistics: {}}", ["give a list"]),
        ("save: out", "save: {}", ["r:12: step 5 (save): the option 'path' is missing."]),
        ("- save: out", "- {save: out, index: x}", ["step 5: is 'save', 'index'; a step is one"]),
        ("n_workers: 2", "n_workers: 0", ["r:3: client: n_workers should be 1 or more: 0."]),
        ("n_workers: 2", "kind: tpu", ["r:3: client: kind should be auto, cpu, gpu, not 'tpu'."]),
        ("n_workers", "n_worker", ["r:3: client: no option 'n_worker'. Did you mean 'n_workers'?"]),
        ("client", "clients", ["r:3: unknown key 'clients'. Did you mean 'client'?"]),
        ("{path: photos/}", "photos/", ["r:2: dataset: is 'photos/'; give dataset: {path: data/}"]),
        ("{path: photos/}", "{path: 3}", ["r:2: dataset: path should be a text or a list"]),
        ("work_dir: work/", "work_dir: [w]", ["r:4: work_dir: should be a text"]),
        ("- TimmImageEmbedder", "- ImageEmbedder", ["no step 'ImageEmbedder'"]),
        ("0.5", "0.5, fraction: 1", ["r:10: 'fraction' is there twice"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line_its_step_and_the_nearest(old, new, told):
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(WHOLE.replace(old, new), "r")
    for part in told:
        assert part in str(caught.value)


def test_all_faults_are_told_at_once():
    faulty = WHOLE.replace("fraction", "fracton").replace("samples_per", "sample_per")
    with pytest.raises(ConfigError, match=r"r has 2 faults:\n  r:10: .*\n  r:13: "):
        Recipe.parse(faulty, "r")


@pytest.mark.parametrize("content", ["", "3", "[a]", "steps: 3", "dataset: {path: x}", "steps: []"])
def test_what_is_no_recipe_is_refused(content):
    with pytest.raises(ConfigError, match=r"is no recipe|give a list"):
        Recipe.parse(content)


def test_a_file_that_is_not_there_names_the_recipes_that_come_with_this(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'photo-library'"):
        Recipe.read("photolibrary")
    (tmp_path / "latin.yaml").write_bytes(b"about: gr\xf6\xdfer")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        Recipe.read(tmp_path / "latin.yaml")


def test_places_of_what_is_written_are_below_output():
    recipe = Recipe.parse("output: o/\nsteps: [save: a, selection: /b.parquet, export: s3://c/d]")
    places = [step.options["path"] for step in recipe.steps]
    assert places == ["o/a", "/b.parquet", "s3://c/d"]
    assert Recipe.parse(recipe.to_yaml()) == recipe


def test_a_place_at_home_is_below_no_output_and_no_output_is_none():
    places = [
        step.options["path"]
        for output in ("o", "''")
        for step in Recipe.parse(f"output: {output}\nsteps: [save: ~/a, save: b]").steps
    ]
    assert places == ["~/a", "o/b", "~/a", "b"]


def test_every_public_stage_is_a_step_and_all_its_parameters_are_options():
    public = [catalog.load(name) for name in catalog.PUBLIC]
    stages = [one for one in public if inspect.isclass(one) and issubclass(one, Stage)]
    leaves = [one for one in stages if not any(one in other.__mro__[1:] for other in stages)]
    assert {*stage_classes().values()} == {*leaves}
    for one in leaves:
        names = {
            name
            for name, parameter in inspect.signature(one).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        }
        assert names <= {*parameters_of(one).names}, one
    assert not {*stage_classes()} & {*actions()}


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a type as recipes have them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return st.lists(_values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), _values(arguments[1]), max_size=3)
    if arguments:
        return st.one_of(*map(_values, arguments))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(-(2**40), 2**40),
        float: st.floats(allow_nan=False),
        str: st.text(max_size=12) | st.sampled_from(["no", "1", "null", "2024-01-01", "a: b", "#"]),
        type(None): st.none(),
    }
    return simple[annotation]


@st.composite
def _steps(draw: Any, base: type | None = None, depth: int = 0) -> Any:
    """A step as YAML has it: a name with some of its options."""
    classes = stage_classes()
    names = [name for name, one in classes.items() if base is None or issubclass(one, base)]
    name = draw(st.sampled_from([*names, *(actions() if base is None else ())]))
    parameters = parameters_of(classes[name] if name in classes else actions()[name].function)
    options: dict[str, Any] = {}
    for option, field in parameters.model.model_fields.items():
        nested = parameters.nested.get(option)
        if not field.is_required() and (depth > 1 or draw(st.booleans())):
            continue
        if nested is None:
            options[option] = draw(_values(field.annotation))
        elif nested.many:
            options[option] = draw(st.lists(_steps(nested.base, depth + 1), max_size=2))
        else:
            options[option] = draw(_steps(nested.base, depth + 1))
    return {name: options} if options else name


@settings(max_examples=60)
@given(st.lists(_steps(), min_size=1, max_size=4), st.none() | st.text(max_size=20))
def test_a_recipe_is_written_as_what_is_read_again(steps, about):
    from nemo_image_curate.recipe import text

    written = text.dump({"about": about, "dataset": {"path": "x"}, "steps": steps})
    recipe = Recipe.parse(written)
    again = Recipe.parse(recipe.to_yaml())
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
