"""Every way to name a dataset, with and without sidecars."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import DatasetError, SchemaError
from nemo_image_curate.frames import to_arrow
from tests.dataset.opened import open_dataset, rows_of
from tests.make_data import Truth, fields_of, jpeg, make_dataset, write_sidecar, write_tar


def check(dataset: ImageTextPairDataset, truth: Truth) -> None:
    columns = list(dataset.metadata.columns)
    assert sorted(columns) == ["caption", "key", "score", "shard", "url", "width"]
    assert columns[:2] == ["key", "shard"]
    assert rows_of(dataset) == [{name: row[name] for name in columns} for row in truth.rows]


@pytest.mark.parametrize("sidecars", [True, False, [True, False, True], [False, True, True]])
def test_sidecars_are_optional(tmp_path, backend, sidecars):
    truth = make_dataset(tmp_path, sizes=[3, 1, 4], sidecars=sidecars)
    dataset = open_dataset(tmp_path, backend=backend)
    assert dataset.backend == backend
    check(dataset, truth)
    assert dataset.metadata.npartitions == 3
    assert [len(part) for part in dataset.metadata.partitions] == [3, 1, 4]


@pytest.mark.parametrize(
    "spell",
    [
        lambda root: str(root),
        lambda root: root,
        lambda root: f"{root}/",
        lambda root: f"file://{root}",
        lambda root: f"{root}/*.tar",
        lambda root: f"{root}/0000?.tar",
        lambda root: f"{root}/{{00000..00002}}.tar",
        lambda root: f"{root}/{{00000,00001,00002}}.tar",
        lambda root: [f"{root}/00000.tar", f"{root}/00001.tar", f"{root}/00002.tar"],
        lambda root: [root / "00000.tar", f"{root}/0000[12].tar"],
        lambda root: [f"{root}/*.tar", f"{root}/00000.tar"],
    ],
)
def test_all_forms_of_a_path(tmp_path, spell):
    truth = make_dataset(tmp_path / "data")
    check(open_dataset(spell(tmp_path / "data")), truth)


def test_relative_path(tmp_path, monkeypatch):
    truth = make_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset("data")
    monkeypatch.chdir("/")
    check(dataset, truth)


def test_shards_in_subfolders_with_dots_and_spaces(tmp_path):
    for folder in ("a b/v1.0", "ü/[1]"):
        make_dataset(tmp_path / folder, sizes=[2, 2])
    dataset = open_dataset(tmp_path)
    shards = [row["shard"] for row in rows_of(dataset)]
    assert shards[::2] == [
        "a b/v1.0/00000.tar",
        "a b/v1.0/00001.tar",
        "ü/[1]/00000.tar",
        "ü/[1]/00001.tar",
    ]
    assert "url" in dataset.metadata.columns
    assert dataset.image("000000001", shard="ü/[1]/00000.tar").size == (32, 24)


def test_shards_of_several_folders_have_their_common_folder_as_root(tmp_path):
    make_dataset(tmp_path / "a" / "x", sizes=[1])
    make_dataset(tmp_path / "a" / "y", sizes=[1])
    dataset = open_dataset([tmp_path / "a" / "x", f"{tmp_path}/a/y/*.tar"])
    assert dataset.path == str(tmp_path / "a")
    assert [row["shard"] for row in rows_of(dataset)] == ["x/00000.tar", "y/00000.tar"]


def test_s3(tmp_path, bucket):
    import fsspec

    root = bucket()
    truth = make_dataset(tmp_path, sizes=[2, 2, 2], sidecars=[True, False, True])
    fsspec.filesystem("s3").put(str(tmp_path) + "/", f"{root}/data", recursive=True)
    for path in (
        f"{root}/data",
        f"{root}/data/",
        f"{root}/data/*.tar",
        f"{root}/data/{{00000..00002}}.tar",
        [f"{root}/data/0000{n}.tar" for n in range(3)],
    ):
        dataset = open_dataset(path)
        assert dataset.path == f"{root}/data"
        check(dataset, truth)
    key, shard = truth.rows[3]["key"], truth.rows[3]["shard"]
    assert dataset.image(key, shard).size == (32, 24)
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(f"{root}/nothing")


@pytest.mark.parametrize(
    ("spell", "message"),
    [
        (lambda root: root / "absent", r"absent does not exist"),
        (lambda root: root / "absent.tar", r"shard .*absent\.tar does not exist"),
        (lambda root: f"{root}/absent*.tar", r"no \.tar shards under"),
        (lambda root: [], r"the list is empty"),
        (lambda root: [root / "00000.tar", root / "00009.tar"], r"00009\.tar does not exist"),
        (lambda root: f"{root}/{{00000..00003}}.tar", r"00003\.tar does not exist"),
        (lambda root: root / "00000.parquet", r"neither a folder nor a \.tar"),
        (lambda root: root / "empty", r"no \.tar shards.*pack IMAGES"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, spell, message):
    make_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=message):
        open_dataset(spell(tmp_path))


def test_a_broken_sidecar_is_named(tmp_path):
    make_dataset(tmp_path)
    (tmp_path / "00001.parquet").write_bytes(b"half")
    with pytest.raises(DatasetError, match=r"00001\.parquet is not a readable Parquet file"):
        open_dataset(tmp_path)


def test_empty_and_one_row_shards(tmp_path, backend):
    for sidecars in (True, False):
        root = tmp_path / str(sidecars)
        truth = make_dataset(root, sizes=[0, 1, 0, 3], sidecars=sidecars)
        dataset = open_dataset(root, backend=backend)
        check(dataset, truth)
        assert [len(part) for part in dataset.metadata.partitions] == [0, 1, 0, 3]
    make_dataset(tmp_path / "nothing", sizes=[0], sidecars=False)
    assert len(open_dataset(tmp_path / "nothing")) == 0


def test_schemas_are_unified(tmp_path, backend):
    make_dataset(tmp_path, sizes=[2, 2, 2], sidecars=False, with_json=False, text=False)
    keys = [[fields_of(shard, number)["key"] for number in range(2)] for shard in range(3)]
    write_sidecar(tmp_path / "00000.parquet", {"key": keys[0], "x": [1, 2], "n": pa.nulls(2)})
    second = {
        "x": [1.5, None],
        "key": pa.array(keys[1], pa.large_string()),
        "n": pa.array(["a", "b"]).dictionary_encode(),
        "e": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)),
    }
    write_sidecar(tmp_path / "00001.parquet", second)
    dataset = open_dataset(tmp_path, backend=backend)
    assert rows_of(dataset.select(["x", "n", "e"])) == [
        {"key": keys[0][0], "shard": "00000.tar", "x": 1.0, "n": None, "e": None},
        {"key": keys[0][1], "shard": "00000.tar", "x": 2.0, "n": None, "e": None},
        {"key": keys[1][0], "shard": "00001.tar", "x": 1.5, "n": "a", "e": [1.0, 2.0]},
        {"key": keys[1][1], "shard": "00001.tar", "x": None, "n": "b", "e": [1.0, 2.0]},
        {"key": keys[2][0], "shard": "00002.tar", "x": None, "n": None, "e": None},
        {"key": keys[2][1], "shard": "00002.tar", "x": None, "n": None, "e": None},
    ]
    found = to_arrow(dataset.metadata.compute()).schema
    assert to_arrow(dataset.metadata._meta).schema == found
    write_sidecar(tmp_path / "00002.parquet", {"key": keys[2], "x": ["one", "two"]})
    with pytest.raises(SchemaError, match=r"00002\.parquet: column 'x' is string, but double"):
        open_dataset(tmp_path)


def test_a_shard_whose_scores_are_all_null(tmp_path, backend):
    """As pandas writes them: with the type null, which says nothing."""
    make_dataset(tmp_path, sizes=[2, 2, 2])
    for shard in (0, 2):
        path = tmp_path / f"{shard:05d}.parquet"
        table = pq.read_table(path)
        place = table.schema.get_field_index("score")
        pq.write_table(table.set_column(place, "score", pa.nulls(2)), path)
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    found = to_arrow(ds.metadata.compute())["score"]
    assert found.type == pa.float64()
    assert [one is None for one in found.to_pylist()] == [True, True, False, False, True, True]


def test_json_fields_of_several_types_in_several_tars(tmp_path):
    for number, value in enumerate(['{"x": 1}', '{"x": "one"}', '{"x": {"y": 2}}', "broken"]):
        members = [("k.jpg", b""), ("k.json", value.encode())]
        write_tar(tmp_path / f"{number}.tar", members)
    assert [row["x"] for row in rows_of(open_dataset(tmp_path))] == ["1", "one", '{"y": 2}', None]


def test_id_column_of_another_name(tmp_path):
    write_tar(tmp_path / "a.tar", [("k 1.jpg", jpeg(1)), ("k 1.json", b'{"key": 5, "uid": 7}')])
    write_sidecar(tmp_path / "a.parquet", {"uid": ["k 1"], "key": [5]})
    dataset = open_dataset(tmp_path, id_col="uid")
    assert rows_of(dataset) == [{"uid": "k 1", "shard": "a.tar", "key": 5}]
    with pytest.raises(DatasetError, match=r"a\.parquet: no column 'uld'. Did you mean 'uid'"):
        open_dataset(tmp_path, id_col="uld")
    with pytest.raises(SchemaError, match=r"column 'key' is int64, but keys are names"):
        open_dataset(tmp_path)
    (tmp_path / "a.parquet").unlink()
    row = {"uid": "k 1", "shard": "a.tar", "key": 5, "uid_original": 7}
    assert rows_of(open_dataset(tmp_path, id_col="uid")) == [row]


def test_a_shard_column_of_the_sidecar_gets_another_name_and_is_told(tmp_path, caplog):
    make_dataset(tmp_path, sizes=[1], sidecars=False)
    write_sidecar(tmp_path / "00000.parquet", {"shard": [17], "key": ["000000000"]})
    row = {"key": "000000000", "shard": "00000.tar", "shard_original": 17}
    assert rows_of(open_dataset(tmp_path)) == [row]
    assert "00000.parquet: renamed: its column 'shard'" in caplog.text


def test_a_sidecar_in_capitals_is_found_and_kept(tmp_path):
    truth = make_dataset(tmp_path, sizes=[2, 1])
    for name in ("00000", "00001"):
        (tmp_path / f"{name}.parquet").rename(tmp_path / f"{name}.PARQUET")
    dataset = open_dataset(tmp_path)
    check(dataset, truth)
    dataset.replace(dataset.metadata.assign(n=dataset.metadata.width + 1)).save_metadata()
    assert list(tmp_path.glob("*.parquet")) == []
    assert "n" in open_dataset(tmp_path).metadata.columns


def test_sidecars_without_tar_are_told_and_left_out(tmp_path, caplog):
    truth = make_dataset(tmp_path)
    write_sidecar(tmp_path / "00009.parquet", {"key": ["x"], "y": [1]})
    dataset = open_dataset(tmp_path)
    check(dataset, truth)
    assert dataset.orphans == [str(tmp_path / "00009.parquet")]
    assert "00009.parquet is left out: a sidecar that has no tar" in caplog.text
    # Of a part of the dataset, the other sidecars are no orphans.
    assert open_dataset(tmp_path / "00000.tar").orphans == [str(tmp_path / "00009.parquet")]


@pytest.mark.parametrize("ending", [".part", ".aria2", ".crdownload", ".LZ4", ".zip"])
def test_tars_that_are_not_read_are_told(tmp_path, ending, caplog):
    truth = make_dataset(tmp_path, sizes=[1])
    unread = tmp_path / f"00001.tar{ending}"
    shutil.copy(tmp_path / "00000.tar", unread)
    (tmp_path / "00000.tar.md5").write_bytes(b"0" * 32)
    dataset = open_dataset(tmp_path)
    check(dataset, truth)
    assert dataset.orphans == [str(unread)]
    assert dataset.account().faults == {"unread": 1}
    assert f"00001.tar{ending} is left out: it is called as a tar that is not" in caplog.text


def test_a_folder_that_is_called_as_a_tar(tmp_path):
    folder = tmp_path / "a.tar"
    truth = make_dataset(folder, sizes=[1])
    check(open_dataset(folder), truth)
    (folder / "00000.tar").unlink()
    (folder / "00000.parquet").unlink()
    (folder / "0.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match="nemo-image-curate pack"):
        open_dataset(folder)


def test_unfinished_files_are_not_seen(tmp_path):
    truth = make_dataset(tmp_path)
    shutil.copy(tmp_path / "00000.tar", tmp_path / ".00007.tar.curate-tmp-ab.tar")
    check(open_dataset(tmp_path), truth)


# --- metadata folders ------------------------------------------------------------------------


def test_sidecars_in_a_folder_of_their_own(tmp_path):
    truth = make_dataset(tmp_path / "tars")
    (tmp_path / "meta").mkdir()
    for path in (tmp_path / "tars").glob("*.parquet"):
        path.rename(tmp_path / "meta" / path.name)
    check(open_dataset(tmp_path / "tars", metadata=tmp_path / "meta"), truth)
    (tmp_path / "meta" / "00001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"(?s)lacks 1 of 3 sidecars.*00001\.parquet.*again"):
        open_dataset(tmp_path / "tars", metadata=tmp_path / "meta")


def test_a_saved_folder_opens_by_itself_and_with_moved_tars(tmp_path):
    truth = make_dataset(tmp_path / "tars")
    open_dataset(tmp_path / "tars").save_metadata(tmp_path / "meta")
    for dataset in (
        open_dataset(tmp_path / "meta"),
        open_dataset(f"{tmp_path}/meta/"),
        open_dataset(tmp_path / "tars", metadata=tmp_path / "meta"),
        open_dataset(f"{tmp_path}/tars/*.tar", metadata=tmp_path / "meta"),
    ):
        check(dataset, truth)
        assert dataset.path == str(tmp_path / "tars")
        assert dataset.image(truth.keys[-1]).size == (32, 24)
    (tmp_path / "tars").rename(tmp_path / "moved")
    with pytest.raises(
        DatasetError, match=r"00000\.tar under .*tars, which does not exist.*metadata="
    ):
        open_dataset(tmp_path / "meta")
    dataset = open_dataset(tmp_path / "moved", metadata=tmp_path / "meta")
    check(dataset, truth)
    assert dataset.image(truth.keys[-1]).size == (32, 24)


def test_a_saved_folder_opens_when_a_folder_above_it_and_the_tars_was_renamed(tmp_path):
    truth = make_dataset(tmp_path / "proj" / "tars")
    open_dataset(tmp_path / "proj" / "tars").save_metadata(tmp_path / "proj" / "out" / "meta")
    (tmp_path / "proj").rename(tmp_path / "proj2")
    dataset = open_dataset(tmp_path / "proj2" / "out" / "meta")
    check(dataset, truth)
    assert dataset.path == str(tmp_path / "proj2" / "tars")
    assert dataset.image(truth.keys[-1]).size == (32, 24)
    # It is enough that a tar is where it was: the others are missed there.
    make_dataset(tmp_path / "proj" / "tars", sizes=[1])
    with pytest.raises(DatasetError, match=r"00001\.tar under .*/proj/tars, which does not exist"):
        open_dataset(tmp_path / "proj2" / "out" / "meta")
    shutil.rmtree(tmp_path / "proj")
    (tmp_path / "proj2" / "tars").rename(tmp_path / "elsewhere")
    with pytest.raises(
        DatasetError,
        match=r"00000\.tar under .*/proj/tars, or .*/proj2/tars, which does.*--tars TAR_FOLDER",
    ):
        open_dataset(tmp_path / "proj2" / "out" / "meta")
    check(open_dataset(tmp_path / "elsewhere", metadata=tmp_path / "proj2" / "out" / "meta"), truth)


def test_a_merged_frame_finds_renamed_tars_too(tmp_path):
    truth = make_dataset(tmp_path / "proj" / "tars")
    dataset = open_dataset(tmp_path / "proj" / "tars")
    dataset.metadata = dataset.metadata.repartition(npartitions=1)
    dataset.save_metadata(tmp_path / "proj" / "meta")
    (tmp_path / "proj").rename(tmp_path / "proj2")
    opened = open_dataset(tmp_path / "proj2" / "meta")
    assert opened.image(truth.keys[-1]).size == (32, 24)


def test_what_was_uploaded_as_a_whole_opens_where_it_is_now(tmp_path):
    truth = make_dataset(tmp_path / "proj" / "tars")
    open_dataset(tmp_path / "proj" / "tars").save_metadata(tmp_path / "proj" / "meta")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "proj"), "/uploaded", recursive=True)
    shutil.rmtree(tmp_path / "proj")
    try:
        dataset = open_dataset("memory://uploaded/meta")
        assert dataset.image(truth.keys[-1]).size == (32, 24)
    finally:
        memory.rm("/uploaded", recursive=True)


def test_a_list_of_files_without_a_relative_way_opens(tmp_path):
    truth = make_dataset(tmp_path / "tars")
    open_dataset(tmp_path / "tars").save_metadata(tmp_path / "meta")
    path = tmp_path / "meta" / "_dataset.json"
    manifest = json.loads(path.read_text())
    assert manifest.pop("root_from_here") == "../tars"
    path.write_text(json.dumps(manifest))
    check(open_dataset(tmp_path / "meta"), truth)


def test_an_unfinished_folder_is_refused_with_the_remedy(tmp_path):
    make_dataset(tmp_path / "tars")
    open_dataset(tmp_path / "tars").save_metadata(tmp_path / "meta")
    (tmp_path / "meta" / "00001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"00001\.parquet is listed in .* but does not exist"):
        open_dataset(tmp_path / "meta")
    (tmp_path / "meta" / "_dataset.json").unlink()
    for arguments in ({"path": tmp_path / "meta"}, {"path": "", "metadata": tmp_path / "meta"}):
        with pytest.raises(DatasetError, match=r"did not finish\. Run the same job"):
            open_dataset(**arguments)


def test_a_folder_of_a_later_version_is_refused(tmp_path):
    make_dataset(tmp_path / "tars")
    open_dataset(tmp_path / "tars").save_metadata(tmp_path / "meta")
    path = tmp_path / "meta" / "_dataset.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(DatasetError, match="format 99"):
        open_dataset(tmp_path / "meta")
    path.write_text("{")
    with pytest.raises(DatasetError, match=r"_dataset\.json"):
        open_dataset(tmp_path / "meta")


def without_root_powers() -> list[str]:
    """Root writes where nobody may; without these capabilities it obeys like others."""
    if os.getuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("running as root, and there is no setpriv")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def test_inputs_may_be_read_only(tmp_path):
    make_dataset(tmp_path / "tars", sizes=[2], sidecars=False)
    for path in (tmp_path / "tars").iterdir():
        path.chmod(0o444)
    (tmp_path / "tars").chmod(0o555)
    code = f"""
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import CurateError
dataset = ImageTextPairDataset.from_webdataset({str(tmp_path / "tars")!r})
dataset.save_metadata({str(tmp_path / "meta")!r}).to_webdataset({str(tmp_path / "new")!r})
try:
    dataset.save_metadata()
except CurateError as error:
    print(error)
"""
    command = [*without_root_powers(), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    (tmp_path / "tars").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert "folder of its own" in done.stdout
    assert sorted(os.listdir(tmp_path / "tars")) == ["00000.tar"]
    assert (tmp_path / "new" / "00000.tar").exists()
    assert len(open_dataset(tmp_path / "meta")) == 2


def test_tars_on_several_disks(tmp_path):
    """Folders that have nothing in common but the root of the file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        write_tar(tmp_path / "a.tar", [("x.jpg", jpeg(1)), ("x.txt", b"one")])
        write_tar(Path(other) / "b.tar", [("y.jpg", jpeg(2)), ("y.txt", b"two")])
        dataset = open_dataset([str(tmp_path / "a.tar"), f"{other}/b.tar"])
        assert dataset.path == "/"
        rows = {row["key"]: row for row in to_arrow(dataset.metadata.compute()).to_pylist()}
        assert rows["x"]["shard"] == str(tmp_path / "a.tar").removeprefix("/")
        assert rows["y"]["caption"] == "two"
        assert dataset.image("y").size == (32, 24)
        saved = dataset.save_metadata(tmp_path / "meta")
        assert open_dataset(tmp_path / "meta").image("x").size == (32, 24)
        assert saved.to_webdataset(tmp_path / "new").samples == 2
        dataset.save_metadata()
        assert {path.name for path in Path(other).iterdir()} == {"b.tar", "b.parquet"}


def test_tars_of_several_buckets(bucket, tmp_path):
    roots = [bucket(), bucket()]
    for number, root in enumerate(roots):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.jpg", jpeg(number))])
        fsspec.filesystem("s3").put(str(tmp_path / f"{number}.tar"), f"{root}/{number}.tar")
    dataset = open_dataset([f"{root}/{number}.tar" for number, root in enumerate(roots)])
    assert dataset.path == "s3://"
    assert len(dataset) == 2
    assert dataset.image("1").size == (32, 24)
    saved = dataset.save_metadata(tmp_path / "meta")
    assert open_dataset(tmp_path / "meta").image("0").size == (32, 24)
    assert saved.tar_files == dataset.tar_files


def test_a_place_is_listed_once(tmp_path, monkeypatch):
    make_dataset(tmp_path, sizes=[1, 1])
    listed: list[str] = []
    for name in ("glob", "find"):
        original = getattr(storage, name)

        def counting(location, *rest, original=original):
            listed.append(location)
            return original(location, *rest)

        monkeypatch.setattr(storage, name, counting)
    for path in (str(tmp_path / "*.tar"), [str(tmp_path / "*.tar")]):
        listed.clear()
        assert len(open_dataset(path)) == 2
        assert listed.count(str(tmp_path / "*.tar")) == 1, listed


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".TAR.GZ", ".tar.zst", ".tar.xz", ".tbz2"])
def test_packed_tars_are_found_with_their_sidecars(tmp_path, ending):
    truth = make_dataset(tmp_path, sizes=[2, 1])
    packed = gzip.compress((tmp_path / "00001.tar").read_bytes())
    (tmp_path / f"00001{ending}").write_bytes(packed)
    (tmp_path / "00001.tar").unlink()
    for row in truth.rows[2:]:
        row["shard"] = f"00001{ending}"
    for path in (tmp_path, tmp_path / "*", [tmp_path / "00000.tar", tmp_path / f"00001{ending}"]):
        dataset = open_dataset(path)
        check(dataset, truth)
        assert dataset.orphans == []
    if ending == ending.lower():
        assert open_dataset(tmp_path / "*.tar").orphans == []


def test_a_packed_and_a_plain_tar_of_one_stem_are_refused(tmp_path):
    make_dataset(tmp_path, sizes=[1])
    packed = gzip.compress((tmp_path / "00000.tar").read_bytes())
    (tmp_path / "00000.tar.gz").write_bytes(packed)
    with pytest.raises(DatasetError, match=r"00000\.tar and 00000\.tar\.gz share the sidecar"):
        open_dataset(tmp_path)


def test_what_is_wrong_in_texts_of_tars_is_told_when_they_are_opened(tmp_path, caplog):
    for shard in range(2):
        members = [(f"{n}.json", json.dumps({"w": w}).encode()) for n, w in enumerate((1, 2, "?"))]
        write_tar(tmp_path / f"{shard}.tar", [*members, ("0.jpg", b""), ("0.txt", b"caf\xe9")])
    rows = rows_of(open_dataset(tmp_path))
    assert [row["w"] for row in rows] == [1, 2, None] * 2
    assert "0.tar: mixed 2: 'w' is \"?\"" in caplog.text
    assert "0.tar: encoding 0:" in caplog.text
    assert len(caplog.records) == 2, "one of each kind"


def test_a_column_that_is_text_in_some_tars_is_text_and_told(tmp_path, caplog):
    for shard, values in enumerate(((1, 2, "?"), ("a", "b"))):
        members = [(f"{n}.json", json.dumps({"w": w}).encode()) for n, w in enumerate(values)]
        write_tar(tmp_path / f"{shard}.tar", members)
    rows = rows_of(open_dataset(tmp_path))
    assert [row["w"] for row in rows] == ["1", "2", "?", "a", "b"], "nothing is null for it"
    assert "1.tar: column 'w' is string, but int64 in the shards before it" in caplog.text


def test_nan_in_a_sidecar_is_null(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{key}.jpg", b"") for key in "abc"])
    scores = {"key": ["a", "b", "c"], "score": [float("nan"), 1.5, None], "x": [1.0, 2.0, 3.0]}
    write_sidecar(tmp_path / "a.parquet", scores)
    dataset = open_dataset(tmp_path)
    assert [row["score"] for row in rows_of(dataset)] == [None, 1.5, None]
    assert [row["key"] for row in rows_of(dataset.filter("score != 7"))] == ["b"]
    assert [row["key"] for row in rows_of(dataset.filter("score.isna()"))] == ["a", "c"]


def test_lists_of_a_table_of_pandas_stay_lists(tmp_path):
    made = make_dataset(tmp_path / "tars", sizes=[3, 2])
    vectors = np.random.default_rng(0).standard_normal((4, 1024)).astype("f4")
    own = pd.DataFrame({"key": made.keys[:4], "image_embedding": list(vectors)})
    with dask.config.set({"dataframe.convert-string": None}):
        dataset = open_dataset(made.root)
        merged = dataset.metadata.merge(own, on="key", how="left")
        dataset.replace(merged).save_metadata(tmp_path / "saved")
    files = sorted((tmp_path / "saved").glob("*.parquet"))
    table = pa.concat_tables(pq.read_table(file) for file in files)
    assert table.schema.field("image_embedding").type.value_type == pa.float32()
    saved = dict(zip(table["key"].to_pylist(), table["image_embedding"].to_pylist(), strict=True))
    assert saved == {**dict(zip(made.keys, vectors.tolist(), strict=False)), made.keys[4]: None}


@pytest.mark.parametrize("chosen", [True, False])
def test_what_users_say_of_texts_in_dask_stays(tmp_path, chosen):
    made = make_dataset(tmp_path, sizes=[3])
    with dask.config.set({"dataframe.convert-string": chosen}):
        assert rows_of(open_dataset(made.root))
        assert dask.config.get("dataframe.convert-string") is chosen
