"""save_metadata: names, bytes, resuming; in place and to a folder; local and S3."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import locks
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError, JobError
from nemo_image_curate.frames import to_arrow
from tests.dataset.opened import open_dataset, rows_of
from tests.make_data import digests, jpeg, make_dataset, write_sidecar, write_tar


def costly(part, log: str, factor: float = 2.0):
    """A column that is dear to compute: each time is noted."""
    if len(part):
        with open(log, "a") as file:
            file.write(f"{part['shard'].iloc[0]}\n")
    return part.assign(dear=part["score"] * factor)


def with_dear(dataset: ImageTextPairDataset, log: Path, factor: float = 2.0):
    meta = dataset.metadata._meta.assign(dear=dataset.metadata._meta["score"] * 1.0)
    frame = dataset.metadata.map_partitions(costly, str(log), factor=factor, meta=meta)
    return dataset.replace(frame)


def counted(log: Path) -> list[str]:
    """The shards that were computed since the last look."""
    lines = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


ALL = ["00000.tar", "00001.tar", "00002.tar"]


def test_to_a_folder(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    dataset.metadata["x"] = dataset.metadata.score * 2
    before = digests(made.root)
    saved = dataset.save_metadata(tmp_path / "meta")
    assert digests(made.root) == before
    files = sorted(os.listdir(tmp_path / "meta"))
    assert files == ["00000.parquet", "00001.parquet", "00002.parquet", "_dataset.json"]
    assert saved.backend == backend
    expected = [{**row, "x": row["score"] * 2} for row in made.rows]
    order = ["key", "shard", "url", "caption", "width", "score", "x"]
    assert rows_of(saved) == [{name: row[name] for name in order} for row in expected]
    assert saved.tar_files == dataset.tar_files
    assert pq.read_table(tmp_path / "meta" / "00001.parquet").num_rows == 5
    # What was written is what is read: nothing of the expression is left to compute.
    assert len(list(saved.metadata.expr.walk())) == 1


def test_what_one_backend_writes_the_other_reads(tmp_path, backend):
    """With partitions that are empty, all null and partly null; the same files from both."""
    columns = {
        "key": pa.array(list("abcd")),
        "image_embedding": pa.array([[1.0, 2.0], None, [3.0, -4.0], None], pa.list_(pa.float32())),
        "tags": pa.array([["t", None], [], None, []], pa.list_(pa.string())),
        "n": pa.array([1, None, 2**62, None]),
        "score": pa.array([0.5, None, float("nan"), None]),
        "flag": pa.array([True, None, False, None]),
        "text": pa.array(["größer", None, "", None]),
        "hash": pa.array([2**64 - 1, None, 0, None], pa.uint64()),
        "when": pa.array([10**15, None, 1, None], pa.timestamp("us")),
        "box": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": None}, None]),
    }
    table = pa.table(columns)
    for number, part in enumerate((table, table[:0], table[1:2], table[3:])):
        write_tar(tmp_path / "in" / f"{number}.tar", [])
        write_sidecar(tmp_path / "in" / f"{number}.parquet", part)
    folders = {}
    for one in ("cpu", backend):
        dataset = open_dataset(tmp_path / "in", backend=one)
        dataset.metadata["twice"] = dataset.metadata.score * 2
        folders[one] = tmp_path / f"{one}-{len(folders)}"
        dataset.filter("key != 'c' or n > 0").save_metadata(folders[one])
    for number in range(4):
        written = [pq.read_table(folder / f"{number}.parquet") for folder in folders.values()]
        assert all(one.schema == written[0].schema for one in written)
        assert len({repr(one.to_pylist()) for one in written}) == 1
    read = [
        to_arrow(open_dataset(folder, backend=one).metadata.compute())
        for folder in folders.values()
        for one in folders
    ]
    assert all(one.schema == read[0].schema for one in read)
    assert len({repr(one.to_pylist()) for one in read}) == 1
    columns["score"] = pa.array([0.5, None, None, None])
    for name, column in columns.items():
        assert read[0][name].to_pylist()[:4] == column.to_pylist(), name


def test_in_place(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    dataset.metadata["x"] = dataset.metadata.score * 2
    saved = dataset.save_metadata()
    assert [row["x"] for row in rows_of(saved)] == [row["score"] * 2 for row in made.rows]
    assert sorted(os.listdir(made.root)) == sorted(
        f"{n:05d}.{kind}" for n in range(3) for kind in ("tar", "parquet")
    )
    assert [row["x"] for row in rows_of(open_dataset(made.root))] == [
        row["score"] * 2 for row in made.rows
    ]


def test_in_place_makes_the_sidecars_of_plain_tars(tmp_path):
    truth = make_dataset(tmp_path, sidecars=False)
    open_dataset(tmp_path).save_metadata()
    assert (tmp_path / "00002.parquet").exists()
    assert [row["caption"] for row in rows_of(open_dataset(tmp_path))] == [
        row["caption"] for row in truth.rows
    ]


@pytest.mark.parametrize("in_place", [False, True])
def test_only_what_is_missing_is_computed(made, tmp_path, in_place):
    log = tmp_path / "log"
    target = None if in_place else tmp_path / "meta"
    folder = made.root if in_place else tmp_path / "meta"

    def run(factor: float = 2.0) -> ImageTextPairDataset:
        return with_dear(open_dataset(made.root), log, factor).save_metadata(target)

    run()
    assert counted(log) == ALL
    first = digests(folder)
    run()
    assert counted(log) == []
    assert digests(folder) == first

    if not in_place:
        (folder / "00001.parquet").unlink()
        run()
        assert counted(log) == ["00001.tar"]
        assert digests(folder) == first
        (folder / "00002.parquet").write_bytes(b"half a file")
        (folder / "_dataset.json").unlink()
        run()
        assert counted(log) == ["00002.tar"]
        assert digests(folder) == first

    saved = run(factor=3.0)
    assert counted(log) == ALL, "another expression"
    assert [row["dear"] for row in rows_of(saved)] == [row["score"] * 3.0 for row in made.rows]

    # A tar that was made again, of the same size: only its partition is stale.
    later = time.time() + 5
    tar = made.root / "00001.tar"
    tar.write_bytes(tar.read_bytes())
    os.utime(tar, (later, later))
    run(factor=3.0)
    assert counted(log) == ["00001.tar"]
    for path in folder.glob("*.parquet"):
        os.utime(path, (later + 1, later + 1))
    tar.write_bytes(tar.read_bytes() + bytes(10240))
    os.utime(tar, (1, 1))
    run(factor=3.0)
    assert counted(log) == ["00001.tar"], "of another size, though older"
    for path in folder.glob("*.parquet"):
        os.utime(path, (later + 1, later + 1))
    run(factor=3.0)
    assert counted(log) == []


def test_a_changed_sidecar_is_computed_again(made, tmp_path):
    log = tmp_path / "log"
    with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    assert counted(log) == ALL
    table = pq.read_table(made.root / "00002.parquet")
    scores = table["score"].to_pylist()
    swapped = [scores[1], scores[0], *scores[2:]]  # same size, same extremes
    table = table.set_column(4, "score", pa.array(swapped))
    later = time.time() + 5
    write_sidecar(made.root / "00002.parquet", table)
    os.utime(made.root / "00002.parquet", (later, later))
    saved = with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    assert counted(log) == ["00002.tar"]
    assert [row["dear"] for row in rows_of(saved)][-3:] == [2 * score for score in swapped]


def test_a_new_shard_alone_is_computed(made, tmp_path):
    log = tmp_path / "log"
    with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    counted(log)
    larger = make_dataset(tmp_path / "larger", sizes=[4, 5, 3, 2])
    for path in larger.root.glob("00003.*"):
        path.rename(made.root / path.name)
    saved = with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    assert counted(log) == ["00003.tar"]
    assert len(saved) == 14


def test_a_tar_that_is_replaced_by_an_older_one_of_its_size_is_noticed(made, tmp_path):
    log = tmp_path / "log"
    with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    counted(log)
    tar = made.root / "00001.tar"
    other = tmp_path / "other.tar"
    other.write_bytes(tar.read_bytes().replace(b"JFIF", b"JFIX"))
    os.utime(other, (1, 1))
    other.rename(tar)
    with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    assert counted(log) == ["00001.tar"]


@pytest.mark.parametrize("damage", ["rows", "columns"])
def test_an_output_that_another_program_cut_is_computed_again(made, tmp_path, damage):
    log, output = tmp_path / "log", tmp_path / "meta" / "00001.parquet"
    with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    whole = output.read_bytes()
    counted(log)
    table = pq.read_table(output)
    cut = table.slice(0, 1) if damage == "rows" else table.drop_columns("dear")
    pq.write_table(cut, output)
    with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    assert counted(log) == ["00001.tar"]
    assert output.read_bytes() == whole


def test_two_processes_do_not_write_one_folder(made, tmp_path):
    with (
        locks.exclusive(str(tmp_path / "meta")),
        pytest.raises(DatasetError, match="another process is writing"),
    ):
        open_dataset(made.root).save_metadata(tmp_path / "meta")
    assert len(open_dataset(made.root).save_metadata(tmp_path / "meta")) == len(made.rows)


def test_a_second_column_later_keeps_the_first(made, tmp_path):
    log = tmp_path / "log"
    saved = with_dear(open_dataset(made.root), log).save_metadata()
    counted(log)
    saved.metadata["more"] = saved.metadata.dear + 1
    again = saved.save_metadata()
    assert counted(log) == []
    assert [row["more"] for row in rows_of(again)] == [row["score"] * 2 + 1 for row in made.rows]


def test_an_interrupted_save_in_place_goes_on(made, tmp_path):
    """Two of three partitions are done when the third fails: they are not done again."""
    log = tmp_path / "log"
    whole = make_dataset(tmp_path / "other", sizes=[4, 5, 3])
    flag = tmp_path / "broken"

    def fragile(part, log, flag):
        if len(part) and part["shard"].iloc[0] == "00001.tar" and os.path.exists(flag):
            raise RuntimeError("worker lost")
        return costly(part, log)

    def run(root: Path) -> ImageTextPairDataset:
        dataset = open_dataset(root)
        meta = dataset.metadata._meta.assign(dear=dataset.metadata._meta["score"])
        frame = dataset.metadata.map_partitions(fragile, str(log), str(flag), meta=meta)
        return dataset.replace(frame).save_metadata()

    run(whole.root)
    counted(log)
    flag.touch()
    with pytest.raises(JobError, match=r"(?s)1 of 3 partitions failed.*00001\.tar.*worker lost"):
        run(made.root)
    assert counted(log) == ["00000.tar", "00002.tar"]
    assert len(open_dataset(made.root)) == 12, "the dataset stays whole"
    flag.unlink()
    run(made.root)
    assert counted(log) == ["00001.tar"]
    assert digests(made.root) == digests(whole.root)


def test_bytes_do_not_depend_on_workers(made, tmp_path, workers):
    def frames_of(dataset):
        df = dataset.metadata
        small = pd.DataFrame({"width": [32, 33, 34], "label": ["a", "b", "c"]})
        other = df[["key", "url"]].rename(columns={"url": "link"})
        return {
            "plain": df,
            "filtered": df[df.score > 3],
            "sorted": df.sort_values("width"),
            "sorted-down": df.sort_values(["width", "score"], ascending=False),
            "shuffled": df.shuffle("width"),
            "repartitioned": df.repartition(npartitions=2),
            "merged": df.merge(other, on="key"),
            "joined": df.merge(small, on="width", how="left"),
            "unique": df.drop_duplicates("width"),
            "indexed": df.set_index("width", drop=False),
            "quantile": df[df.score > df.score.quantile(0.5)],
        }

    def save_all(folder: Path) -> dict[str, str]:
        dataset = open_dataset(made.root)
        for name, frame in frames_of(dataset).items():
            dataset.replace(frame).save_metadata(folder / name)
        return digests(folder)

    from distributed import Client

    alone = save_all(tmp_path / "alone")
    assert save_all(tmp_path / "again") == alone
    for number in (1, 2):
        with Client(workers):
            workers.scale(number)
            assert save_all(tmp_path / f"with-{number}") == alone
    parts = {
        name: len(list((tmp_path / "alone" / name).glob("part-*")))
        for name in ("plain", "filtered", "quantile", "sorted", "repartitioned")
    }
    assert parts == {"plain": 0, "filtered": 0, "quantile": 0, "sorted": 3, "repartitioned": 2}


@pytest.mark.parametrize("number", range(4))
def test_rows_that_changed_partition_are_saved_as_parts(made, tmp_path, number, client):
    dataset = open_dataset(made.root)
    df = dataset.metadata
    frame, rows = [
        (df.sort_values("score"), sorted(made.rows, key=lambda row: row["score"])),
        (df.repartition(npartitions=2), made.rows),
        (df.shuffle("url", npartitions=5), None),
        (df.merge(df[["key", "width"]].rename(columns={"width": "w"}), on="key"), None),
    ][number]
    saved = dataset.replace(frame).save_metadata(tmp_path / "meta")
    assert (tmp_path / "meta" / "part-00000.parquet").exists()
    again = open_dataset(tmp_path / "meta")
    assert again.metadata.npartitions == frame.npartitions
    found = rows_of(again)
    assert found == rows_of(saved)
    if rows is not None:
        assert [row["key"] for row in found] == [row["key"] for row in rows]
    shards = {row["key"]: row["shard"] for row in found}
    assert shards == {row["key"]: row["shard"] for row in made.rows}
    with pytest.raises(ConfigError, match=r"needs one partition per shard.*Give a folder"):
        dataset.replace(frame).save_metadata()
    # Again from what was saved: file names stay, and now in place is possible as well.
    again.metadata["x"] = again.metadata.width + 1
    assert [row["x"] for row in rows_of(again.save_metadata())] == [r["width"] + 1 for r in found]


def test_what_a_shuffle_needs_is_computed_once(made, tmp_path):
    log = tmp_path / "log"
    dataset = with_dear(open_dataset(made.root), log)
    saved = dataset.replace(dataset.metadata.shuffle("url")).save_metadata(tmp_path / "meta")
    assert counted(log) == ALL
    assert len(saved) == 12
    dataset.replace(dataset.metadata.shuffle("url")).save_metadata(tmp_path / "meta")
    assert counted(log) == []


def test_a_filter_that_needs_all_partitions_keeps_shard_names(made, tmp_path):
    dataset = open_dataset(made.root)
    df = dataset.metadata
    saved = dataset.replace(df[df.score > df.score.quantile(0.5)]).save_metadata(tmp_path / "meta")
    assert sorted(path.name for path in (tmp_path / "meta").glob("*.parquet")) == [
        "00000.parquet",
        "00001.parquet",
        "00002.parquet",
    ]
    limit = df.score.quantile(0.5).compute()
    expected = [row["key"] for row in made.rows if row["score"] > limit]
    assert 0 < len(expected) < 12
    assert [row["key"] for row in rows_of(saved)] == expected


def test_a_fully_filtered_shard_stays_as_an_empty_file(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    df = dataset.metadata
    saved = dataset.replace(df[df.shard != "00001.tar"]).save_metadata(tmp_path / "meta")
    assert [len(part) for part in saved.metadata.partitions] == [4, 0, 3]
    nothing = dataset.filter("score > 1e9").save_metadata(tmp_path / "none")
    assert len(nothing) == 0
    assert list(nothing.metadata.columns) == list(df.columns)
    assert to_arrow(nothing.metadata._meta).schema == to_arrow(df._meta).schema


def test_chosen_columns(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    saved = dataset.save_metadata(tmp_path / "meta", columns=["score"])
    assert list(saved.metadata.columns) == ["key", "shard", "score"]
    with pytest.raises(ColumnNotFoundError, match=r"no column 'scores'\. Did you mean 'score'"):
        dataset.save_metadata(tmp_path / "other", columns=["scores"])
    assert not (tmp_path / "other").exists()
    dataset.metadata = dataset.metadata.drop(columns="shard")
    with pytest.raises(ColumnNotFoundError, match="no column 'shard'"):
        dataset.save_metadata(tmp_path / "other")


def test_a_frame_made_elsewhere(made, tmp_path):
    import dask.dataframe as dd

    rows = pd.DataFrame(made.rows)[["key", "shard", "score"]].iloc[::-1]
    dataset = ImageTextPairDataset(
        str(made.root),
        dd.from_pandas(rows, npartitions=2, sort=False),
        [str(path) for path in sorted(made.root.glob("*.tar"))],
    )
    saved = dataset.save_metadata(tmp_path / "meta")
    assert [row["key"] for row in rows_of(saved)] == made.keys[::-1]
    assert saved.image(made.keys[0]).size == (32, 24)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "meta").glob("*.parquet")}
    dataset.save_metadata(tmp_path / "meta")
    assert before == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "meta").glob("*.parquet")
    }
    rows["score"] = rows["score"] + 1
    dataset.metadata = dd.from_pandas(rows, npartitions=2, sort=False)
    again = dataset.save_metadata(tmp_path / "meta")
    assert [row["score"] for row in rows_of(again)] == rows["score"].tolist()


def test_columns_of_every_kind_make_the_round_trip(made, tmp_path):
    table = pa.table(
        {
            "key": ["a", "b", "c"],
            "list": pa.array([[1.0, None], None, []], pa.list_(pa.float32())),
            "text": ["🐈 \u202eRTL\u202c", "nul \0 inside", None],
            "binary": [b"\xff", None, b""],
            "time": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
            "small": pa.array([1, None, 255], pa.uint8()),
            "bool": [True, None, False],
            "struct": [{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}],
            "decimal": pa.array([1, None, 3], pa.decimal128(10, 2)),
        }
    )
    write_tar(tmp_path / "t" / "a.tar", [(f"{key}.jpg", jpeg(1)) for key in "abc"])
    write_sidecar(tmp_path / "t" / "a.parquet", table)
    saved = open_dataset(tmp_path / "t").save_metadata(tmp_path / "meta")
    found = pq.read_table(tmp_path / "meta" / "a.parquet").drop_columns("shard")
    assert found.replace_schema_metadata(None).equals(table)
    names = saved.metadata.columns[2:]
    assert to_arrow(saved.metadata.compute()).select(list(names)).equals(table.select(list(names)))


def test_a_column_that_cannot_be_written_is_named(made, tmp_path):
    dataset = open_dataset(made.root)
    dataset.metadata = dataset.metadata.assign(caption="lone \ud800 surrogate")
    with pytest.raises((DatasetError, JobError)):
        dataset.save_metadata(tmp_path / "meta")
    assert not (tmp_path / "meta" / "_dataset.json").exists()
    assert list((tmp_path / "meta").glob("*")) == []


def test_errors_are_counted_by_kind(made, tmp_path):
    dataset = open_dataset(made.root)
    reasons = ["missing", None, "decode: bad marker", "decode: cut"]

    def mark(part):
        return part.assign(
            image_error=pd.array((reasons * 2)[: len(part)], dtype=part["key"].dtype)
        )

    meta = mark(dataset.metadata._meta)
    dataset.replace(dataset.metadata.map_partitions(mark, meta=meta)).save_metadata(tmp_path / "m")
    raw = pq.read_metadata(tmp_path / "m" / "00000.parquet").metadata[b"nemo_image_curate"]
    assert json.loads(raw)["summary"] == {"rows": 4, "errors": {"decode": 2, "missing": 1}}


def test_provenance_is_written_and_read(made, tmp_path):
    dataset = open_dataset(made.root)
    record = {"stage": "test", "sha256": "ab"}
    frame = dataset.metadata.assign(x=1)
    saved = dataset.replace(frame, {"x": record, "unused": {"stage": "gone"}}).save_metadata(
        tmp_path / "meta"
    )
    assert saved.provenance == {"x": record}
    assert open_dataset(tmp_path / "meta").save_metadata(tmp_path / "b").provenance == {"x": record}


def test_shards_made_in_different_ways_are_a_known_conflict(made, tmp_path):
    dataset = open_dataset(made.root)
    frame = dataset.metadata.assign(x=1)
    for name in ("one", "two"):
        dataset.replace(frame, {"x": {"model": name}}).save_metadata(tmp_path / name)
    (tmp_path / "two" / "00001.parquet").replace(tmp_path / "one" / "00001.parquet")
    assert list(open_dataset(tmp_path / "one").provenance["x"]) == ["conflict"]


def test_leftovers_of_a_killed_run_are_removed(made, tmp_path):
    (tmp_path / "meta").mkdir()
    leftover = tmp_path / "meta" / ".00000.parquet.curate-tmp-0123"
    leftover.write_bytes(b"half")
    open_dataset(made.root).save_metadata(tmp_path / "meta")
    assert not leftover.exists()


def test_s3(made, tmp_path, bucket):
    import fsspec

    root = bucket()
    fs = fsspec.filesystem("s3")
    fs.put(str(made.root) + "/", f"{root}/tars", recursive=True)
    log = tmp_path / "log"

    def run(target: str | None) -> ImageTextPairDataset:
        return with_dear(open_dataset(f"{root}/tars"), log).save_metadata(target)

    saved = run(f"{root}/meta")
    assert counted(log) == ALL
    assert [row["dear"] for row in rows_of(saved)] == [row["score"] * 2 for row in made.rows]
    run(f"{root}/meta")
    assert counted(log) == []
    fs.rm(f"{root}/meta/00001.parquet")
    run(f"{root}/meta")
    assert counted(log) == ["00001.tar"]
    names = sorted(name.split("/")[-1] for name in fs.find(f"{root}/meta", refresh=True))
    assert names == ["00000.parquet", "00001.parquet", "00002.parquet", "_dataset.json"]
    assert open_dataset(f"{root}/meta").image(made.keys[0]).size == (32, 24)
    with_dear(open_dataset(made.root), log).save_metadata(tmp_path / "meta")
    fs.get(f"{root}/meta/00000.parquet", str(tmp_path / "x.parquet"))
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "meta/00000.parquet").read_bytes()
    counted(log)
    run(None)
    run(None)
    assert counted(log) == ALL
    assert open_dataset(f"{root}/tars").metadata.dear.sum().compute() > 0
