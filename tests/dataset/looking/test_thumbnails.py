"""Small pictures out of tars on disks and in object stores."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from nemo_image_curate import storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking.thumbnails import thumbnails
from tests.make_data import jpeg, write_tar

PLACES = [("big", "0.tar"), ("tiny", "1.tar"), ("bad", "0.tar"), ("none", "1.tar")]
PLACES += [("big", "2.tar"), ("big", None), (None, "0.tar"), ("big", "0.tar"), ("a", "3.tar")]


def write(folder):
    write_tar(folder / "0.tar", [("big.jpg", jpeg(1, 400, 200)), ("bad.jpg", b"<html>")])
    write_tar(folder / "1.tar", [("tiny.png", jpeg(2, 8, 4, "PNG")), ("none.txt", b"words")])
    (folder / "3.tar").write_bytes(b"no tar at all" * 100)
    return folder


def check(made):
    big, tiny, bad, none, no_tar, no_shard, no_key, again, no_format = made
    assert (big.width, big.height, big.original_width, big.original_height) == (100, 50, 400, 200)
    assert big.n_bytes == len(jpeg(1, 400, 200))
    picture = Image.open(io.BytesIO(big.jpeg))
    assert (picture.format, picture.size) == ("JPEG", (100, 50))
    expected = Image.open(io.BytesIO(jpeg(1, 400, 200))).resize((100, 50))
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).mean() < 6
    assert (tiny.width, tiny.height) == (8, 4), "never larger"
    assert again == big
    assert big.url.startswith("data:image/jpeg;base64,")
    problems = [bad, none, no_tar, no_shard, no_key, no_format]
    assert all(one.jpeg is None and one.url is None and one.reason for one in problems)
    assert bad.n_bytes == 6
    assert "missing" in none.reason
    assert "2.tar" in no_tar.reason
    assert {one.reason for one in (no_shard, no_key, no_format)} == {"missing"}


def test_pictures_and_reasons(tmp_path):
    dataset = ImageTextPairDataset.from_webdataset(write(tmp_path))
    check(thumbnails(dataset, *zip(*PLACES, strict=True), side=100))
    assert thumbnails(dataset, [], []) == []


def test_they_are_read_from_an_object_store(tmp_path, bucket):
    url = bucket()
    write(tmp_path)
    for name in ("0.tar", "1.tar", "3.tar"):
        storage.write_bytes(f"{url}/{name}", (tmp_path / name).read_bytes())
    dataset = ImageTextPairDataset.from_webdataset(url)
    check(thumbnails(dataset, *zip(*PLACES, strict=True), side=100))
