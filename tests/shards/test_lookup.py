"""Rows of any shards in any order find the bytes that are their own."""

from __future__ import annotations

import pytest

from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.lookup import Tars, rows_by_shard
from nemo_image_curate.shards.pack import pack
from tests.decode.pictures import good
from tests.make_data import write_tar

KEYS = ["b", "a", None, "a", "gone", "c", "text"]
SHARDS = ["1.tar", "0.tar", "0.tar", None, "0.tar", "1.tar", "1.tar"]


@pytest.fixture
def root(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", b"0a"), ("a.txt", b"words")])
    members = [("c.png", b"1c"), ("text.txt", b"words"), ("b.jpg", b"1b"), ("b.webp", b"other")]
    write_tar(tmp_path / "1.tar", members)
    return str(tmp_path)


def test_rows_are_grouped_by_shard_and_those_without_key_or_shard_left_out():
    assert list(rows_by_shard(KEYS, SHARDS)) == [("0.tar", [1, 4]), ("1.tar", [0, 5, 6])]
    assert list(rows_by_shard([], [])) == []


def test_each_shard_is_open_while_its_rows_are_looked_at(root):
    for opened, rows in Tars(root).open_shards(KEYS, SHARDS):
        for row in rows:
            sample = opened.index.samples.get(KEYS[row], [])
            assert len(list(opened.read(sample))) == len(sample)


def test_bytes_come_in_the_order_of_the_tars(root):
    tars = Tars(root)
    found = [image[:2] for image in tars.image_bytes(KEYS, SHARDS)]
    assert found == [(4, None), (1, b"0a"), (6, None), (5, b"1c"), (0, b"1b")]
    order = [5, 4, 3, 2, 1, 0, 6]
    moved = tars.image_bytes([KEYS[row] for row in order], [SHARDS[row] for row in order])
    assert [(order[row], content) for row, content, _ in moved] == found


def test_a_row_that_is_there_twice_gets_its_bytes_twice(root):
    assert list(Tars(root).image_bytes(["a", "a"], ["0.tar"] * 2)) == [
        (0, b"0a", None),
        (1, b"0a", None),
    ]


def test_bytes_of_every_format_with_and_without_index_files(tmp_path):
    for name, content in good().items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    output = tmp_path / "out"
    images = [(path, path.name) for path in sorted(tmp_path.glob("*.jpg"))]
    pack(images, str(output), {}, 5)
    keys = [f"{number // 5:05d}{number % 5}" for number in range(len(images))]
    shards = [f"{number // 5:05d}.tar" for number in range(len(images))]
    for use_index_files in (False, True):
        contents = {
            row: content
            for row, content, _ in Tars(str(output)).image_bytes(keys, shards, use_index_files)
        }
        assert contents == {row: path.read_bytes() for row, (path, _) in enumerate(images)}


def test_a_row_without_image_says_why(root):
    reasons = {image.row: image.reason for image in Tars(root).image_bytes(KEYS, SHARDS)}
    assert reasons[4] == "missing"
    assert reasons[6].startswith("missing: none of its members (txt)")
    assert [reasons[row] for row in (0, 1, 5)] == [None] * 3


def test_the_image_member_that_was_chosen(root):
    images = list(Tars(root, "webp").image_bytes(["b", "c"], ["1.tar"] * 2))
    assert images[1][:2] == (0, b"other")
    assert "image_member='webp'" in images[0].reason
    assert Tars(root).content_token() != Tars(root, "webp").content_token()
    assert Tars(root, "webp").content_token() == Tars("elsewhere", "webp").content_token()


@pytest.mark.parametrize("image_member", ["", " ", "a/b.jpg"])
def test_an_image_member_that_can_be_no_extension(root, image_member):
    with pytest.raises(ConfigError, match="image_member="):
        Tars(root, image_member)


@pytest.mark.parametrize("shard", ["none.tar", "../0.tar", "/etc/passwd", "s3://b/0.tar"])
def test_a_shard_that_is_not_there_or_not_below_the_root(root, shard):
    with pytest.raises(DatasetError):
        list(Tars(root).image_bytes(["a"], [shard]))
