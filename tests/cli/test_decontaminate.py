"""The commands decontaminate and dedup --against."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from nemo_image_curate import ImageTextPairDataset
from tests.dedup.photographs import flipped
from tests.make_data import jpeg, write_tar
from tests.make_embedders import rows


def noise(number: int) -> bytes:
    return jpeg(number, 160, 120)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("leaks")
    write_tar(folder / "val" / "0.tar", [(f"v{n}.jpg", noise(n)) for n in range(3)])
    write_tar(folder / "test" / "0.tar", [("t9.jpg", noise(9))])
    mirror = flipped(Image.open(io.BytesIO(noise(9))))
    write_tar(folder / "mirrored" / "0.tar", [("m.jpg", mirror)])
    pool = [("a.jpg", noise(1)), ("b.jpg", noise(30)), ("c.jpg", b"broken"), ("d.jpg", noise(9))]
    write_tar(folder / "pool" / "0.tar", pool)
    return folder


def test_decontaminate_and_filter(run, places, tmp_path):
    page = tmp_path / "leaks.html"
    words = ["decontaminate", places / "pool", "--by", "exact,perceptual"]
    words += ["--against", f"val={places / 'val'}", "--against", f"test={places / 'test'}"]
    words += ["--output", tmp_path / "out", "--report", page, "--work-dir", tmp_path / "work"]
    told = json.loads(run(*words, "--json"))
    assert told["samples"] == 4
    assert told["leaks"] == 2
    assert told["leaks_by"] == {"exact": 2}
    assert told["leaks_of"] == {"test": 1, "val": 1}
    assert told["clean"] == 1
    assert told["not_compared"] == 1
    assert told["not_compared_why"] == {"no hash": 1}
    assert pq.read_table(tmp_path / "leaks.clean.parquet").to_pylist() == [
        {"key": "b", "shard": "0.tar"}
    ]
    assert "<svg" in page.read_text()
    record = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert record["leaks"] == 2
    shown = run(*words)
    assert "leaks_by          2 exact" in shown
    curated = tmp_path / "clean"
    done = run("filter", tmp_path / "out", "--where", "not is_leak", "--output", curated, "--json")
    assert json.loads(done)["kept"] == 2


def test_dedup_against(run, places, tmp_path):
    words = ["dedup", places / "pool", "--output", tmp_path / "out", "--against", places / "val"]
    told = json.loads(run(*words, "--method", "exact", "--json"))
    assert told["leaks_of"] == {"val": 1}
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [row["leak_of"] for row in found] == ["v1", None, None, None]
    mirrored = ["dedup", places / "mirrored", "--against", places / "test", "--json"]
    told = json.loads(run(*mirrored, "--method", "perceptual", "--output", tmp_path / "m"))
    assert told["leaks_by"] == {"perceptual": 1}
    for option in (["--keep", "first"], ["--rule", "components"], ["--recall-sample", "5"]):
        assert f"{option[0]} does not go with --against" in run(*words, *option, code=2)


def test_what_is_wrong(run, places):
    words = ["decontaminate", places / "pool", "--against", places / "val"]
    assert "'colour' is not one of 'exact'" in run(*words, "--by", "colour", code=2)
    assert "leave 'semantic' out of by=" in run(*words, code=2)
    assert "there are datacomp-isc" in run(*words, "--preset", "x", code=2)
    assert "not both" in run(*words, "--preset", "sscd-0.90", "--eps", "0.1", code=2)
    assert "give each --against a name" in run(*words, "--against", "a=b", code=2)
    assert "same name" in run("decontaminate", "x", "--against", "a=b", "--against", "a=c", code=2)
    assert "does not exist" in run(*words[:3], places / "nothing", "--by", "exact", code=1)
