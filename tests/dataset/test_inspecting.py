"""inspect_dataset counts and names every kind of fault."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.inspecting import MAX_NAMED, inspect_dataset
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar


def inspect(root: Path | str) -> dict:
    return inspect_dataset(ImageTextPairDataset.from_webdataset(root))


def faults(report: dict) -> list[tuple[str, str, str]]:
    return [(one["shard"], one["kind"], one["key"]) for one in report["faults"]]


@pytest.mark.parametrize("sidecars", [True, False])
def test_a_clean_dataset(tmp_path, sidecars):
    make_dataset(tmp_path, sizes=[3, 0, 2], sidecars=sidecars)
    report = inspect(tmp_path)
    assert report["path"] == str(tmp_path)
    assert (report["shards"], report["samples"]) == (3, 5)
    assert report["columns"]["caption"] == "string"
    assert report["columns"]["width"] == "int64"
    assert (report["counts"], report["faults"]) == ({}, [])


def truncated(root: Path) -> None:
    path = write_tar(root / "a.tar", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    path.write_bytes(path.read_bytes()[: 512 + 1024 + 700])


def corrupt(root: Path) -> None:
    path = write_tar(root / "a.tar", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    with tarfile.open(path) as tar:
        offset = tar.getmember("b.jpg").offset
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def empty_file(root: Path) -> None:
    write_tar(root / "b.tar", [("a.jpg", jpeg(1))])
    (root / "a.tar").touch()


def sparse(root: Path) -> None:
    with tarfile.open(root / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "a.jpg"}
        info.size = 4
        tar.addfile(info, io.BytesIO(b"1234"))


def rows(root: Path, *keys: str | None) -> None:
    write_tar(root / "a.tar", [("a.jpg", jpeg(1)), ("a.txt", b"text"), ("b.txt", b"no image")])
    write_sidecar(root / "a.parquet", {"key": list(keys)})


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (truncated, [("a.tar", "truncated", "b")]),
        (corrupt, [("a.tar", "corrupt", "")]),
        (empty_file, [("a.tar", "truncated", "")]),
        (sparse, [("a.tar", "sparse", "a")]),
        (
            lambda root: write_tar(root / "a.tar", [("a.jpg", b"1"), ("a.jpg", b"2")]),
            [("a.tar", "duplicate", "a")],
        ),
        (
            lambda root: write_tar(
                root / "a.tar", [("a.jpg", b""), ("b.jpg", b""), ("a.txt", b""), ("b.txt", b"")]
            ),
            [("a.tar", "interleaved", "a"), ("a.tar", "interleaved", "b")],
        ),
        (
            lambda root: write_tar(root / "a.tar", [("README", b""), ("a.jpg", b"")]),
            [("a.tar", "unnamed", "README")],
        ),
        (
            lambda root: write_tar(root / "a.tar", [("a.jpg", b""), ("a.json", b"{")]),
            [("a.tar", "json", "a")],
        ),
        (
            lambda root: write_tar(root / "a.tar", [("a.jpg", b""), ("a.json", b"[1]")]),
            [("a.tar", "json", "a")],
        ),
        (lambda root: rows(root, "a"), [("a.tar", "no row", "b")]),
        (lambda root: rows(root, "a", "b"), [("a.tar", "no image", "b")]),
        (
            lambda root: rows(root, "a", "b", "c", "a", None),
            [
                ("a.tar", "no image", "b"),
                ("a.tar", "missing", "c"),
                ("a.tar", "duplicate row", "a"),
                ("a.tar", "missing", ""),
            ],
        ),
    ],
)
def test_each_kind_of_fault(tmp_path, make, expected):
    make(tmp_path)
    report = inspect(tmp_path)
    assert faults(report) == expected
    counts: dict[str, int] = {}
    for _, kind, _ in expected:
        counts[kind] = counts.get(kind, 0) + 1
    assert report["counts"] == counts
    assert all(one["detail"] for one in report["faults"])


def test_sidecar_without_tar(tmp_path):
    make_dataset(tmp_path, sizes=[1])
    write_sidecar(tmp_path / "x.parquet", {"key": ["a"]})
    assert faults(inspect(tmp_path)) == [(str(tmp_path / "x.parquet"), "no tar", "")]


def test_many_faults_are_all_counted_and_some_named(tmp_path):
    number = MAX_NAMED + 20
    write_tar(tmp_path / "a.tar", [("a.jpg", b"")])
    write_sidecar(tmp_path / "a.parquet", {"key": ["a", *(f"x{n}" for n in range(number))]})
    report = inspect(tmp_path)
    assert report["counts"] == {"missing": number}
    assert len(report["faults"]) == MAX_NAMED


def test_tars_that_vanished_are_reported_and_the_others_looked_through(tmp_path):
    make_dataset(tmp_path, sizes=[2, 2])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    (tmp_path / "00000.tar").unlink()
    report = inspect_dataset(dataset)
    assert report["counts"] == {"unreadable": 1}
    assert report["faults"][0]["shard"] == "00000.tar"
    assert "does not exist" in report["faults"][0]["detail"]


def test_saved_parts_with_rows_of_many_shards(tmp_path):
    made = make_dataset(tmp_path / "tars", sizes=[3, 3])
    dataset = ImageTextPairDataset.from_webdataset(made.root)
    sorted_rows = dataset.replace(dataset.metadata.sort_values("score"))
    saved = sorted_rows.save_metadata(tmp_path / "meta")
    report = inspect_dataset(saved)
    assert (report["shards"], report["samples"], report["counts"]) == (2, 6, {})


def test_names_in_another_encoding(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("caf\udce9.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    report = inspect(tmp_path)
    assert (report["samples"], report["counts"]) == (1, {})


@pytest.mark.usefixtures("client")
def test_on_a_cluster(tmp_path):
    make_dataset(tmp_path, sizes=[2, 2])
    (tmp_path / "00001.tar").write_bytes(b"")
    assert inspect(tmp_path)["counts"] == {"missing": 2, "truncated": 1}


def test_texts_of_a_sidecar_that_are_no_utf8(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.jpg", jpeg(1)), ("2.jpg", jpeg(2))])
    captions = pa.array([b"ok", b"caf\xe9"]).view(pa.string())
    write_sidecar(tmp_path / "a.parquet", {"key": ["1", "2"], "caption": captions})
    report = inspect(tmp_path)
    assert faults(report) == [("a.tar", "encoding", "2")]
    assert report["faults"][0]["detail"] == "its 'caption' in row 1 of the sidecar is not UTF-8"
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    assert dataset.head().caption.tolist() == ["ok", "caf\ufffd"]
