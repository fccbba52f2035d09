"""What things are called."""

from __future__ import annotations

import pytest

from nemo_image_curate.shards.names import (
    TAR_ENDINGS,
    ShardFiles,
    member_name,
    normal_name,
    split_name,
)


def test_the_files_of_a_shard_are_beside_each_other():
    files = ShardFiles("a/b.c")
    assert (files.tar, files.sidecar, files.index) == ("a/b.c.tar", "a/b.c.parquet", "a/b.c.idx")
    for location in ("a/b.c.tar", "a/b.c.TAR", "a/b.c.parquet", "a/b.c.idx", "a/b.c"):
        assert ShardFiles.beside(location) == files
    assert ShardFiles.beside("s3://b/00000.tar").index == "s3://b/00000.idx"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000000012.jpg", ("000000012", "jpg")),
        ("a.seg.png", ("a", "seg.png")),
        ("v1.0/train.d/a b.JPG", ("v1.0/train.d/a b", "JPG")),
        ("./x.jpg", ("./x", "jpg")),
        ("日本.txt", ("日本", "txt")),
        ("a..jpg", ("a", ".jpg")),
        ("a.", ("a", "")),
        ("README", None),
        (".hidden", None),
        ("v1.0/.hidden.jpg", None),
        ("v1.0/README", None),
    ],
)
def test_split_name(name, expected):
    assert split_name(name) == expected
    if expected is not None and expected[1]:
        assert member_name(*expected) == name


def test_packed_tars_have_the_sidecar_of_their_stem():
    for ending in TAR_ENDINGS:
        assert ShardFiles.beside("a/00000" + ending).sidecar == "a/00000.parquet"
        assert ShardFiles.beside("a/00000" + ending.upper()).sidecar == "a/00000.parquet"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./a.jpg", "a.jpg"),
        ("././a.jpg", "a.jpg"),
        (".//a.jpg", "a.jpg"),
        ("a//b.jpg", "a/b.jpg"),
        ("a/./b.jpg", "a/b.jpg"),
        ("a./b.jpg", "a./b.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("/a.jpg", "/a.jpg"),
        ("./folder/", "folder/"),
        ("folder\\a.jpg", "folder\\a.jpg"),
        (".hidden", ".hidden"),
    ],
)
def test_names_as_tar_extracts_them(name, expected):
    assert normal_name(name) == expected
