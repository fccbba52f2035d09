"""Frequent words and pairs, against plain counting."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.errors import ConfigError, NotFoundError
from nemo_image_curate.selection import terms
from nemo_image_curate.selection.terms import FrequentTerms, Texts
from tests.selection.captioned import PUNCTUATION, dataset, spaced

TEXTS = ["a red dog, a red cat", "A red dog (a) red", None, "", "red\tdog", "dog's red-dog 犬"]


def plain_counts(texts, min_count=1):
    words, pairs = Counter(), Counter()
    for text in texts:
        tokens = spaced(text or "").split()
        is_word = [token[0] not in PUNCTUATION and token[-1] not in PUNCTUATION for token in tokens]
        words.update(token for token, good in zip(tokens, is_word, strict=True) if good)
        pairs.update(
            pair
            for pair, good in zip(pairwise(tokens), pairwise(is_word), strict=True)
            if all(good)
        )
    total = words.total()
    words = {word: count for word, count in words.items() if count >= min_count}
    pairs = {
        pair: count
        for pair, count in pairs.items()
        if count >= min_count and all(word in words for word in pair)
    }
    information = {
        (a, b): math.log2(total * count / (words[a] * words[b])) for (a, b), count in pairs.items()
    }
    return words, pairs, information


def told(counted: FrequentTerms):
    names = [tuple(counted.words[place] for place in pair) for pair in counted.pairs]
    return (
        dict(zip(counted.words, counted.counts.tolist(), strict=True)),
        dict(zip(names, counted.pair_counts.tolist(), strict=True)),
        dict(zip(names, counted.mutual_information().tolist(), strict=True)),
    )


@pytest.mark.parametrize("min_count", [1, 2, 3, 100])
def test_captions_in_shards(tmp_path, backend, min_count):
    ds = dataset(tmp_path / "in", TEXTS, TEXTS[:2], ["dog dog dog"], backend=backend)
    counted = FrequentTerms(Texts(ds, "caption", False), min_count, tmp_path, False)
    words, pairs, information = plain_counts([*TEXTS, *TEXTS[:2], "dog dog dog"], min_count)
    assert told(counted) == (words, pairs, pytest.approx(information))
    assert list(counted.counts) == sorted(words.values(), reverse=True)


LETTERS = "abA .,'-(犬\t"


@settings(max_examples=15)
@given(texts=st.lists(st.text(LETTERS, max_size=20), max_size=8), size=st.integers(1, 40))
def test_lines_of_a_file_in_blocks(tmp_path_factory, texts, size):
    folder = tmp_path_factory.mktemp("t")
    (folder / "corpus.txt").write_text("\n".join(texts), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terms, "_BLOCK", size)
        counted = FrequentTerms(Texts(folder / "corpus.txt", "caption", False), 1, folder, False)
    words, pairs, information = plain_counts(texts)
    assert told(counted) == (words, pairs, pytest.approx(information))


def test_case_can_be_ignored(tmp_path):
    (tmp_path / "corpus.txt").write_bytes(b"Dog dog\r\nDOG\n")
    counted = FrequentTerms(Texts(tmp_path / "corpus.txt", "", True), 1, tmp_path, False)
    assert told(counted)[:2] == ({"dog": 3}, {("dog", "dog"): 1})


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(NotFoundError, match=r"absent\.txt"):
        Texts(tmp_path / "absent.txt", "caption", False)
    with pytest.raises(ConfigError, match=r"compressed \(gzip\).*Decompress it"):
        Texts(tmp_path / "corpus.txt.gz", "caption", False)
