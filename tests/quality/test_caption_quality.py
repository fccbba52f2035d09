"""Captions that tell nothing of their image, in any script and of any size."""

from __future__ import annotations

import csv
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate import CaptionQuality, ImageTextPairDataset, frames
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.quality.caption_patterns import BOILERPLATE, FILE_NAMES, normalised
from tests.make_data import make_dataset
from tests.shared import SHARED, needs_shared

GOOD = [
    "A dog runs along the beach with a ball in its mouth .",
    "Photo of a dog by the sea",
    "digital camera on a table",
    "The image shows a stock photo of two people",
    "собака image бежит",
    "Ein Hund läuft am Strand",
    "犬がビーチを走っている",
    "कुत्ता समुद्र तट पर दौड़ता है",
    "คุณภาพของภาพถ่าย",
    "save the date",
    "file.png is the name of this file",
    "",
    " \u00a0\u2028\t",
]
NAMES = [
    *("IMG_1234.JPG", "DSC00012", "_MG_0815", "20160716_113957", "alt_img", "photo (3)"),
    *("2016-07-16 11.39.57", "Screenshot 2020-01-01 at 10.11.12", "my holiday in rome.jpeg"),
    *("123456789_abcdef0123_b", "https://example.org/a?b=c", "d41d8cd98f00b204e9800998ecf8427e"),
    *("123e4567-e89b-12d3-a456-426614174000", "\u00a0ＩＭＧ＿１２３４.ＪＰＧ\n", "a\0b.png"),
]
PHRASES = [
    *(
        "Click to enlarge picture",
        "click here for larger image",
        "STOCK  PHOTO",
        "No image available",
    ),
    *("Embedded image permalink", "Anna's profile photo", "Image may contain: 2 people, outdoor"),
    *(
        "OLYMPUS DIGITAL CAMERA",
        "1920x1080",
        "1024 × 768 px",
        "© 2019 Someone",
        "[image]",
        "Logo 2",
    ),
    *("Bild vergrößern", "Cliquez ici pour agrandir", "点击查看大图", "Photo credit: Someone"),
    *("Proudly powered by WordPress", "No photo description available."),
]


def quality(captions: list[str | None], backend: str = "cpu", **options: object) -> list[tuple]:
    frame = frames.from_arrow(pa.table({"caption": pa.array(captions, pa.string())}), backend)
    columns = CaptionQuality(**options).run(frame)
    assert {name: column.type for name, column in columns.items()} == CaptionQuality().columns()
    return [*zip(*(column.to_pylist() for column in columns.values()), strict=True)]


def test_what_is_flagged(backend):
    assert [flags for _, *flags in quality(GOOD, backend)] == [[False, False]] * len(GOOD)
    assert [is_name for _, is_name, _ in quality(NAMES, backend)] == [True] * len(NAMES)
    assert [flags for _, *flags in quality(PHRASES, backend)] == [[False, True]] * len(PHRASES)
    assert quality([None], backend) == [(None, None, None)]
    assert quality([], backend) == []


def test_letters_are_those_of_unicode():
    texts = ["ab cd", "a1", "12", "कि", "犬 !", " \u2003", "", "e\u0301"]
    expected = [1, 0.5, 0, 1, 0.5, None, None, 1]
    assert [letters for letters, *_ in quality(texts)] == expected


@needs_shared
def test_what_people_wrote_is_not_flagged():
    with (SHARED / "data" / "flickr8k" / "captions.csv").open(newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    assert len(captions) == 7500
    assert not any(is_name or is_phrase for _, is_name, is_phrase in quality(captions))


@given(st.lists(st.none() | st.text(), max_size=8))
@settings(max_examples=30, deadline=None)
def test_whatever_is_written(captions):
    found = quality(captions)
    for caption, (letters, *flags) in zip(captions, found, strict=True):
        assert (caption is None) == (None in flags)
        seen = [c for c in caption or "" if not c.isspace()]
        if caption is None or not seen:
            assert letters is None or not seen
        else:
            own = sum(unicodedata.category(c)[0] in "LM" for c in seen) / len(seen)
            # Arrow may know another version of Unicode, and other controls as white space.
            if all(c.isprintable() for c in seen) and max(seen) < "\u3000":
                assert letters == pytest.approx(own, rel=1e-6)
    # A caption has the same flags beside others, and when it is said with other spaces.
    assert [one for caption in captions for one in quality([caption])] == found
    for once, twice in zip(
        normalised(pa.array(captions, pa.string())).to_pylist(),
        normalised(normalised(pa.array(captions, pa.string()))).to_pylist(),
        strict=True,
    ):
        assert once is None or once.split() == twice.split()


@pytest.mark.timeout(120)
def test_huge_and_hostile_captions_take_no_time():
    hostile = [
        "a" * 2_000_000 + "!",
        "_".join("ab" * 300_000),
        "((((" * 100_000,
        "click " * 200_000,
    ]
    assert [is_name for _, is_name, _ in quality(hostile)] == [False, True, False, False]


def test_patterns_are_data_and_more_can_be_given():
    assert all(pattern.source for pattern in (*FILE_NAMES, *BOILERPLATE))
    own = ["^buy .* online$"]
    assert quality(["Buy  shoes ONLINE"], boilerplate=own)[0][2]
    assert not quality(["Buy shoes online"])[0][2]
    stage = CaptionQuality(boilerplate=own)
    assert stage.provenance()["is_boilerplate_caption"]["boilerplate"][-1] == own[0]
    for wrong in (["("], "buy", [3]):
        with pytest.raises(ConfigError, match="boilerplate"):
            CaptionQuality(boilerplate=wrong).check()


def test_in_a_dataset(tmp_path):
    make_dataset(tmp_path, sizes=[2, 0])
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend="cpu")
    saved = CaptionQuality()(ds).save_metadata(tmp_path / "saved")
    assert saved.metadata.is_filename_caption.compute().tolist() == [False, False]
    with pytest.raises(ConfigError, match="column 'width' holds int64, no captions"):
        CaptionQuality("width").run(ds.metadata.compute())
    with pytest.raises(ColumnNotFoundError, match="text"):
        CaptionQuality("text")(ds)
