"""Columns that are added in place: what is finished stays so, and nothing is lost untold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageStatistics, ImageTextPairDataset
from nemo_image_curate.errors import ConfigError
from tests.dataset import in_place_job
from tests.dataset.opened import open_dataset, rows_of
from tests.forked import REPOSITORY, Forked
from tests.make_data import Truth, digests, make_dataset, write_sidecar
from tests.make_embedders import LoggingEmbedder, computed


class Work:
    """Looks at the images of a dataset and saves, and counts the images that were looked at."""

    def __init__(self, made: Truth, tmp_path: Path, backend: str):
        self.root, self.meta = made.root, tmp_path / "meta"
        self.log, self.backend = tmp_path / "log", backend

    def open(self, folder: Path | None = None) -> ImageTextPairDataset:
        return open_dataset(folder or self.root, backend=self.backend)

    def __call__(self, change=lambda dataset: dataset, **options) -> int:
        before = computed(self.log)
        stage = LoggingEmbedder(str(self.log), image_stages=[ImageStatistics()])
        change(stage(self.open())).save_metadata(self.meta, **options)
        return computed(self.log) - before

    def add(self, name: str, factor: float = 2.0, **options) -> ImageTextPairDataset:
        """Add a column in place, as users do."""
        dataset = self.open(self.meta)
        dataset.metadata[name] = dataset.metadata["score"] * factor
        return dataset.save_metadata(**options)

    def columns(self) -> list[str]:
        return pq.read_schema(self.meta / "00000.parquet").names


@pytest.fixture
def work(made, tmp_path, backend) -> Work:
    return Work(made, tmp_path, backend)


def test_finished_work_stays_finished(work, made, tmp_path):
    assert work() == 12
    folder = work.add("own")
    with_stage = folder.with_columns(in_place_job.thrice, {"thrice": pa.float64()})
    with_stage.save_metadata()
    with_stage.select([*with_stage.metadata.columns]).save_metadata()
    before = digests(work.meta)
    assert work() == 0
    assert digests(work.meta) == before
    work.add("own")
    assert digests(work.meta) == before, "that is done, too"
    larger = make_dataset(tmp_path / "larger", sizes=[4, 5, 3, 2])
    for path in larger.root.glob("00003.*"):
        path.rename(made.root / path.name)
    assert work() == 2, "of the new shard alone"
    rows = rows_of(work.open(work.meta))
    scores = [row["score"] for row in made.rows]
    assert [row["own"] for row in rows] == [score * 2 for score in scores] + [None] * 2
    assert [row["thrice"] for row in rows[:12]] == pytest.approx([score * 3 for score in scores])
    assert all(row["image_embedding"] for row in rows)


def test_work_whose_columns_were_changed_is_done_again(work):
    work()
    first = digests(work.meta)
    dataset = work.open(work.meta)
    dataset.metadata["sharpness"] = dataset.metadata["sharpness"] * 0
    dataset.save_metadata()
    assert work() == 12
    assert digests(work.meta) == first
    # Whatever else was done is not understood: it may have changed any column.
    dataset = work.open(work.meta)
    dataset.metadata = dataset.metadata.map_partitions(lambda part: part)
    dataset.save_metadata()
    assert work() == 12
    assert digests(work.meta) == first


def test_work_of_which_rows_were_dropped_is_done_again(work, caplog):
    def keep_some(dataset):
        dataset.metadata = dataset.metadata[dataset.metadata["score"] > 3]
        return dataset

    work()
    first, rows = digests(work.meta), len(work.open(work.meta))
    for change in (keep_some, lambda dataset: dataset.filter("score > 3")):
        caplog.clear()
        left = len(change(work.open(work.meta)).save_metadata())
        assert 0 < left < rows
        assert f"{rows - left} of {rows} rows are gone from the files that were read" in caplog.text
        assert caplog.text.count("rows are gone") == 1
        assert work() == 12
        assert digests(work.meta) == first


def test_rows_without_a_value_that_are_dropped_in_place_are_told_once(work, caplog):
    work.open().save_metadata(work.meta)
    dataset = work.open(work.meta)
    dataset.metadata["some"] = dataset.metadata["score"].where(dataset.metadata["score"] > 3)
    left = len(dataset.filter("some > 0").save_metadata())
    assert f"{12 - left} rows were dropped because a condition was neither" in caplog.text
    assert "rows are gone" not in caplog.text


def test_what_a_filter_dropped_stays_known(work, caplog):
    def keep(dataset):
        return dataset.filter("score > 3")

    work(keep)
    before = pq.read_metadata(work.meta / "00000.parquet").metadata[b"nemo_image_curate"]
    work.add("own")
    after = pq.read_metadata(work.meta / "00000.parquet").metadata[b"nemo_image_curate"]
    assert json.loads(after)["summary"]["dropped"] == json.loads(before)["summary"]["dropped"]
    assert json.loads(after)["summary"]["dropped"]["by_condition"] > 0
    assert work(keep) == 0
    assert "rows are gone" not in caplog.text


@pytest.mark.parametrize("changed", ["tar", "sidecar"])
def test_inputs_that_changed_before_columns_were_added_are_noticed(work, changed):
    """Though the files are newer than their inputs by then, and sizes and footers are the same."""
    work()
    time.sleep(0.01)
    path = work.root / ("00001.tar" if changed == "tar" else "00001.parquet")
    if changed == "tar":
        path.write_bytes(path.read_bytes())
    else:
        table = pq.read_table(path)
        scores = table["score"].to_pylist()
        order = sorted(range(len(scores)), key=scores.__getitem__)
        # The same extremes.
        scores[order[1]], scores[order[2]] = scores[order[2]], scores[order[1]]
        number = table.schema.get_field_index("score")
        write_sidecar(path, table.set_column(number, "score", pa.array(scores)))
    work.add("own")
    with pytest.raises(ConfigError, match=r"1 files that have to be written .* be lost: own"):
        work()
    assert work(overwrite=True) > 0


def test_columns_are_not_dropped_untold(work):
    work()
    first = digests(work.meta)
    work.add("own")
    before = digests(work.meta)
    with pytest.raises(ConfigError, match=r"(?s)meta: 3 files .* and 5 more\. Save to another"):
        work.open().save_metadata(work.meta)
    with pytest.raises(ConfigError, match=r"be lost: own\. Save to another.*overwrite=True"):
        work(lambda dataset: dataset.replace(dataset.metadata.assign(width=1)))
    assert digests(work.meta) == before
    assert work(overwrite=True) == 12
    assert digests(work.meta) == first, "as if the folder had been empty"


def test_what_an_earlier_run_alone_made_is_replaced_and_told(work, caplog):
    work()
    caplog.clear()
    fewer = work.open().select(["caption"])
    fewer.save_metadata(work.meta)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "meta: 3 files of an earlier run are replaced" in message
    assert "does not make: url, width, score" in message
    assert work.columns() == ["key", "shard", "caption"]
    # Nothing is known of how this one came about.
    mapped = work.open(work.meta)
    mapped.metadata = mapped.metadata.map_partitions(lambda part: part.assign(own=1))
    mapped.save_metadata()
    with pytest.raises(ConfigError, match="be lost: own"):
        fewer.replace(fewer.metadata.assign(caption="x")).save_metadata(work.meta)


@pytest.mark.parametrize("change", ["columns", "select", "drop"])
def test_sidecars_of_others_keep_their_columns(made, backend, change):
    dataset, options = open_dataset(made.root, backend=backend), {}
    if change == "columns":
        options = {"columns": ["caption"]}
    elif change == "select":
        dataset = dataset.select(["caption"])
    else:
        dataset.metadata = dataset.metadata.drop(columns=["url", "width", "score"])
    before = digests(made.root)
    with pytest.raises(ConfigError, match=r"tars: 3 files .* be lost: url, width, score"):
        dataset.save_metadata(**options)
    assert digests(made.root) == before
    saved = dataset.save_metadata(overwrite=True, **options)
    assert list(saved.metadata.columns) == ["key", "shard", "caption"]
    assert [row["caption"] for row in rows_of(saved)] == [row["caption"] for row in made.rows]


def test_files_of_others_in_a_folder_keep_their_columns(work, made):
    write_sidecar(work.meta / "00001.parquet", {"key": ["a"], "precious": [1.0]})
    write_sidecar(work.meta / "00002.parquet", {"key": ["a"]})
    with pytest.raises(ConfigError, match=r"meta: 1 files .* be lost: precious"):
        work.open().save_metadata(work.meta)
    (work.meta / "00001.parquet").write_bytes(b"no parquet")
    assert len(work.open().save_metadata(work.meta)) == len(made.rows)


def test_a_column_that_another_process_added_is_not_lost(made, backend):
    notebook = open_dataset(made.root, backend=backend)
    other = Forked("tests.dataset.in_place_job:run", "job", made.root, "thrice")
    assert other.wait() == 0
    mine = notebook.with_columns(in_place_job.slowly_twice, {"twice": pa.float64()})
    with pytest.raises(ConfigError, match=r"be lost: thrice.* open the dataset that is there"):
        mine.save_metadata()
    in_place_job.add(str(made.root), "twice")
    assert {"twice", "thrice"} <= set(open_dataset(made.root).metadata.columns)


def test_a_killed_save_in_place_ends_as_an_undisturbed_one(tmp_path):
    truth = make_dataset(tmp_path / "tars", sizes=[2] * 12)
    work = Work(truth, tmp_path, "cpu")
    assert work() == 24
    work.add("own")
    calm = tmp_path / "calm"
    shutil.copytree(work.meta, calm)
    in_place_job.add(str(calm), "twice")

    def finished() -> int:
        return sum(path.stat().st_mtime_ns > newest for path in work.meta.glob("*.parquet"))

    newest = max(path.stat().st_mtime_ns for path in work.meta.glob("*.parquet"))
    process = Forked("tests.dataset.in_place_job:run", "job", work.meta, "twice")
    while finished() < 3:
        assert process.wait(0.01) is None
    process.kill()
    assert 3 <= finished() < 12
    assert work() == 0, "half of the files have one column more"
    command = [sys.executable, "-m", "tests.dataset.in_place_job", str(work.meta), "twice"]
    subprocess.run(command, cwd=REPOSITORY, env=dict(os.environ), check=True)
    in_calm, in_storm = digests(calm), digests(work.meta)
    assert {name: in_storm[name] for name in in_calm} == in_calm
    assert work() == 0
    assert digests(work.meta) == in_storm


def test_what_is_known_of_tars_stays_known(work):
    work()
    work.add("own")
    sources = work.open(work.meta).source()[1]
    assert all(source.account and source.account["samples_in_tars"] for source in sources)


def test_records_that_others_have_damaged_hold_nothing(work):
    work()
    work.add("own")
    path = work.meta / "00001.parquet"
    table = pq.read_table(path)
    record = json.loads(table.schema.metadata[b"nemo_image_curate"])
    for holds in ([1], [{}], [{**record["holds"][0], "names": [[]]}], {"fingerprint": "x"}):
        text = json.dumps({**record, "holds": holds})
        pq.write_table(table.replace_schema_metadata({"nemo_image_curate": text}), path)
        with pytest.raises(ConfigError, match=r"1 files that have to be written"):
            work()
