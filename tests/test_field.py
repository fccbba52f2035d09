"""What people meet: every situation through the commands, where all that is lost is told.

The situations are built by the data's own script; `docs/what_people_meet.md` says what is done with
each kind, and the tests of the modules have their variants.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_image_curate import ExactDedup, ImageTextPairDataset, PerceptualDedup
from tests.shared import SHARED, needs_shared

pytestmark = needs_shared

# Rows, rows with an image, and faults by kind after a pass over the images.
SITUATIONS: dict[str, tuple[int, int, dict[str, int]]] = {
    "png": (5, 5, {}),
    "checksum7": (3, 3, {}),
    "linked": (2, 2, {}),
    "cut": (2, 2, {"truncated": 1}),
    "gz": (1, 1, {}),
    "mixed_gz": (2, 2, {}),
    "alpha_art": (4, 4, {}),
    "pages": (20, 20, {}),
    "dotted": (3, 3, {}),
    "extensions": (5, 5, {}),
    "mixed_json": (4, 4, {"mixed": 1}),
    "zeros": (3, 0, {"missing": 3, "no match": 1, "no row": 3}),
    "dot_slash": (3, 3, {}),
}


@pytest.fixture(scope="module")
def cases() -> dict[str, Callable[[Path], Any]]:
    path = SHARED / "data" / "field" / "make.py"
    spec = importlib.util.spec_from_file_location("field_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


@pytest.fixture
def made(cases, tmp_path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        cases[name](folder)
        return folder / "snap" if name == "linked" else folder

    return make


def invoke(*words: object) -> tuple[int, str, str]:
    """A command's exit status, output and messages."""
    command = [sys.executable, "-m", "nemo_image_curate.cli", *map(str, words)]
    env = {**os.environ, "NEMO_IMAGE_CURATE_BACKEND": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def check_sums(record: dict[str, Any]) -> None:
    """The sums of a command's account."""
    account = record["account"]
    assert account["samples_in_tars"] == account["with_row"] + account["without_row"]
    assert account["rows_in_sidecars"] == account["with_image"] + account["without_image"]
    rows = account["rows_in_sidecars"]
    if "read" in account:
        assert (
            rows == account["read"] + sum(account["unreadable"].values()) + account["without_image"]
        )
    if "written" in account:
        dropped = account["dropped_by_condition"] + account["dropped_by_null"]
        assert rows == account["written"] + dropped + account["missing"]


@pytest.mark.parametrize("name", SITUATIONS)
def test_nothing_is_lost_in_silence(made, tmp_path, client, name):
    rows, images, faults = SITUATIONS[name]
    folder = made(name)
    scheduler = ["--scheduler", client.scheduler.address, "--json"]
    code, out, err = invoke("stats", folder, "--output", tmp_path / "out", *scheduler)
    assert code == (0 if images else 3), err
    record = json.loads(out)
    check_sums(record)
    account = record["account"]
    assert (account["rows_in_sidecars"], account["with_image"]) == (rows, images)
    assert account["read"] == images
    assert account["faults"] == faults
    for kind in faults:
        assert f": {kind}" in err
    run = json.loads((tmp_path / "out/_run.json").read_text())
    assert (run["command"], run["account"]) == ("stats", account)

    code, out, _ = invoke("inspect", folder, *scheduler)
    assert code == (0 if images else 3)
    assert json.loads(out)["counts"].items() >= faults.items()

    where = ["--where", "width > 0", "--output", tmp_path / "clean"]
    code, out, err = invoke("filter", tmp_path / "out", *where, *scheduler)
    assert code == (0 if images else 3), err
    record = json.loads(out)
    check_sums(record)
    assert record["account"]["written"] == images
    assert record["account"]["dropped_by_null"] == rows - images


def test_a_tar_that_was_still_written(made):
    folder = made("cut")
    assert invoke("stats", folder)[0] == 0
    (folder / "00000.tar").write_bytes((folder / "full").read_bytes())
    code, out, err = invoke("stats", folder, "--json")
    assert (code, json.loads(out)["samples"]) == (0, 5)
    assert "when that had another size" in err


def test_columns_of_a_hugging_face_cache(made):
    folder = made("linked")
    ds = ImageTextPairDataset.from_webdataset(folder)
    assert list(ds.metadata.columns) == ["key", "shard", "caption", "similarity"]
    assert len(ImageTextPairDataset.from_webdataset(folder / "*.tar").tar_files) == 1


def test_drawings_that_differ_in_alpha(made, tmp_path):
    ds = ImageTextPairDataset.from_webdataset(made("alpha_art"))
    marked = ExactDedup("pixels", work_dir=tmp_path / "work")(ds)
    assert marked.metadata.is_duplicate.sum().compute() == 0


def test_pages_are_kept(made, tmp_path):
    ds = ImageTextPairDataset.from_webdataset(made("pages"))
    marked = PerceptualDedup(work_dir=tmp_path / "work")(ds)
    assert len(marked.filter("not is_duplicate")) == 20


def test_one_text_among_numbers_is_named(made, caplog):
    ds = ImageTextPairDataset.from_webdataset(made("mixed_json"))
    assert ds.metadata.width.compute().dropna().tolist() == [512, 640, 800]
    for word in ("width", "n/a", "00000.tar", " 2"):
        assert word in caplog.text


def test_the_member_can_be_chosen(made):
    ds = ImageTextPairDataset.from_webdataset(made("dotted"), image_member="input.jpg")
    assert ds.image("s0").format == "JPEG"


@pytest.mark.parametrize("name", ["png", "extensions"])
def test_every_picture_can_be_looked_at(made, name):
    ds = ImageTextPairDataset.from_webdataset(made(name))
    assert ds.show().html.count("<img") == 5
    for key in ds.metadata.key.compute():
        assert ds.image(key).size == (160, 120)


def test_packing(made, tmp_path):
    code, out, err = invoke("pack", made("loose"), "--output", tmp_path / "a", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert (record["samples"], sum(record["left_out"].values())) == (7, 1)
    assert json.loads((tmp_path / "a/_run.json").read_text())["left_out"] == record["left_out"]

    code, out, err = invoke("pack", made("files_format"), "--output", tmp_path / "b", "--json")
    assert (code, json.loads(out)["captioned"]) == (0, 3)
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "b")
    assert ds.metadata.caption.compute().tolist() == ["caption 0", "caption 1", "caption 2"]
    assert ds.metadata.width.compute().tolist() == [160] * 3

    folder = made("csvs")
    for name, told in (("commas", "line 2"), ("other_names", "photo_0.jpg")):
        words = ("pack", folder / "img", "--captions", folder / f"{name}.csv")
        code, _, err = invoke(*words, "--output", tmp_path / name)
        assert (code, told in err) == (1, True)


def test_what_is_no_dataset_says_what_to_do(made):
    code, _, err = invoke("stats", made("urls"))
    assert (code, "img2dataset --url_list" in err) == (1, True)
    code, _, err = invoke("stats", made("files_format"))
    assert (code, "nemo-image-curate pack" in err) == (1, True)
