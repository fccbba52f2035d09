"""The picture grid for notebooks."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import DatasetError, ImageError
from tests.decode.pictures import bad, good
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar


def pictures(page: str) -> list[Image.Image]:
    encoded = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)">', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in encoded]


def test_first_samples_with_captions(tmp_path, backend):
    made = make_dataset(tmp_path, sizes=[2, 0, 3])
    gallery = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend).show(4)
    assert gallery.keys == made.keys[:4]
    assert [one.size for one in pictures(gallery.html)] == [(32, 24)] * 4
    assert made.rows[3]["caption"] in gallery._repr_html_()
    gallery.save(str(tmp_path / "grid.html"))
    page = (tmp_path / "grid.html").read_text("utf-8")
    assert gallery.html in page
    assert "charset=utf-8" in page


def test_chosen_keys_and_another_caption_column(tmp_path, backend):
    made = make_dataset(tmp_path, sizes=[2, 3])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    gallery = dataset.show([made.keys[4], made.keys[0]], captions="url")
    assert sorted(gallery.keys) == [made.keys[0], made.keys[4]]
    assert made.rows[4]["url"] in gallery.html
    assert dataset.show(2, captions="absent").keys == made.keys[:2]
    assert dataset.show(captions="score").keys == made.keys, "a column of numbers will do"
    assert dataset.show(["nothing"]).keys == []


def test_text_of_strangers_is_no_html_and_odd_pictures_are_explained(tmp_path):
    big = Image.new("CMYK", (900, 300), (10, 20, 30, 40))
    buffer = io.BytesIO()
    big.save(buffer, "JPEG")
    members = [
        ("<b>.jpg", jpeg(1)),
        ("<b>.txt", b"<script>alert(1)</script> & co"),
        ("cmyk.jpg", buffer.getvalue()),
        ("bad.jpg", b"no picture"),
        ("none.txt", b"only text"),
    ]
    write_tar(tmp_path / "a.tar", members)
    gallery = ImageTextPairDataset.from_webdataset(tmp_path).show()
    assert "<script>" not in gallery.html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in gallery.html
    assert "&lt;b&gt;" in gallery.html
    assert [one.size for one in pictures(gallery.html)] == [(32, 24), (192, 64)]
    assert "a.tar: none: missing" in gallery.html
    assert "a.tar: bad: " in gallery.html


def test_rows_without_a_tar_member(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.jpg", jpeg(1))])
    write_sidecar(tmp_path / "a.parquet", {"key": ["a", "ghost", None], "caption": ["A", "G", "N"]})
    gallery = ImageTextPairDataset.from_webdataset(tmp_path).show()
    assert gallery.keys == ["a", "ghost", None]
    assert len(pictures(gallery.html)) == 1


# As they are named in tars; what a picture is, its bytes tell.
FORMATS = good()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_pictures_of_every_format_are_shown(tmp_path, monkeypatch, name):
    # A common way to switch off Pillow's own limit; ours does not depend on it.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    write_tar(tmp_path / "0.tar", [("a.jpg", FORMATS[name])])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    (shown,) = pictures(dataset.show().html)
    picture = dataset.image("a")
    assert shown.size == picture.size
    expected = decode_rgb(FORMATS[name]).astype(int)
    difference = np.abs(np.asarray(shown.convert("RGB")).astype(int) - expected).mean()
    # A thumbnail is a JPEG.
    assert difference < 12
    assert picture.tobytes(), "decoded"


# Those that Pillow opens although no model takes them.
ODD = {"float tiff", "thread"}


@pytest.mark.parametrize("name", sorted(bad().keys() - {"none"} - ODD))
def test_files_that_are_no_pictures_say_why(tmp_path, name):
    content, reason = bad()[name]
    write_tar(tmp_path / "0.tar", [("a.jpg", content)])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    said = f"0.tar: a: {reason.removeprefix('decode: ')}"
    assert f"<em>{html.escape(said)}" in dataset.show().html
    with pytest.raises(ImageError, match=f"^{re.escape(said)}"):
        dataset.image("a")


def test_rows_without_a_shard_are_missing(tmp_path, backend):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1))])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    dataset.metadata["shard"] = dataset.metadata.shard.where(dataset.metadata.key != "a")
    assert "None: a: missing" in dataset.show().html
    with pytest.raises(DatasetError, match="'a' is not in the dataset"):
        dataset.image("a")
