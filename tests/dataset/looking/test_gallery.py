"""Pictures of rows for notebooks."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.looking.gallery import Gallery
from nemo_image_curate.decode.pillow import decode_rgb
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError, ImageError
from tests.decode.pictures import bad, good
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar


def pictures(page: str) -> list[Image.Image]:
    encoded = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
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
    assert "not in the dataset: nothing" in dataset.show(["nothing", made.keys[0]]).html


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
    assert f"<em class=reason>{html.escape(said)}" in dataset.show().html
    with pytest.raises(ImageError, match=f"^{re.escape(said)}"):
        dataset.image("a")


def test_pictures_open_to_their_columns_and_nothing_is_computed_for_them(tmp_path):
    made = make_dataset(tmp_path, sizes=[2])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    dataset = dataset.with_columns(refuse, {"dear": pa.int64()})
    gallery = dataset.show(1)
    row = made.rows[0]
    for name in ("url", "width", "score"):
        assert f"<td>{name}</td>" in gallery.html
    assert html.escape(row["url"]) in gallery.html
    assert "dear" not in gallery.html
    assert repr(gallery) == "Gallery of 1 pictures: shown in a notebook; save(path) writes a page"


def refuse(frame):
    raise AssertionError("computed")


def strips(gallery: Gallery) -> dict[str, list[str]]:
    """The keys below each title."""
    parts = re.split(r"<h3>(.*?)</h3>", gallery.html)[1:]
    return {
        title: re.findall(r"<figcaption><b>(.*?)</b>", content)
        for title, content in zip(parts[::2], parts[1::2], strict=True)
    }


def test_rows_along_a_column(tmp_path, backend):
    made = make_dataset(tmp_path, sizes=[4, 3])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    by_score = sorted(made.rows, key=lambda row: row["score"])
    keys, scores = [row["key"] for row in by_score], [row["score"] for row in by_score]
    shown = strips(dataset.show(2, by="score", around=scores[4]))
    (seed,) = [title for title in shown if title.startswith("random")]
    assert seed == "random (seed 0)"
    assert len(set(shown.pop(seed))) == 2
    assert shown == {
        f"score: just below {scores[4]:g}": [keys[3], keys[2]],
        f"score: {scores[4]:g} and just above": keys[4:6],
        "score: highest": [keys[6], keys[5]],
        "score: lowest": keys[:2],
    }
    assert list(strips(dataset.show(2, by="score"))) == ["score: highest", "score: lowest", seed]
    assert f"score {scores[0]:.7g}" in dataset.show(2, by="score").html


def test_groups_of_duplicates(tmp_path, backend):
    made = make_dataset(tmp_path, sizes=[3, 2])
    first = made.keys[0]
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    dataset.metadata["near_duplicate_of"] = dataset.metadata["url"].where(
        dataset.metadata["width"] < 0, None
    )
    with pytest.raises(ConfigError, match="give one of by"):
        dataset.show(by="score", groups=True)
    assert "0 of 5 rows are duplicates" in dataset.show(groups=True).html
    rows = pa.table(
        {
            "key": made.keys,
            "near_duplicate_of": [None, first, None, None, first],
            "near_duplicate_of_shard": [None, "00000.tar", None, None, "00000.tar"],
            "near_duplicate_similarity": pa.array([None, 0.9, None, None, 0.95], pa.float32()),
        }
    )
    for shard, part in (("00000", rows[:3]), ("00001", rows[3:])):
        write_sidecar(tmp_path / f"{shard}.parquet", part)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    gallery = dataset.show(groups=True)
    assert strips(gallery) == {"3 of the same": [first, made.keys[4], made.keys[1]]}
    assert gallery.html.count("<details class=kept") == 1
    assert "near_duplicate_similarity 0.95<br>32 x 24, " in gallery.html
    assert "this one stays<br>32 x 24" in gallery.html
    assert dataset.show(groups="near_duplicate_of").html == gallery.html


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"around": 5.0}, ConfigError, "give by="),
        ({"samples": ["a"], "by": "score"}, ConfigError, "give a number"),
        ({"groups": True}, ColumnNotFoundError, "duplicate_of"),
        ({"by": "scroe"}, ColumnNotFoundError, "score"),
    ],
)
def test_what_cannot_be_shown(tmp_path, arguments, error, message):
    make_dataset(tmp_path, sizes=[1])
    with pytest.raises(error, match=message):
        ImageTextPairDataset.from_webdataset(tmp_path).show(**arguments)


def test_a_grid_is_one_image(tmp_path):
    write_tar(
        tmp_path / "a.tar", [(f"{n}.jpg", jpeg(n, 90, 60)) for n in range(4)] + [("bad.jpg", b"no")]
    )
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    sheet = dataset.grid(["2", "bad", "0"], across=2, side=50)
    assert sheet.size == (104, 104)
    for left, top, number in ((0, 8, 2), (0, 62, 0)):
        expected = Image.open(io.BytesIO(jpeg(number, 90, 60))).convert("RGB").resize((50, 33))
        cell = sheet.crop((left, top, left + 50, top + 33))
        difference = np.abs(np.asarray(cell).astype(int) - np.asarray(expected)).mean()
        assert difference < 6
    assert sheet.getpixel((55, 48)) == (230, 232, 235), "no picture: why"
    assert dataset.grid(5).size == (3 * 164 - 4, 2 * 164 - 4)
    assert dataset.grid(["absent"], side=60).getpixel((0, 0)) == (230, 232, 235)
    assert dataset.grid([]).size == (1, 1)


def test_rows_without_a_shard_are_missing(tmp_path, backend):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1))])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    dataset.metadata["shard"] = dataset.metadata.shard.where(dataset.metadata.key != "a", None)
    assert "None: a: missing" in dataset.show().html
    with pytest.raises(DatasetError, match="'a' is not in the dataset"):
        dataset.image("a")
