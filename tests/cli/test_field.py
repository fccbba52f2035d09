"""What people meet: every situation through the commands, where all that is lost is told.

The situations are built by the data's own script; `docs/what_people_meet.md` says what is done with
each kind, and the tests of the modules have their variants.
"""

from __future__ import annotations

import importlib.util
import json
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
def test_nothing_is_lost_in_silence(run, made, tmp_path, name):
    rows, images, faults = SITUATIONS[name]
    folder = made(name)
    code = 0 if images else 3
    record = json.loads(run("stats", folder, "--output", tmp_path / "out", "--json", code=code))
    check_sums(record)
    account = record["account"]
    assert (account["rows_in_sidecars"], account["with_image"]) == (rows, images)
    assert account["read"] == images
    assert account["faults"] == faults
    for kind in faults:
        assert f": {kind}" in run.stderr
    record = json.loads((tmp_path / "out/_run.json").read_text())
    assert (record["command"], record["account"]) == ("stats", account)

    counts = json.loads(run("inspect", folder, "--json", code=code))["counts"]
    assert counts.items() >= faults.items()

    where = ["--where", "width > 0", "--output", tmp_path / "clean"]
    record = json.loads(run("filter", tmp_path / "out", *where, "--json", code=code))
    check_sums(record)
    assert record["account"]["written"] == images
    assert record["account"]["dropped_by_null"] == rows - images


def test_a_tar_that_was_still_written(run, made):
    folder = made("cut")
    run("stats", folder)
    (folder / "00000.tar").write_bytes((folder / "full").read_bytes())
    assert json.loads(run("stats", folder, "--json"))["samples"] == 5
    assert "when that had another size" in run.stderr


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


def test_packing(run, made, tmp_path):
    def pack(*words: object, code: int = 0) -> str:
        return run("pack", *words, "--json", code=code, cluster=False)

    record = json.loads(pack(made("loose"), "--output", tmp_path / "a"))
    assert (record["samples"], sum(record["left_out"].values())) == (7, 1)
    assert json.loads((tmp_path / "a/_run.json").read_text())["left_out"] == record["left_out"]

    record = json.loads(pack(made("files_format"), "--output", tmp_path / "b"))
    assert record["captioned"] == 3
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "b")
    assert ds.metadata.caption.compute().tolist() == ["caption 0", "caption 1", "caption 2"]
    assert ds.metadata.width.compute().tolist() == [160] * 3

    folder = made("csvs")
    for name, expected in (("commas", "line 2"), ("other_names", "photo_0.jpg")):
        table = folder / f"{name}.csv"
        told = pack(folder / "img", "--captions", table, "--output", tmp_path / name, code=1)
        assert expected in told


def test_what_is_no_dataset_says_what_to_do(run, made):
    assert "img2dataset --url_list" in run("stats", made("urls"), code=1)
    assert "nemo-image-curate pack" in run("stats", made("files_format"), code=1)
