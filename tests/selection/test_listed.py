"""SelectionFile: the rows that a file lists, found again however the dataset lies."""

from __future__ import annotations

import pandas as pd
import pytest

from nemo_image_curate import SelectionFile
from nemo_image_curate.errors import DatasetError, NotFoundError, SchemaError
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


def test_a_sample_that_is_listed_twice_is_refused(made, tmp_path):
    row = {"key": "1", "shard": next(made.root.glob("*.tar")).name}
    pd.DataFrame([row, row]).to_parquet(tmp_path / "twice")
    ds = SelectionFile(tmp_path / "twice")(open_dataset(made.root))
    with pytest.raises(DatasetError, match=r"lists the sample .* more than once"):
        ds.metadata.compute()
