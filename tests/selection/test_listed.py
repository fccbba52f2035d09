"""SelectionFile: the rows that a file lists, found again however the dataset lies."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import SelectionFile
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    NotFoundError,
    SchemaError,
)
from tests.dataset.opened import open_dataset, rows_of
from tests.make_data import make_dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    # Keys that come in every shard.
    made = make_dataset(tmp_path_factory.mktemp("listed") / "tars", sizes=[4, 5, 3])
    for number, name in enumerate(sorted(path.name for path in made.root.glob("*.parquet"))):
        table = pd.read_parquet(made.root / name)
        table["key"] = [f"{row}" for row in range(len(table))]
        table["n"] = number
        table.to_parquet(made.root / name)
    return made


def test_rows_are_found_in_any_partitioning(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    dataset.metadata["multiplicity"] = dataset.metadata.n + 1
    dataset.metadata["weight"] = dataset.metadata.width / 64
    dataset.filter("key == '1' or n == 2").to_selection(tmp_path / "chosen")
    expected = {
        (row["key"], row["shard"]): (row["n"] + 1, row["width"] / 64)
        for row in rows_of(dataset)
        if row["key"] == "1" or row["n"] == 2
    }
    assert len(expected) == 5
    stage = SelectionFile(tmp_path / "chosen")
    assert stage.listed() == 5
    fresh = open_dataset(made.root, backend=backend)
    spread = fresh.replace(fresh.metadata.sort_values("width").repartition(npartitions=2))
    for marked in (stage(fresh), stage(spread)):
        rows = rows_of(marked)
        assert len(rows) == 12
        for row in rows:
            copies, weight = expected.get((row["key"], row["shard"]), (0, None))
            assert (row["selected"], row["multiplicity"], row["weight"]) == (
                *(copies > 0, copies, weight),
            )
        assert marked.provenance["selected"]["stage"] == "SelectionFile"


def test_another_content_is_another_result(made, tmp_path):
    dataset, path = open_dataset(made.root), tmp_path / "chosen"
    dataset.filter("key == '1'").to_selection(path)
    SelectionFile(path)(dataset).save_metadata(tmp_path / "saved")
    dataset.filter("key == '2'").to_selection(path)
    saved = SelectionFile(path)(dataset).save_metadata(tmp_path / "saved")
    assert {row["key"] for row in rows_of(saved.filter("selected"))} == {"2"}
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "saved").glob("*.parquet")}
    moved = path.rename(tmp_path / "moved")
    SelectionFile(moved)(dataset).save_metadata(tmp_path / "saved")
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_other_files_are_refused(made, tmp_path):
    pd.DataFrame({"key": ["1"]}).to_parquet(tmp_path / "keys")
    with pytest.raises(SchemaError, match="no column 'shard' of texts, only: key"):
        SelectionFile(tmp_path / "keys")(open_dataset(made.root))
    with pytest.raises(NotFoundError):
        SelectionFile(tmp_path / "none")(open_dataset(made.root))


def test_a_selection_of_another_dataset_is_told(made, tmp_path, caplog, backend):
    dataset = open_dataset(made.root, backend=backend)
    shard = next(made.root.glob("*.tar")).name
    for keys, shards, told in [
        (["1", "2"], ["x/0.tar", "x/1.tar"], "lists 2 rows of 2 shards, none of which is one of"),
        (["1"], [f"more/{shard}"], "none of which is one of the dataset's 3: no row is selected"),
        (["a", "b"], [shard, shard], f"lists 2 rows of {shard}, none of which is among its"),
        ([], [], "lists 0 rows of 0 shards"),
        (["a", "1"], [shard, shard], None),
        (["1", "1"], ["x/0.tar", shard], None),
    ]:
        caplog.clear()
        table = pa.table({"key": pa.array(keys, "string"), "shard": pa.array(shards, "string")})
        pq.write_table(table, tmp_path / "chosen")
        marked = SelectionFile(tmp_path / "chosen")(dataset)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == (told is not None)
        assert told is None or told in messages[0]
        assert sum(row["selected"] for row in rows_of(marked)) == (told is None)
    # What a condition dropped is in the dataset all the same.
    SelectionFile(tmp_path / "chosen")(dataset.filter("key == '0'"))
    assert not caplog.records


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Rows with the uids of DataComp's pools, of which one is null and one is none."""
    made = make_dataset(tmp_path_factory.mktemp("uids") / "tars", sizes=[4, 0, 3])
    for name in sorted(path.name for path in made.root.glob("*.parquet")):
        table = pd.read_parquet(made.root / name)
        uids = [hashlib.md5(key.encode()).hexdigest() for key in table["key"]]
        table["uid"] = pd.Series(uids, dtype="string")
        if len(table) == 4:
            table.loc[0, "uid"], table.loc[1, "uid"] = None, "no uid"
        table.to_parquet(made.root / name)
    return made.root


def test_a_list_of_uids_is_what_datacomps_resharder_takes(pool, tmp_path, backend, request):
    dataset = open_dataset(pool, backend=backend)
    uids = {row["key"]: row["uid"] for row in rows_of(dataset)[2:]}
    dataset.metadata["copies"] = dataset.metadata.width - 32
    copies = {row["key"]: row["copies"] for row in rows_of(dataset)}
    chosen = dataset.filter("uid.str.len() == 32 and copies > 0")
    path = tmp_path / "subset.npy"
    done = chosen.to_selection(path, multiplicity="copies", column="uid")
    # As the example in its README.
    taken = [uid for key, uid in uids.items() for _ in range(copies[key])]
    expected = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in taken], "u8,u8")
    expected.sort()
    listed = np.load(path)
    assert listed.dtype == expected.dtype
    assert listed.tolist() == expected.tolist()
    assert done.samples == len(expected) > done.rows
    assert sorted(os.listdir(tmp_path)) == ["subset.npy"]
    stage = SelectionFile(path, column="uid")
    assert stage.listed() == done.rows
    marked = {row["key"]: row for row in rows_of(stage(dataset))}
    assert len(marked) == 7
    for key, row in marked.items():
        times = copies[key] if key in uids else 0
        assert (row["selected"], row["multiplicity"]) == (times > 0, times)
    content = path.read_bytes()
    request.getfixturevalue("client")
    chosen.to_selection(path, multiplicity="copies", column="uid")
    assert path.read_bytes() == content


def test_what_is_no_list_of_uids(pool, tmp_path):
    dataset = open_dataset(pool)
    path = tmp_path / "subset.npy"
    with pytest.raises(ConfigError, match=r"needs both a name that ends in \.npy and the column"):
        dataset.to_selection(path)
    with pytest.raises(ConfigError, match=r"needs both a name"):
        dataset.to_selection(tmp_path / "subset.parquet", column="uid")
    with pytest.raises(ConfigError, match=r"column 'width' is .*int64, not texts of 32"):
        dataset.to_selection(path, column="width")
    with pytest.raises(ConfigError, match="has no weights"):
        dataset.to_selection(path, weight="width", column="uid")
    with pytest.raises(
        DatasetError, match=r"'uid' holds None for the sample 000000000 of 00000\.tar"
    ):
        dataset.to_selection(path, column="uid")
    with pytest.raises(ColumnNotFoundError):
        dataset.to_selection(path, column="uids")
    np.save(path, np.zeros(3))
    with pytest.raises(SchemaError, match="an array of float64 with shape"):
        SelectionFile(path, column="uid")(dataset)
    with pytest.raises(DatasetError, match="exists and is no selection"):
        dataset.filter("uid.str.len() == 32").to_selection(path, column="uid")
    with pytest.raises(ConfigError, match=r"as in SelectionFile\('subset.npy', column='uid'\)"):
        SelectionFile(path)(dataset)
    (tmp_path / "text").write_text("000000001")
    with pytest.raises(SchemaError, match="text is no selection, a Parquet file with the columns"):
        SelectionFile(tmp_path / "text")(dataset)


def test_a_sample_that_is_listed_twice_is_refused(made, tmp_path):
    row = {"key": "1", "shard": next(made.root.glob("*.tar")).name}
    pd.DataFrame([row, row]).to_parquet(tmp_path / "twice")
    ds = SelectionFile(tmp_path / "twice")(open_dataset(made.root))
    with pytest.raises(DatasetError, match=r"lists the sample .* more than once"):
        ds.metadata.compute()
