"""The demo really rejects what was planted, and keeps the rest."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from nemo_image_curate import ImageTextPairDataset, inspect_dataset
from nemo_image_curate.demo import DUPLICATES, RULES, run_demo
from nemo_image_curate.errors import ConfigError, DatasetError
from tests.make_data import jpeg, read_tar
from tests.make_embedders import rows

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

# What was done to a picture, and why it must be rejected for it.
PLANTED = {
    "blurred": "blurred",
    "dark": "too dark",
    "tiny": "too small",
    "truncated": "cannot be decoded",
    "not an image": "cannot be decoded",
}
# How its duplicates must be found, when the picture itself is sharp and bright.
PLANTED_DUPLICATES = {
    "copied": {"exact copy"},
    "resized": {"same picture"},
    "recompressed": {"same picture"},
    "flipped": {"same picture"},
    # Less of it is to be seen: a matter of taste.
    "cropped": {"near-duplicate", "kept"},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    return run_demo(None, str(output)), output


def test_what_was_planted_is_rejected_for_the_right_reason(done):
    record = done[0].record
    photographs = sum(record["variants"]["original"].values())
    assert photographs >= 5
    assert record["samples"] == 11 * photographs
    for variant, reason in PLANTED.items():
        outcome = dict(record["variants"][variant])
        if variant == "blurred":
            # One is of the night sky, which is too dark as it is.
            assert outcome.pop("too dark", 0) <= 1
        assert set(outcome) == {reason}, variant
        assert outcome[reason] >= photographs - 1


def test_planted_duplicates_are_found_and_one_stays(done):
    variants = done[0].record["variants"]
    for variant, expected in PLANTED_DUPLICATES.items():
        outcome = dict(variants[variant])
        assert outcome.pop("too dark", 0) <= 1
        assert set(outcome) <= expected, variant
        assert outcome
    assert variants["original"]["kept"] >= 0.7 * sum(variants["original"].values())


def test_the_numbers_add_up_and_are_plain_json(done):
    result, output = done
    record = json.loads(json.dumps(result.record))
    assert record["kept"] + sum(record["rejected"].values()) == record["samples"]
    assert set(record["rejected"]) <= {*RULES, *DUPLICATES}
    assert record["kept"] == sum(one.get("kept", 0) for one in record["variants"].values())
    for name, value in (("samples in", record["samples"]), ("kept", record["kept"])):
        assert any(line.split() == [*name.split(), str(value)] for line in result.table.split("\n"))
    for variant in (*PLANTED, *PLANTED_DUPLICATES, "original"):
        assert variant in result.table
    assert str(output / "curated") in result.table
    assert f"nemo-image-curate report {output / 'metadata'} --output" in result.table


def test_the_clean_shards_open_and_hold_good_pictures_only(done):
    result, output = done
    curated = ImageTextPairDataset.from_webdataset(output / "curated")
    found = rows(curated)
    assert len(found) == result.record["kept"]
    assert inspect_dataset(curated)["faults"] == []
    pictures = 0
    for tar in sorted((output / "curated").glob("*.tar")):
        for name, content in read_tar(tar).items():
            if name.endswith(".jpg"):
                Image.open(io.BytesIO(content)).load()
                pictures += 1
    assert pictures == len(found)
    for row in found:
        assert row["image_error"] is None
        assert len(row["image_embedding"]) == 1280
        assert row["width"] >= 64
        assert row["brightness"] >= 30
        assert row["caption"]
    everything = rows(ImageTextPairDataset.from_webdataset(output / "metadata"))
    assert len(everything) == result.record["samples"]
    assert {row["old_key"] for row in found} <= {row["key"] for row in everything}


@pytest.fixture
def own(tmp_path) -> Path:
    folder = tmp_path / "own"
    (folder / "deeper").mkdir(parents=True)
    (folder / "good.jpg").write_bytes(jpeg(1, 400, 300))
    (folder / "deeper" / "small.png").write_bytes(jpeg(2, 32, 32, "PNG"))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_own_pictures(own, tmp_path):
    record = run_demo(str(own), str(tmp_path / "out")).record
    assert record["samples"] == 3
    assert record["rejected"]["cannot be decoded"] == 1
    assert record["rejected"]["too small"] == 1
    assert "variants" not in record
    again = run_demo(str(own), str(tmp_path / "out")).record
    assert again["kept"] == record["kept"], "an earlier demo is replaced"


def test_what_is_no_demo_is_never_removed(own, tmp_path):
    precious = tmp_path / "work" / "shards" / "precious.tar"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"weeks of work")
    with pytest.raises(ConfigError, match="not of an earlier demo"):
        run_demo(str(own), str(tmp_path / "work"))
    assert precious.read_bytes() == b"weeks of work"


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        run_demo(str(tmp_path / "empty"), str(tmp_path / "out"))
