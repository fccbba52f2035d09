"""Prompt templates as data, and what may be a label or a template."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import unicodedata
from importlib import resources

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nemo_image_curate.classifiers.prompts import (
    column_name,
    prompts,
    read_labels,
    read_templates,
    template_sets,
)
from nemo_image_curate.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "constant"),
    [("openai-80", "OPENAI_IMAGENET_TEMPLATES"), ("simple-7", "SIMPLE_IMAGENET_TEMPLATES")],
)
def test_templates_are_those_of_open_clip_in_their_order(name, constant):
    package = importlib.util.find_spec("open_clip")
    if package is None:
        pytest.skip("open_clip_torch is not installed")
    # The file alone: the package imports torchvision.
    path = f"{package.submodule_search_locations[0]}/zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("metadata", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert read_templates(name) == [template("{}") for template in getattr(module, constant)]


def test_each_set_says_where_it_is_from():
    folder = resources.files("nemo_image_curate.classifiers")
    data = json.loads(folder.joinpath("prompt_templates.json").read_text())
    assert {name: len(one["templates"]) for name, one in data.items()} == {
        "one": 1,
        "simple-7": 7,
        "openai-80": 80,
    }
    for name, one in data.items():
        assert one["source"].startswith("https://")
        assert one["note"]
        assert len(set(one["templates"])) == len(one["templates"])
        assert read_templates(one["templates"]) == read_templates(name)
    assert set(read_templates("simple-7")) < set(read_templates("openai-80"))


def test_what_is_read_is_a_copy():
    read_templates("one").append("{}?")
    assert template_sets()["one"] == ["a photo of a {}."]


@pytest.mark.parametrize(
    ("templates", "reason"),
    [
        ("openai", r"templates='openai' should be one of one, simple-7, openai-80, or a list"),
        ("a photo of a {}.", "should be one of"),
        ([], "templates is empty"),
        (["a {}.", "a photo."], r"template 'a photo\.' should be .* exactly one \{\}"),
        (["a {} and a {}."], r"template 'a \{\} and a \{\}\.'"),
        (["a {}.", None], "template None"),
    ],
)
def test_other_templates_are_named(templates, reason):
    with pytest.raises(ConfigError, match=reason):
        read_templates(templates)


@given(st.lists(st.text(), min_size=1))
@example(["{}}{", "{{}}", "{0}{}", "%s {}"])
@example(["{}{}"])
def test_a_template_has_one_place(templates):
    bad = [one for one in templates if one.count("{}") != 1]
    if bad:
        with pytest.raises(ConfigError) as caught:
            read_templates(templates)
        assert repr(bad[0]) in str(caught.value)
    else:
        assert read_templates(tuple(templates)) == templates


@given(st.text(), st.text(), st.text())
@example("a {0} of ", "{} {x}", " at 100%")
def test_labels_are_taken_word_for_word(before, word, after):
    assert prompts([word], [before.replace("{}", "") + " {} " + after.replace("{}", "")]) == [
        before.replace("{}", "") + " " + word + " " + after.replace("{}", "")
    ]


def test_words_are_outermost():
    assert prompts(["dog", "cat"], ["a {}.", "the {}."]) == [
        "a dog.",
        "the dog.",
        "a cat.",
        "the cat.",
    ]


def test_labels_and_their_words():
    assert read_labels(("dog", "a cat ")) == {"dog": ["dog"], "a cat ": ["a cat "]}
    words = {"dog": ["dog", "puppy"], "cat": "cat", "car": ("car",)}
    assert read_labels(words) == {"dog": ["dog", "puppy"], "cat": ["cat"], "car": ["car"]}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([], "labels is empty"),
        ({}, "labels is empty"),
        ("dog", "should be a list of labels"),
        (["dog", ""], "label '': '' should be a text that is not empty"),
        (["dog", " \n"], "should be a text that is not empty"),
        (["dog", None], "label None: None should be a text"),
        (["dog", 7], "label 7: 7 should be a text"),
        (["dog", "cat", "dog"], "label 'dog': the same name or word is there twice"),
        ({"dog": ["dog", "puppy", "dog"]}, "label 'dog': the same name or word is there twice"),
        ({"dog": []}, "label 'dog' has no words"),
        ({"dog": ["puppy", ""]}, "label 'dog': '' should be a text"),
    ],
)
def test_other_labels_are_refused(labels, reason):
    with pytest.raises(ConfigError, match=reason):
        read_labels(labels)


@given(st.text())
@example("golden retriever")
@example("ﬁsh & chips")
@example("हिन्दी")
@example("e\u0301te\u0301")
@example("x\u00b7y")
@example("_")
@example("42")
@example("\u09f4")
def test_any_label_names_a_column_that_expressions_can_use(label):
    plain = unicodedata.normalize("NFKC", label)
    if not any(one.isalnum() and f"_{one}".isidentifier() for one in plain):
        with pytest.raises(ConfigError, match=re.escape(repr(label))):
            column_name(label)
        return
    name = f"label_{column_name(label)}"
    assert ast.parse(name, mode="eval").body.id == name
    assert pd.DataFrame({name: [1, 3]}).eval(f"{name} > 2").tolist() == [False, True]
    assert column_name(column_name(label)) == column_name(label)


def test_names_of_columns_are_readable():
    assert column_name("golden retriever") == "golden_retriever"
    assert column_name(" kite (bird of prey)") == "kite_bird_of_prey"
    assert column_name("T-shirt") == "T_shirt"
