"""Lists of queries: read, written and built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemo_image_curate.errors import ConfigError, DatasetError, NotFoundError
from nemo_image_curate.selection import queries
from nemo_image_curate.selection.queries import (
    build_queries,
    read_queries,
    synset_names,
    write_queries,
)
from tests.selection.captioned import dataset, flickr_captions
from tests.shared import needs_shared

# Lines of WordNet's database, in the form of wndb(5WN).
LICENSE = "  1 This software and database is being provided to you, the LICENSEE, by\n"
SYNSETS = {
    "noun": "00001930 03 n 01 physical_entity 0 001 @ 00001740 n 0000 | an entity\n"
    "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 02083346 n 0000 | a dog\n"
    "08930145 15 n 02 Finland 0 Suomi 0 001 @ 08552138 n 0000 | a republic\n",
    "verb": "02001858 38 v 01 dog 0 001 @ 02000954 v 0000 01 + 08 00 | go after\n",
    "adj": "00020103 00 s 02 outback(a) 0 remote 0 001 & 00019874 a 0000 | in the bush\n",
    "adv": "00001740 02 r 01 a_cappella 0 000 | without music\n",
}


@pytest.fixture
def wordnet(tmp_path):
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for kind, lines in SYNSETS.items():
        (folder / f"data.{kind}").write_text(LICENSE + lines)
    return folder


NAMES = ["physical entity", "dog", "Finland", "outback", "a cappella"]


@pytest.mark.parametrize("name", ["q.txt", "q.json"])
def test_what_is_written_is_read(tmp_path, name):
    listed = ["dog", "red dog", 'a "quoted" one', "犬", "[x]", "line\u2028separator"]
    write_queries(tmp_path / name, listed)
    assert read_queries(tmp_path / name) == listed
    assert read_queries(str(tmp_path / name)) == listed


def test_lines_of_any_kind(tmp_path):
    (tmp_path / "q").write_bytes(b"\xef\xbb\xbfdog\r\n\r\n  cat \ndog\nred dog")
    assert read_queries(tmp_path / "q") == ["dog", "cat", "red dog"]
    assert read_queries(["dog ", "dog", "", "cat"]) == ["dog", "cat"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "größe".encode("latin-1"), "a text in UTF-8 with one in each line"),
        ("q.json", b"dog", "holds a list of texts"),
        ("q.json", b'{"dog": 1}', "holds no list"),
        ("q.json", b"[" * 100_000, "q.json: it is nested too deep"),
    ],
)
def test_files_that_hold_something_else(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_queries(tmp_path / name)


def test_lists_that_hold_something_else(tmp_path):
    with pytest.raises(ConfigError, match="number 1 is 5; give texts"):
        read_queries(["dog", 5])
    with pytest.raises(ConfigError, match="there are no queries"):
        read_queries(["", " "])
    for unordered in (iter(["dog"]), {"dog"}, None, 5, b"dog"):
        with pytest.raises(ConfigError, match="should be a file of queries, or a list of them"):
            read_queries(unordered)
    with pytest.raises(NotFoundError, match="absent"):
        read_queries(tmp_path / "absent")


def test_names_of_synsets(wordnet):
    assert synset_names(wordnet) == NAMES
    with pytest.raises(NotFoundError, match=r"data\.noun"):
        synset_names(wordnet.parent)


@pytest.mark.skipif(not os.path.isdir(queries.WORDNET), reason="wordnet-base is not installed")
def test_the_whole_of_wordnet():
    names = synset_names()
    assert len(names) > 80_000
    assert {"dog", "physical entity", "Finland"} <= set(names)
    assert not any("_" in name or "(" in name for name in names)


CAPTIONS = ["a red dog runs", "a red dog sits .", "a cat runs", "the dog, red"]


def test_words_pairs_and_names(tmp_path, wordnet):
    ds = dataset(tmp_path / "in", CAPTIONS[:1], CAPTIONS[1:])
    options = {"min_count": 2, "wordnet": wordnet, "work_dir": tmp_path / "work"}
    # 14 words; red dog: log2(14 * 2 / (3 * 3)) = 1.64, a red: log2(14 * 2 / (3 * 3)).
    built = build_queries(ds, min_pmi=1.6, **options)
    assert built == ["a", "dog", "red", "runs", "a red", "red dog", *NAMES[:1], *NAMES[2:]]
    assert build_queries(ds, min_pmi=1.7, **options)[4:] == [*NAMES[:1], *NAMES[2:]]
    lower = build_queries(ds, min_pmi=9, ignore_case=True, **options)
    assert lower[4:] == ["physical entity", "finland", "outback", "a cappella"]
    assert not list((tmp_path / "work").iterdir())


def test_another_corpus(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(CAPTIONS))
    assert build_queries(tmp_path / "corpus.txt", 3, wordnet=None) == ["a", "dog", "red"]


def test_wordnet_that_is_not_installed_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(queries, "WORDNET", str(tmp_path / "absent"))
    (tmp_path / "corpus.txt").write_text("dog")
    assert build_queries(tmp_path / "corpus.txt", 1) == ["dog"]
    assert "apt-get install wordnet-base" in caplog.text


def test_what_cannot_be_built(tmp_path):
    with pytest.raises(ConfigError, match="min_count=0 should be an integer of at least 1"):
        build_queries(tmp_path / "corpus.txt", 0)
    with pytest.raises(NotFoundError, match=r"corpus\.txt"):
        build_queries(tmp_path / "corpus.txt", wordnet=None)
    assert not list(Path(tmp_path).iterdir())


@needs_shared
def test_pairs_of_real_captions_belong_together(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(flickr_captions()))
    built = build_queries(tmp_path / "corpus.txt", 20, 5.0, None)
    assert {"dog", "grass", "soccer ball", "little girl", "tennis ball"} <= set(built)
    assert not {"a dog", "in a", "of the"} & set(built)
