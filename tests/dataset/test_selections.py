"""to_selection: which rows a file lists, how often, and what becomes of a file that is there."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from nemo_image_curate.dataset.selections import SelectionSummary
from nemo_image_curate.errors import ConfigError, DatasetError, JobError
from tests.dataset.opened import open_dataset


def listed(rows: list[dict], **more: list) -> pd.DataFrame:
    return pd.DataFrame({name: [row[name] for row in rows] for name in ("key", "shard")} | more)


def test_rows_of_a_filtered_frame(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend).filter("width > 32")
    done = dataset.to_selection(tmp_path / "chosen.parquet")
    rows = [row for row in made.rows if row["width"] > 32]
    path, dropped = str(tmp_path / "chosen.parquet"), {"width > 32": 3}
    assert done == SelectionSummary(path, 9, 9, 3, 0, {}, 0, dropped)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "chosen.parquet"), listed(rows))
    assert sorted(os.listdir(tmp_path)) == ["chosen.parquet", "tars"]


def test_a_filter_column_and_how_often(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    frame = dataset.metadata
    frame["good"] = (frame.score > 2).where(frame.width != 33, None)
    frame["copies"] = (frame.width - 33.0).where(frame.width != 35, None)
    frame = frame[frame.width != 32]
    done = dataset.replace(frame).to_selection(tmp_path / "chosen", "good", "copies")
    good = [row for row in made.rows if row["score"] > 2 and row["width"] > 33]
    rows = [row for row in good if row["width"] != 35]
    copies = [row["width"] - 33 for row in rows]
    expected = listed(rows, multiplicity=copies)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "chosen"), expected)
    assert (done.rows, done.samples, done.filtered) == (len(rows), sum(copies), 9 - len(rows))
    assert done.null_columns == {"good": 3, "copies": len(good) - len(rows)}
    assert done.null == sum(done.null_columns.values())


def test_columns_that_are_called_as_a_selections_own_are_taken(made, tmp_path):
    dataset = open_dataset(made.root)
    dataset.metadata = dataset.metadata.assign(multiplicity=2, weight=dataset.metadata.score)
    done = dataset.to_selection(tmp_path / "chosen.parquet")
    rows = [row for row in made.rows if row["score"] > 0]
    expected = listed(rows, multiplicity=[2] * len(rows), weight=[row["score"] for row in rows])
    pd.testing.assert_frame_equal(pd.read_parquet(done.path), expected)
    assert 0 < done.filtered == len(made.rows) - len(rows)


@pytest.mark.parametrize(
    ("column", "argument", "message"),
    [
        (-1, "multiplicity", r"'n' holds -1 for the sample 000000000 of 00000\.tar: .* whole"),
        (1.5, "multiplicity", r"'n' holds 1\.5 for"),
        (float("inf"), "multiplicity", "'n' holds inf for"),
        (-0.5, "weight", r"'n' holds -0\.5 for the sample .* finite number"),
        (float("inf"), "weight", "'n' holds inf for"),
    ],
)
def test_impossible_numbers(made, tmp_path, column, argument, message):
    dataset = open_dataset(made.root)
    dataset.metadata["n"] = column
    with pytest.raises(JobError, match=message):
        dataset.to_selection(tmp_path / "chosen", **{argument: "n"})
    assert not (tmp_path / "chosen").exists()


def test_a_column_of_texts_says_not_how_often(made, tmp_path):
    with pytest.raises(ConfigError, match="multiplicity column 'caption' is string, not numbers"):
        open_dataset(made.root).to_selection(tmp_path / "chosen", multiplicity="caption")


def test_one_file_for_any_number_of_workers_and_after_a_stop(made, tmp_path, request):
    dataset = open_dataset(made.root).filter("width > 32")
    path = tmp_path / "chosen.parquet"
    dataset.to_selection(path)
    content, time = path.read_bytes(), path.stat().st_mtime_ns
    again = open_dataset(made.root).filter("width > 32").to_selection(path)
    assert (again.rows, path.stat().st_mtime_ns) == (9, time)
    # A stopped run leaves parts.
    path.unlink()
    parts = tmp_path / "chosen.parquet.parts"
    parts.mkdir()
    (parts / "part-00001.parquet").write_bytes(content[:100])
    request.getfixturevalue("client")
    assert open_dataset(made.root).filter("width > 32").to_selection(path).rows == 9
    assert path.read_bytes() == content
    # Of other rows.
    assert open_dataset(made.root).filter("width == 32").to_selection(path).rows == 3
    assert not parts.exists()


def test_what_is_no_selection_stays(made, tmp_path):
    sidecar = made.root / "00000.parquet"
    before = sidecar.read_bytes()
    with pytest.raises(DatasetError, match="exists and is no selection"):
        open_dataset(made.root).to_selection(sidecar)
    assert sidecar.read_bytes() == before
    with pytest.raises(DatasetError, match="is a folder"):
        open_dataset(made.root).to_selection(made.root)


def test_nothing_chosen_and_rows_that_are_nowhere(made, tmp_path):
    dataset = open_dataset(made.root)
    assert dataset.filter("width < 0").to_selection(tmp_path / "none").rows == 0
    assert list(pd.read_parquet(tmp_path / "none").columns) == ["key", "shard"]
    frame = dataset.metadata
    dataset.metadata = frame.assign(shard=frame.shard.where(frame.width > 32))
    done = dataset.to_selection(tmp_path / "some")
    assert (done.rows, done.missing) == (9, 3)


def test_ids_of_another_name_and_a_bucket(made, tmp_path, bucket):
    dataset = open_dataset(made.root)
    dataset.metadata = dataset.metadata.rename(columns={"key": "uid"})
    dataset.id_col = "uid"
    path = f"{bucket()}/chosen.parquet"
    assert dataset.to_selection(path).rows == len(made.rows)
    pd.testing.assert_frame_equal(pd.read_parquet(path), listed(made.rows))
