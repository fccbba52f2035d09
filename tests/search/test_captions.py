from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError
from nemo_image_curate.search.captions import CaptionIndex, build_captions, captions_path
from tests.make_data import write_sidecar, write_tar

CAPTIONS = [
    "Two dogs run along the beach",
    "A dog jumps into the water.",
    "Ein Hund läuft über die grüne Wiese",
    None,
    "海辺を走る犬の画像",
    "猫がソファで寝ている",
    "สุนัขวิ่งบนชายหาด",
    "Собака бежит по пляжу",
    "",
    'quote " and * NEAR(dog) OR caption:x',
    "The café on the beach",
    "新しい画像",
]


def write_captions(
    root: Path, captions: list[str | None], per_shard: int = 5, backend: str = "cpu"
) -> ImageTextPairDataset:
    for shard, start in enumerate(range(0, len(captions), per_shard)):
        part = captions[start : start + per_shard]
        keys = [f"k{start + number}" for number in range(len(part))]
        write_tar(root / f"{shard:03d}.tar", [])
        columns = {"key": keys, "caption": pa.array(part, pa.string()), "n": range(len(part))}
        write_sidecar(root / f"{shard:03d}.parquet", columns)
    return ImageTextPairDataset.from_webdataset(root, backend=backend)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> CaptionIndex:
    return build_captions(write_captions(tmp_path_factory.mktemp("captions"), CAPTIONS))


def found(index: CaptionIndex, text: str, n: int = 100) -> list[int]:
    return [int(key[1:]) for _, key in index.search(text, n)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog", {0, 1, 9}),
        ("DOGS", {0, 1, 9}),
        ("beach", {0, 10}),
        ("cafe", {10}),
        ("grune wiese", {2}),
        ("画像", {4, 11}),
        ("新しい画像です", {4, 11}),
        ("犬", {4}),
        ("ソファ", {5}),
        ("ชายหาด", {6}),
        ("СОБАКА", {7}),
        ("zebra", set()),
        ("", set()),
        (" \t\n", set()),
        ("— … !", set()),
    ],
)
def test_words_of_any_script_are_found(built, text, expected):
    assert set(found(built, text)) == expected


def test_more_and_rarer_words_rank_higher(built):
    assert found(built, "dogs beach")[0] == 0
    assert found(built, "the water")[0] == 1
    assert found(built, "新しい画像")[0] == 11


def test_rows_come_with_their_shard_and_ties_in_order(tmp_path):
    index = build_captions(write_captions(tmp_path, ["red ball"] * 12))
    expected = [(f"{number // 5:03d}.tar", f"k{number}") for number in range(12)]
    assert index.search("ball", 100) == expected
    assert index.search("ball", 7) == expected[:7]


def test_length_counts_captions(built):
    assert len(built) == 11


@given(st.text(max_size=40), st.sampled_from(["", "dog", "犬"]))
@example('"', "")
@example('dog" OR "', "")
@example("dog\0beach", "")
@example("NEAR(dog beach)", "")
@example("caption: x", "")
@example("-dog ^dog dog* {a b}:c", "")
@example("\ud800", "")
@example("画" * 500, "")
def test_any_text_is_only_words(built, text, more):
    for _, key in built.search(f"{text} {more}", 5):
        assert CAPTIONS[int(key[1:])]


@pytest.mark.parametrize("word", ["OR", "AND", "NOT", "NEAR", "caption", "rowid"])
def test_operators_are_words(built, word):
    expected = {9} if word in ("OR", "NEAR", "caption") else {9, *()} if word == "AND" else set()
    assert set(found(built, word)) == expected


def test_frequent_words_do_not_hide_rare_ones_and_are_found_alone(tmp_path):
    captions = [f"a picture number {number}" for number in range(5000)]
    index = build_captions(write_captions(tmp_path, captions, per_shard=2500))
    assert found(index, "a picture number 4711", 3) == [4711, 0, 1]
    assert len(found(index, "picture")) == 100
    assert found(index, "picture zebra", 2) == [0, 1]


def test_one_of_the_words_is_enough_beside_a_rare_one(tmp_path):
    captions = ["the dog"] * 2999 + ["the zebra"]
    index = build_captions(write_captions(tmp_path, captions, per_shard=1500))
    assert found(index, "dog zebra", 50) == [2999, *range(49)]
    assert found(index, "dog zebra", 1) == [2999]
    assert found(index, "dog zebra", 0) == []
    with pytest.raises(ConfigError, match="n=-1"):
        index.search("dog", -1)


@pytest.mark.parametrize(
    "captions",
    [pa.array([["a"], ["b"]]), pa.array([{"a": 1}, {"a": 2}]), pa.array([b"a", b"\xff"])],
    ids=["list", "struct", "binary"],
)
def test_columns_that_are_no_texts_are_refused_before_any_work(tmp_path, captions):
    write_tar(tmp_path / "0.tar", [])
    write_sidecar(tmp_path / "0.parquet", {"key": ["a", "b"], "caption": captions})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu")
    with pytest.raises(ConfigError, match=r"column='caption' holds .* not texts"):
        build_captions(dataset)
    assert not Path(captions_path(dataset)).parent.exists()


def test_the_names_of_samples_are_no_captions(tmp_path):
    write_tar(tmp_path / "0.tar", [])
    write_sidecar(tmp_path / "0.parquet", {"caption": ["a", "b"], "n": [1, 2]})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, "caption", backend="cpu")
    for column in ("caption", "shard"):
        with pytest.raises(ConfigError, match="names the samples"):
            build_captions(dataset, column)


def test_any_number_of_workers_gives_the_same_file(tmp_path, request, backend):
    dataset = write_captions(tmp_path / "data", CAPTIONS, backend=backend)
    alone = build_captions(dataset, path=tmp_path / "alone.db")
    request.getfixturevalue("client")
    spread = build_captions(dataset, path=tmp_path / "spread.db")
    assert Path(spread.path).read_bytes() == Path(alone.path).read_bytes()
    assert set(found(alone, "dog")) == {0, 1, 9}


def test_threads_share_an_index(built):
    answers: list[list[int]] = []
    work = [threading.Thread(target=lambda: answers.append(found(built, "dog"))) for _ in range(8)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert answers == [found(built, "dog")] * 8


def test_loading_beside_the_same_captions(tmp_path):
    dataset = write_captions(tmp_path, CAPTIONS)
    build_captions(dataset)
    assert set(found(CaptionIndex.load(captions_path(dataset), dataset), "dog")) == {0, 1, 9}
    # Other columns may change in place: the captions are then read and are the same.
    dataset.metadata = dataset.metadata.assign(more=1)
    changed = dataset.save_metadata()
    assert len(CaptionIndex.load(captions_path(changed), changed)) == 11


def test_loading_beside_other_captions_is_refused(tmp_path):
    dataset = write_captions(tmp_path / "one", CAPTIONS)
    path = build_captions(dataset).path
    other = write_captions(tmp_path / "other", [*CAPTIONS[:-1], "changed"])
    with pytest.raises(DatasetError, match="other captions"):
        CaptionIndex.load(path, other)
    with pytest.raises(DatasetError, match="other captions"):
        CaptionIndex.load(path, dataset.filter("n > 0"))
    grown = write_captions(tmp_path / "one", [*CAPTIONS, "new", "and", "newer", "ones"])
    with pytest.raises(DatasetError, match="build_captions"):
        CaptionIndex.load(path, grown)


def test_a_missing_damaged_or_foreign_file_is_named(tmp_path, built):
    with pytest.raises(DatasetError, match="no caption index"):
        CaptionIndex.load(tmp_path / "none.db")
    for content in (b"not sqlite" * 100, Path(built.path).read_bytes()[:5000], b""):
        path = tmp_path / "bad.db"
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"bad\.db is damaged"):
            CaptionIndex.load(path).search("dog", 5)
    newer = shutil.copy(built.path, tmp_path / "newer.db")
    with sqlite3.connect(newer) as database:
        database.execute("UPDATE info SET about = replace(about, '\"format\": 1', '\"format\": 9')")
    with pytest.raises(DatasetError, match="format 9"):
        CaptionIndex.load(newer)
    for record in ("[" * 100_000, "{", "[]"):
        with sqlite3.connect(newer) as database:
            database.execute("UPDATE info SET about = ?", (record,))
        with pytest.raises(DatasetError, match=r"newer\.db is damaged"):
            CaptionIndex.load(newer)


def test_a_missing_column_and_a_remote_place_are_refused(tmp_path):
    dataset = write_captions(tmp_path, CAPTIONS)
    with pytest.raises(ColumnNotFoundError, match="caption"):
        build_captions(dataset, column="captoin")
    with pytest.raises(ConfigError, match="s3://"):
        build_captions(dataset, path="s3://bucket/captions.db")


def test_building_again_replaces_the_file_and_leaves_nothing_else(tmp_path):
    dataset = write_captions(tmp_path, CAPTIONS)
    path = build_captions(dataset).path
    old = CaptionIndex(path)
    os.makedirs(f"{path}.parts/left-by-a-killed-run")
    grown = write_captions(tmp_path, [*CAPTIONS, "a dog more"])
    build_captions(grown)
    assert len(old) == 12
    assert set(found(old, "dog")) == {0, 1, 9, 12}
    assert os.listdir(Path(path).parent) == ["captions.db"]


def test_a_dataset_without_captions_has_an_empty_index(tmp_path):
    index = build_captions(write_captions(tmp_path, [None, None]))
    assert (len(index), index.search("dog", 5)) == (0, [])
