"""The command stats: what it measures of images and captions, and what it tells."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.make_data import jpeg, write_sidecar, write_tar

CAPTIONS = ["a dog", "A dog", "IMG_1234.jpg", "stock photo", None]


@pytest.fixture
def made(tmp_path):
    keys = [f"{number:03d}" for number in range(len(CAPTIONS))]
    pictures = [jpeg(number, 40, 30) for number in range(4)] + [b"no picture"]
    write_tar(tmp_path / "0.tar", [*zip([f"{key}.jpg" for key in keys], pictures, strict=True)])
    write_sidecar(tmp_path / "0.parquet", {"key": keys, "caption": pa.array(CAPTIONS)})
    return tmp_path


def flag_lines(told: str) -> dict[str, str]:
    lines = [line.split() for line in told.splitlines() if line.startswith("  is_")]
    return {name: f"{count} {part}" for name, count, part in lines}


def test_images_and_captions(run, made):
    told = run("stats", made, "--quality", "--captions", "--threshold", "dark=1.01")
    flags = flag_lines(told)
    assert flags["is_dark"] == "4 100.0%"
    assert flags["is_blank"] == "0 0.0%"
    assert flags["is_filename_caption"] == flags["is_boilerplate_caption"] == "1 25.0%"
    assert flags["is_repeated_caption"] == "0 0.0%"
    table = pq.read_table(made / "0.parquet").to_pydict()
    assert table["caption_count"] == [2, 2, 1, 1, None]
    assert table["caption_words"] == [2, 2, 1, 2, None]
    assert table["bit_depth"] == [8] * 4 + [None]
    assert table["width"] == [40] * 4 + [None]
    told = json.loads(run("stats", made, "--odd-size", "--json"))
    assert told["flags"] == {"is_odd_size": 0}
    assert pq.read_table(made / "0.parquet")["is_odd_size"].to_pylist() == [False] * 4 + [None]
    assert json.loads((made / "_run.json").read_bytes())["flags"] == {"is_odd_size": 0}


def test_captions_alone_need_no_images(run, made):
    told = run("stats", made, "--captions")
    assert set(flag_lines(told)) == {
        *("is_repeated_caption", "is_filename_caption", "is_boilerplate_caption")
    }
    assert "width" not in pq.read_table(made / "0.parquet").column_names


def test_what_is_refused(run, made):
    assert "--threshold goes with --quality" in run("stats", made, "--threshold", "dark=1", code=2)
    assert "run it after" in run("stats", made, "--quality", "--odd-size", code=2)
    told = run("stats", made, "--quality", "--threshold", "drak=1", code=2)
    assert "did you mean 'dark'?" in told
    assert "megapixels" in run("stats", made, "--odd-size", code=2)
    told = run("stats", made, "--captions", "--caption-column", "captoin", code=2)
    assert "caption" in told
    told = run("stats", made, "--quality", "--threshold", "dark", code=2)
    assert "'dark' should be NAME=NUMBER, such as dark=0.25." in told
