"""Words that are names of classes: the rules of WordNet."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from nemo_image_curate import ImageNetWords, frames
from nemo_image_curate.selection.imagenet_words import WORDS_FILE, class_test, noun_forms


@pytest.mark.parametrize(
    ("word", "is_class"),
    [
        ("dog", True),
        # Plurals: of a rule, of another one, of none.
        ("dogs", True),
        ("foxes", True),
        ("men", False),  # The first sense of "man", an adult, is no class.
        ("cavemen", True),
        ("geese", True),
        ("busses", True),
        # Its first senses are an unit and a colour; others are classes.
        ("a", False),
        ("red", False),
        # A noun of its own, no plural of "blue" or "alp".
        ("blues", False),
        ("alps", False),
        ("run", False),
        ("dog.", False),
        ("", False),
        ("s" * 1000, False),
    ],
)
def test_the_first_sense_of_a_noun(word, is_class):
    assert class_test()(word) is is_class


def test_forms_in_their_order():
    assert list(noun_forms("axes", {"axes": ["ax", "axis"]})) == ["axes", "ax", "axis"]
    assert list(noun_forms("axes", {})) == ["axes", "axe", "ax"]
    assert list(noun_forms("buses", {})) == ["buses", "buse", "bus", "bu"]


def test_of_a_partition(backend):
    captions = ["Two Dogs, and a Cat", "It runs", None, " \n", "DOG\tcat"]
    frame = frames.from_arrow(pa.table({"text": pa.array(captions)}), backend)
    words = ImageNetWords("text").run(frame)["imagenet_word"]
    assert words.to_pylist() == ["Cat", None, None, None, "DOG"]


def test_the_licence_of_wordnet_goes_with_its_words():
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in WORDS_FILE.read_text()
    assert len(json.loads(WORDS_FILE.read_text())["classes"].split()) == 13_204
