"""Queries in captions: as MetaCLIP defines it, whatever the texts."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate.selection.matching import MatcherFiles
from tests.selection.captioned import concepts_of

LETTERS = "aAbß é.,`-'\"犬の画ネกລကខ。\t\n\r"
CAPTIONS = st.lists(st.one_of(st.none(), st.text(LETTERS, max_size=24)), max_size=6)
QUERIES = st.lists(
    st.text(LETTERS.rstrip(), min_size=1, max_size=4).filter(lambda text: text == text.strip()),
    min_size=1,
    max_size=12,
    unique=True,
)


def matches(folder, captions, queries, ignore_case=False, wrap=False) -> list[list[str]]:
    """The queries of each caption."""
    files = MatcherFiles.write(folder, queries, ignore_case, wrap)
    names = files.names().to_pylist()
    rows, numbers = files.matcher().match(pa.array(captions, pa.string()))
    listed: list[list[str]] = [[] for _ in captions]
    for row, number in zip(rows, numbers, strict=True):
        listed[row].append(names[number])
    return listed


@settings(max_examples=150)
@given(captions=CAPTIONS, queries=QUERIES)
def test_as_the_definition(tmp_path_factory, captions, queries):
    # Spaces stand for tabs and line ends in queries, too.
    queries = list(
        dict.fromkeys(query.translate(dict.fromkeys(b"\t\n\r", " ")) for query in queries)
    )
    expected = [concepts_of(caption or "", queries) for caption in captions]
    assert matches(tmp_path_factory.mktemp("m"), captions, queries) == expected


@pytest.mark.parametrize(
    ("caption", "query"),
    [
        ("A dog, running", "dog"),
        ("dog", "dog"),
        ("one\tdog\nruns", "dog runs"),
        ("hot dog dog house", "dog dog"),
        ("小さな犬が走る", "犬"),
        ("รูปแมวดำ", "แมว"),
        ("so#sunset photo", "#sunset"),
        ("the end.", "."),
    ],
)
def test_what_matches(tmp_path, caption, query):
    assert matches(tmp_path, [None, caption, ""], [query]) == [[], [query], []]


@pytest.mark.parametrize(
    ("caption", "query"),
    [
        ("hotdogs", "dog"),
        ("Dog", "dog"),
        ("dog-house", "dog"),
        # As in MetaCLIP: spaces stand beside the point in the caption.
        ("St. Louis", "St. Louis"),
    ],
)
def test_what_does_not(tmp_path, caption, query):
    assert matches(tmp_path, [caption], [query]) == [[]]


def test_matches_overlap_and_count_once(tmp_path):
    queries = ["new", "new york", "york city", "city"]
    assert matches(tmp_path, ["new york city , new york"], queries) == [queries]


def test_no_match_reaches_from_one_caption_to_the_next(tmp_path):
    captions = ["black", "cat", "black cat", "画", "像"]
    queries = ["black cat", "cat black", "画像", "black  cat"]
    assert matches(tmp_path, captions, queries) == [[], [], ["black cat"], [], []]


def test_more_captions_than_are_searched_at_once(tmp_path):
    captions = [f"number {number}" for number in range(5000)]
    queries = ["number", "0", "2047", "2048", "4999"]
    found = matches(tmp_path, captions, queries)
    where = {query: [row for row, own in enumerate(found) if query in own] for query in queries}
    assert where.pop("number") == list(range(5000))
    assert where == {query: [int(query)] for query in where}


def test_case_can_be_ignored(tmp_path):
    captions = ["GRÖSSE of a Dog", "größe"]
    # Of those that are looked for alike the first stands for all.
    assert matches(tmp_path, captions, ["dog", "DOG", "Größe"], ignore_case=True) == [
        ["dog"],
        ["Größe"],
    ]


@pytest.mark.parametrize("caption", ["St. Louis", "in St. Louis.", "St. Louis, Missouri"])
def test_punctuation_inside_queries_can_stand_apart(tmp_path, caption):
    assert matches(tmp_path, [caption], ["St. Louis", "Louis, St"], wrap=True) == [["St. Louis"]]


def test_bytes_that_are_no_text_spoil_no_neighbour(tmp_path):
    files = MatcherFiles.write(tmp_path, ["dog"], False, False)
    content = pa.array([b"dog", b"\xff\xfe\n", b"dog"]).buffers()
    captions = pa.Array.from_buffers(pa.string(), 3, content)
    rows, _ = files.matcher().match(captions)
    assert rows.tolist() == [0, 2]
