"""The words of captions."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_image_curate.learning import words as module
from nemo_image_curate.learning.words import Words

_CAPTIONS = ["A dog runs."] * 5 + ["Die Straße"] * 6 + ["a cat"] * 4


def test_frequent_words_count_by_how_rare_they_are():
    words = Words.of(_CAPTIONS)
    assert words.words == ("a", "die", "dog", "runs", "straße")
    assert words.weights == pytest.approx(np.log(15 / np.array([9, 6, 5, 5, 6])))
    vectors = words.vectors(["The DOG, a dog!", "STRASSE Straße", "nothing known", ""])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0, 0])
    assert vectors[0, 2] / vectors[0, 0] == pytest.approx(np.log(3) / np.log(15 / 9))


def test_of_many_words_the_most_frequent_are_kept(monkeypatch):
    monkeypatch.setattr(module, "_MOST_WORDS", 2)
    assert Words.of(_CAPTIONS).words == ("a", "die")


def test_no_captions_have_no_words():
    assert Words.of([]).vectors(["a dog"]).shape == (1, 0)
