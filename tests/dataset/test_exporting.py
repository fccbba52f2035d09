"""to_webdataset: what is in the new shards, for whom they are readable, and how runs go on."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nemo_image_curate.dataset.inspecting import inspect_dataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DamagedError, DatasetError
from tests.dataset.opened import open_dataset, rows_of
from tests.make_data import (
    Truth,
    digests,
    fields_of,
    jpeg,
    make_dataset,
    read_tar,
    write_sidecar,
    write_tar,
)
from tests.shards.test_compression import PACK
from tests.shards.test_index import wds2idx


def check(folder: Path, made: Truth, rows: list[dict], per_shard: int, old: str = "old") -> None:
    """The folder holds exactly these rows of the input, in this order, whole in every file."""
    count = -(-len(rows) // per_shard)
    stems = [f"{number:05d}" for number in range(count)]
    names = {f"{stem}.{kind}" for stem in stems for kind in ("tar", "parquet", "idx")}
    assert set(os.listdir(folder)) == names | {"_export.json"}
    digits = len(str(per_shard - 1))
    for number, stem in enumerate(stems):
        own = rows[number * per_shard : (number + 1) * per_shard]
        keys = [f"{stem}{row:0{digits}d}" for row in range(len(own))]
        members = read_tar(folder / f"{stem}.tar")
        table = pq.read_table(folder / f"{stem}.parquet").to_pylist()
        assert [row["key"] for row in table] == keys
        assert {row["shard"] for row in table} == {f"{stem}.tar"}
        assert [row[old] for row in table] == [row["key"] for row in own]
        assert [row["caption"] for row in table] == [row["caption"] for row in own]
        assert len(members) == 3 * len(own)
        for key, row in zip(keys, own, strict=True):
            assert members[f"{key}.jpg"] == made.images[row["shard"], row["key"]]
            assert members[f"{key}.txt"].decode() == row["caption"]
            fields = {name: value for name, value in row.items() if name != "shard"}
            expected = {**fields, "key": key, old: row["key"]}
            assert json.loads(members[f"{key}.json"]) == expected
        text = wds2idx(folder / f"{stem}.tar", folder.parent / "check.idx")
        assert (folder / f"{stem}.idx").read_bytes() == text.encode()


def test_everything(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    before = digests(made.root)
    summary = dataset.to_webdataset(tmp_path / "new", samples_per_shard=5, old_id_col="old")
    assert (summary.shards, summary.samples, summary.filtered, summary.missing) == (3, 12, 0, 0)
    assert summary.path == str(tmp_path / "new")
    check(tmp_path / "new", made, made.rows, 5)
    assert digests(made.root) == before


@pytest.mark.parametrize("per_shard", [1, 2, 7, 10, 11, 12, 100, 10000])
def test_samples_per_shard(made, tmp_path, per_shard):
    dataset = open_dataset(made.root)
    dataset.to_webdataset(tmp_path / "new", samples_per_shard=per_shard, old_id_col="old")
    check(tmp_path / "new", made, made.rows, per_shard)


def test_filter_column(made, tmp_path, backend):
    dataset = open_dataset(made.root, backend=backend)
    dataset.metadata["good"] = dataset.metadata.score > 4
    dataset.metadata["good"] = dataset.metadata.good.where(dataset.metadata.width != 33, None)
    rows = [row for row in made.rows if row["score"] > 4 and row["width"] != 33]
    summary = dataset.to_webdataset(tmp_path / "new", "good", 2, old_id_col="old")
    assert 0 < len(rows) < 12
    assert (summary.samples, summary.filtered) == (len(rows), 12 - len(rows))
    check(tmp_path / "new", made, rows, 2)


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ("score", ConfigError, r"filter_column 'score' is Float64, not bool"),
        ("caption", ConfigError, r"filter_column 'caption' is string"),
        ("scor", ColumnNotFoundError, r"no column 'scor'\. Did you mean 'score'"),
    ],
)
def test_a_wrong_filter_column(made, tmp_path, column, error, message):
    with pytest.raises(error, match=message):
        open_dataset(made.root).to_webdataset(tmp_path / "new", column)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"samples_per_shard": 0},
        {"samples_per_shard": -1},
        {"max_shards": 0},
        {"old_id_col": "key"},
        {"old_id_col": "shard"},
    ],
)
def test_unusable_arguments(made, tmp_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        open_dataset(made.root).to_webdataset(tmp_path / "new", **options)


def test_too_many_shards_for_the_digits(made, tmp_path):
    dataset = open_dataset(made.root)
    with pytest.raises(ConfigError, match=r"12 shards do not fit.*max_shards=1.*max_shards to 2"):
        dataset.to_webdataset(tmp_path / "new", samples_per_shard=1, max_shards=1)
    dataset.to_webdataset(tmp_path / "new2", samples_per_shard=1, max_shards=2)
    assert (tmp_path / "new2" / "11.tar").exists()
    dataset.to_webdataset(tmp_path / "new3", samples_per_shard=2, max_shards=1)
    assert (tmp_path / "new3" / "5.tar").exists()
    # After the refusal, the same folder takes the corrected call.
    dataset.to_webdataset(tmp_path / "new", samples_per_shard=1, old_id_col="old")
    check(tmp_path / "new", made, made.rows, 1)


def test_nothing_left(made, tmp_path):
    dataset = open_dataset(made.root)
    summary = dataset.filter("score > 1e9").to_webdataset(tmp_path / "new")
    assert (summary.shards, summary.samples, summary.filtered, summary.missing) == (0, 0, 12, 0)
    assert (summary.null, summary.null_columns) == (0, {})
    assert list((tmp_path / "new").glob("*.tar")) == []
    dataset.metadata["good"] = dataset.metadata.score > 1e9
    summary = dataset.to_webdataset(tmp_path / "new2", "good")
    assert (summary.shards, summary.samples, summary.filtered) == (0, 0, 12)
    with pytest.raises(DatasetError, match="is an export of no samples"):
        open_dataset(tmp_path / "new2")


def test_empty_partitions_and_one_row_shards(tmp_path):
    made = make_dataset(tmp_path / "tars", sizes=[0, 1, 0, 0, 6, 1])
    dataset = open_dataset(made.root)
    dataset.to_webdataset(tmp_path / "new", samples_per_shard=3, old_id_col="old")
    check(tmp_path / "new", made, made.rows, 3)
    kept = dataset.filter("shard != '00004.tar'")
    kept.to_webdataset(tmp_path / "new2", samples_per_shard=3, old_id_col="old")
    check(tmp_path / "new2", made, [r for r in made.rows if r["shard"] != "00004.tar"], 3)


@pytest.mark.parametrize("with_client", [False, True])
def test_rows_find_their_bytes_after_any_rearrangement(made, tmp_path, with_client, request):
    """Filter, sort, repartition, shuffle, merge: every picture still goes with its own caption."""
    import dask.dataframe as dd
    import pandas as pd

    df = open_dataset(made.root).metadata
    df = df[df.width != 34]
    df = df.sort_values("score")
    if with_client:
        # Dask 2026.7.1 itself hangs when a sort, a repartition and a shuffle meet a client.
        request.getfixturevalue("client")
        df = df.shuffle("url", npartitions=4)
    else:
        df = df.repartition(npartitions=2).shuffle("url", npartitions=4)
    extra = pd.DataFrame({"key": made.keys[::-1], "more": range(12)})
    df = df.merge(dd.from_pandas(extra.astype({"key": df.key.dtype}), npartitions=3), on="key")
    dataset = open_dataset(made.root).replace(df)
    summary = dataset.to_webdataset(tmp_path / "new", samples_per_shard=4, old_id_col="old")
    wanted = {row["key"]: row for row in made.rows if row["width"] != 34}
    assert summary.samples == len(wanted) == 9
    order = [row["old"] for row in rows_of(open_dataset(tmp_path / "new"))]
    assert sorted(order) == sorted(wanted)
    check(tmp_path / "new", made, [wanted[key] for key in order], 4)
    dataset.to_webdataset(tmp_path / "new2", samples_per_shard=4, old_id_col="old")
    assert digests(tmp_path / "new2") == digests(tmp_path / "new")


def test_bytes_do_not_depend_on_workers(made, tmp_path, workers):
    from distributed import Client

    def export(name: str) -> dict[str, str]:
        dataset = open_dataset(made.root)
        dataset.metadata = dataset.metadata.sort_values("width")
        dataset.to_webdataset(tmp_path / name / "sorted", samples_per_shard=4)
        dataset = open_dataset(made.root).filter("width > 32")
        dataset.to_webdataset(tmp_path / name / "filtered", samples_per_shard=4)
        return digests(tmp_path / name)

    alone = export("alone")
    assert len(alone) == 3 * 3 + 1 + 3 * 3 + 1
    for number in (1, 2):
        with Client(workers):
            workers.scale(number)
            assert export(f"with-{number}") == alone


def test_sorted_order_is_kept(made, tmp_path):
    dataset = open_dataset(made.root)
    dataset.metadata = dataset.metadata.sort_values("score", ascending=False)
    dataset.to_webdataset(tmp_path / "new", samples_per_shard=5, old_id_col="old")
    check(tmp_path / "new", made, sorted(made.rows, key=lambda row: -row["score"]), 5)


def test_other_members_travel_untouched(tmp_path):
    extra = {
        "seg.png": jpeg(3, kind="PNG"),
        "TXT2": b"\0\xff",
        "a.b.c.bin": b"",
        "json5": b"{key: 1}",
        "my label": b"x",
        "meta.json": b'{"key": "as it was"}',
    }
    made = make_dataset(tmp_path / "tars", sizes=[3], image="JPEG", extra=extra)
    open_dataset(made.root).to_webdataset(tmp_path / "new", samples_per_shard=10)
    members = read_tar(tmp_path / "new" / "00000.tar")
    for number, row in enumerate(made.rows):
        for name, content in extra.items():
            assert members[f"00000{number}.{name}"] == content
        assert members[f"00000{number}.JPEG"] == made.images["00000.tar", row["key"]]
    assert len(members) == 3 * (3 + len(extra))
    text = wds2idx(tmp_path / "new" / "00000.tar", tmp_path / "check.idx")
    assert (tmp_path / "new" / "00000.idx").read_text() == text


@pytest.mark.parametrize(
    "raw", [b"{broken", b"[1]", b'{"other": 1}', b'{"a": "\xff"}', b'{"a": NaN, "b": 1e400}']
)
def test_json_without_an_id_is_copied_byte_for_byte(tmp_path, raw):
    write_tar(tmp_path / "t" / "a.tar", [("k.jpg", jpeg(1)), ("k.json", raw)])
    open_dataset(tmp_path / "t").to_webdataset(tmp_path / "new", samples_per_shard=10)
    assert read_tar(tmp_path / "new" / "00000.tar")["000000.json"] == raw


def test_json_with_an_id_keeps_all_else(tmp_path):
    text = (
        '{"big": 123456789012345678901234567890, "s": "日本 \\ud800", "key": "k", "n": {"key": 1}}'
    )
    write_tar(tmp_path / "t" / "a.tar", [("k.jpg", jpeg(1)), ("k.JSON", text.encode())])
    open_dataset(tmp_path / "t").to_webdataset(tmp_path / "new", old_id_col="was")
    found = json.loads(read_tar(tmp_path / "new" / "00000.tar")["000000000.JSON"])
    assert found == {**json.loads(text), "key": "000000000", "was": "k"}
    dataset = open_dataset(tmp_path / "new")
    assert rows_of(dataset)[0]["was"] == "k"


def test_id_column_of_another_name(tmp_path):
    members = [("k 1.jpg", jpeg(1)), ("k 1.json", b'{"uid": "k 1", "key": 5}')]
    write_tar(tmp_path / "t" / "a.tar", members)
    open_dataset(tmp_path / "t", id_col="uid").to_webdataset(tmp_path / "new", old_id_col="first")
    found = json.loads(read_tar(tmp_path / "new" / "00000.tar")["000000000.json"])
    assert found == {"uid": "000000000", "key": 5, "first": "k 1"}
    assert rows_of(open_dataset(tmp_path / "new", id_col="uid")) == [
        {"uid": "000000000", "shard": "00000.tar", "key": 5, "first": "k 1"}
    ]


def test_old_id_column_that_exists_is_not_overwritten(made, tmp_path):
    with pytest.raises(ConfigError, match="old_id_col='caption'"):
        open_dataset(made.root).to_webdataset(tmp_path / "a", old_id_col="caption")


def test_an_export_below_its_input_is_another_dataset(made, tmp_path):
    dataset = open_dataset(made.root)
    first = dataset.to_webdataset(made.root / "curated")
    again = open_dataset(made.root)
    assert len(again) == len(made.rows) == first.samples
    assert again.to_webdataset(made.root / "curated") == first
    assert len(open_dataset(made.root / "curated")) == first.samples


def test_faulty_input_is_counted_and_the_whole_rows_are_kept(tmp_path):
    made = make_dataset(tmp_path / "tars", sizes=[4, 4], with_json=False)
    first = made.root / "00000.tar"
    content = first.read_bytes()
    with __import__("tarfile").open(first) as tar:
        cut = tar.getmember("000000002.jpg").offset_data + 10
    first.write_bytes(content[:cut])
    table = pq.read_table(made.root / "00001.parquet")
    ghost = table.slice(0, 1).set_column(2, "key", pa.array(["ghost"]))
    null = table.slice(0, 1).set_column(2, "key", pa.array([None], pa.string()))
    write_sidecar(made.root / "00001.parquet", pa.concat_tables([table, ghost, null]))
    summary = open_dataset(made.root).to_webdataset(tmp_path / "new", old_id_col="old")
    assert (summary.samples, summary.missing, summary.filtered) == (6, 4, 0)
    found = rows_of(open_dataset(tmp_path / "new"))
    assert [row["old"] for row in found] == [made.keys[n] for n in (0, 1, 4, 5, 6, 7)]
    assert inspect_dataset(open_dataset(tmp_path / "new"))["counts"] == {}


def test_a_sample_taken_twice_is_written_twice(made, tmp_path):
    import dask.dataframe as dd

    dataset = open_dataset(made.root)
    dataset.metadata = dd.concat([dataset.metadata, dataset.metadata])
    dataset.to_webdataset(tmp_path / "new", samples_per_shard=10, old_id_col="old")
    check(tmp_path / "new", made, made.rows * 2, 10)


def test_a_null_shard_is_a_missing_sample(made, tmp_path):
    dataset = open_dataset(made.root)
    frame = dataset.metadata
    dataset.metadata = frame.assign(shard=frame.shard.where(frame.width > 32))
    summary = dataset.to_webdataset(tmp_path / "new")
    assert (summary.samples, summary.missing) == (9, 3)


# --- going on --------------------------------------------------------------------------------


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_only_what_is_missing_is_written_again(made, tmp_path):
    new = tmp_path / "new"

    def run() -> dict[str, int]:
        open_dataset(made.root).filter("width > 32").to_webdataset(
            new, samples_per_shard=2, old_id_col="old"
        )
        return times(new)

    first, content = run(), digests(new)
    assert run() == first
    for names in (["00001.tar"], ["00002.parquet"], ["00003.tar", "00003.parquet", "00003.idx"]):
        for name in names:
            (new / name).unlink()
        (new / "00000.tar.part").unlink(missing_ok=True)
        again = run()
        stem = names[0][:5]
        assert {name for name in again if again[name] != first[name]} <= {
            f"{stem}.tar",
            f"{stem}.parquet",
            f"{stem}.idx",
        }
        assert digests(new) == content
        first = again
    (new / "00001.idx").unlink()
    run()
    assert digests(new) == content, "an index alone is written again as well"


def test_expensive_columns_are_not_computed_again(made, tmp_path):
    log = tmp_path / "log"

    def note(part):
        if len(part):
            with open(log, "a") as file:
                file.write(part["shard"].iloc[0] + "\n")
        return part

    def run() -> list[str]:
        log.unlink(missing_ok=True)
        dataset = open_dataset(made.root)
        dataset.metadata = dataset.metadata.map_partitions(note, meta=dataset.metadata._meta)
        dataset.to_webdataset(tmp_path / "new", samples_per_shard=4)
        return sorted(log.read_text().split()) if log.exists() else []

    assert run() == ["00000.tar", "00001.tar", "00002.tar"]
    content = digests(tmp_path / "new")
    assert run() == []
    (tmp_path / "new" / "00001.tar").unlink()
    assert run() == ["00001.tar"], "only the partition that the shard takes rows from"
    assert digests(tmp_path / "new") == content


def test_a_folder_with_other_content_is_refused(made, tmp_path):
    dataset = open_dataset(made.root)
    new = tmp_path / "new"
    write_tar(new / "mine.tar", [("a.jpg", jpeg(1))])
    with pytest.raises(DatasetError, match=r"already holds \.tar files.*empty folder"):
        dataset.to_webdataset(new)
    assert os.listdir(new) == ["mine.tar"]
    (new / "mine.tar").unlink()
    dataset.to_webdataset(new, samples_per_shard=5)
    content = digests(new)
    for other, options in (
        (dataset, {"samples_per_shard": 6}),
        (dataset, {"samples_per_shard": 5, "old_id_col": "old"}),
        (dataset.filter("width > 32"), {"samples_per_shard": 5}),
    ):
        with pytest.raises(DatasetError, match=r"holds an export of other rows or settings"):
            other.to_webdataset(new, **options)
    assert digests(new) == content


@pytest.mark.parametrize("same_size", [True, False])
def test_changed_inputs_are_not_mixed_with_an_old_export(made, tmp_path, same_size):
    open_dataset(made.root).to_webdataset(tmp_path / "new", samples_per_shard=5)
    tar = made.root / "00001.tar"
    tar.write_bytes(tar.read_bytes() + bytes(0 if same_size else 10240))
    os.utime(tar, (time.time() + 5,) * 2)
    with pytest.raises(DatasetError, match=r"holds an export of (other rows|inputs that have ch)"):
        open_dataset(made.root).to_webdataset(tmp_path / "new", samples_per_shard=5)


def test_the_input_is_never_overwritten(made, tmp_path):
    before = digests(made.root)
    for path in (made.root, tmp_path, f"{made.root}/", f"file://{made.root}"):
        with pytest.raises((ConfigError, DatasetError), match=r"overwrite the input|already holds"):
            open_dataset(made.root).to_webdataset(path)
    assert digests(made.root) == before


# --- readers ---------------------------------------------------------------------------------


def test_webdataset_reads_it(made, tmp_path):
    import webdataset

    open_dataset(made.root).to_webdataset(tmp_path / "new", samples_per_shard=5)
    urls = str(tmp_path / "new" / "{00000..00002}.tar")
    found = list(
        webdataset.WebDataset(urls, shardshuffle=False)
        .decode("pil")
        .to_tuple("__key__", "jpg", "txt", "json")
    )
    assert [sample[2] for sample in found] == [row["caption"] for row in made.rows]
    assert [sample[0] for sample in found] == [sample[3]["key"] for sample in found]
    for sample, row in zip(found, made.rows, strict=True):
        expected = Image.open(io.BytesIO(made.images[row["shard"], row["key"]])).convert("RGB")
        assert sample[1].tobytes() == expected.tobytes()


def test_our_own_export_is_opened_and_exported_again(made, tmp_path):
    open_dataset(made.root).to_webdataset(tmp_path / "a", samples_per_shard=5, old_id_col="old")
    dataset = open_dataset(tmp_path / "a")
    assert inspect_dataset(dataset)["counts"] == {}
    assert len(dataset) == 12
    for use_index_files in (True, False):
        target = tmp_path / f"b-{use_index_files}"
        dataset.filter("width > 32").to_webdataset(
            target, samples_per_shard=4, use_index_files=use_index_files
        )
        rows = rows_of(open_dataset(target))
        originals = {row["key"]: row for row in made.rows}
        assert [row["old"] for row in rows] == [r["key"] for r in made.rows if r["width"] > 32]
        for row in rows:
            original = originals[row["old"]]
            picture = read_tar(target / row["shard"])[f"{row['key']}.jpg"]
            assert picture == made.images[original["shard"], original["key"]]
    assert digests(tmp_path / "b-True") == digests(tmp_path / "b-False")
    # Without the sidecars the members tell the same.
    for path in (tmp_path / "a").glob("*.parquet"):
        path.unlink()
    bare = rows_of(open_dataset(tmp_path / "a"))
    assert [row["old"] for row in bare] == made.keys


def test_provenance_goes_with_the_columns(made, tmp_path):
    dataset = open_dataset(made.root)
    frame = dataset.metadata.assign(x=1)
    dataset.replace(frame, {"x": {"stage": "test"}}).to_webdataset(tmp_path / "new")
    assert open_dataset(tmp_path / "new").provenance == {"x": {"stage": "test"}}


@pytest.mark.parametrize("use_index_files", [False, True])
def test_s3(made, tmp_path, bucket, use_index_files):
    import fsspec

    root = bucket()
    fs = fsspec.filesystem("s3")
    for path in sorted(made.root.glob("*.tar")):
        wds2idx(path, path.with_suffix(".idx"))
    fs.put(str(made.root) + "/", f"{root}/tars", recursive=True)
    options = {"samples_per_shard": 5, "use_index_files": use_index_files, "old_id_col": "old"}
    open_dataset(made.root).to_webdataset(tmp_path / "local", **options)
    content = digests(tmp_path / "local")
    content.pop("_export.json")  # names its inputs' root

    def check_remote(name: str) -> None:
        fs.invalidate_cache()
        names = {path.split("/")[-1] for path in fs.find(f"{root}/{name}")}
        assert names == {*content, "_export.json"}
        fs.get(f"{root}/{name}/", str(tmp_path / name) + "/", recursive=True)
        check(tmp_path / name, made, made.rows, 5)

    dataset = open_dataset(f"{root}/tars")
    dataset.to_webdataset(f"{root}/new", **options)
    check_remote("new")
    # Onwards from a local folder to S3, and from S3 to a local folder.
    open_dataset(made.root).to_webdataset(f"{root}/up", **options)
    check_remote("up")
    dataset.to_webdataset(tmp_path / "down", **options)
    check(tmp_path / "down", made, made.rows, 5)
    changed = fs.info(f"{root}/new/00000.tar")["LastModified"]
    fs.rm(f"{root}/new/00001.tar")
    dataset.to_webdataset(f"{root}/new", **options)
    fs.invalidate_cache()
    assert fs.info(f"{root}/new/00000.tar")["LastModified"] == changed
    assert fs.exists(f"{root}/new/00001.tar")
    assert open_dataset(f"{root}/new").image("000011").size == (32, 24)


def test_empty_members_on_s3(tmp_path, bucket):
    import fsspec

    root = bucket()
    members = [("a.jpg", jpeg(1)), ("a.txt", b""), ("b.txt", b""), ("b.jpg", jpeg(2))]
    write_tar(tmp_path / "t" / "a.tar", members)
    wds2idx(tmp_path / "t" / "a.tar", tmp_path / "t" / "a.idx")
    fsspec.filesystem("s3").put(str(tmp_path / "t") + "/", f"{root}/t", recursive=True)
    open_dataset(f"{root}/t").to_webdataset(tmp_path / "new", use_index_files=True)
    assert list(read_tar(tmp_path / "new" / "00000.tar").values()) == [one[1] for one in members]


def test_memory_does_not_grow_with_the_number_of_open_shards(tmp_path):
    # Rows that alternate between shards must not map each shard anew for every row.
    made = make_dataset(tmp_path / "tars", sizes=[30, 30])
    dataset = open_dataset(made.root)
    dataset.metadata = dataset.metadata.sort_values(["width", "key"])
    dataset.to_webdataset(tmp_path / "new", samples_per_shard=100, old_id_col="old")
    rows = sorted(made.rows, key=lambda row: (row["width"], row["key"]))
    check(tmp_path / "new", made, rows, 100)
    assert fields_of(0, 0)["key"] == made.keys[0]


def test_names_in_another_encoding_keep_their_bytes(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("caf\udce9.jpg", "caf\udce9.txt"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(name[-3:].encode()))
    dataset = open_dataset(tmp_path)
    summary = dataset.to_webdataset(tmp_path / "new", old_id_col="old")
    assert (summary.samples, summary.missing) == (1, 0)
    assert rows_of(open_dataset(tmp_path / "new"))[0]["old"] == "caf\\xe9"
    assert list(read_tar(tmp_path / "new" / "00000.tar").values()) == [b"jpg", b"txt"]


def test_the_image_member_decides_which_samples_are_exported(tmp_path):
    members = [("a.input.jpg", jpeg(1)), ("a.mask.png", jpeg(2)), ("b.input.jpg", jpeg(3))]
    write_tar(tmp_path / "in" / "0.tar", members)
    for image_member, kept in ((None, 2), ("mask.png", 1), ("input.*", 2), ("webp", 0)):
        dataset = open_dataset(tmp_path / "in", image_member=image_member)
        output = tmp_path / f"out {image_member}".replace("*", "")
        done = dataset.to_webdataset(output)
        assert (done.samples, done.missing) == (kept, 2 - kept)
        if kept:
            again = open_dataset(output)
            assert again.image_member == image_member, "it is still needed there"
            members_of_first = [name for name in read_tar(output / "00000.tar") if "0000." in name]
            assert len(members_of_first) == 2, "all members are copied"


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_packed_tars_are_exported_as_plain_ones(tmp_path, kind):
    made = make_dataset(tmp_path / "in", sizes=[4, 3])
    for shard in ("00000", "00001"):
        tar = tmp_path / "in" / f"{shard}.tar"
        tar.with_name(f"{shard}.tar.gz").write_bytes(PACK[kind](tar.read_bytes()))
        tar.unlink()
    dataset = open_dataset(made.root)
    assert {row["shard"] for row in rows_of(dataset)} == {"00000.tar.gz", "00001.tar.gz"}
    dataset.to_webdataset(tmp_path / "out", samples_per_shard=5, old_id_col="old")
    check(tmp_path / "out", made, made.rows, 5)


def test_packed_tars_in_a_bucket_are_exported(tmp_path, bucket):
    import fsspec

    made = make_dataset(tmp_path / "in", sizes=[3], sidecars=False)
    packed = PACK["gzip"]((tmp_path / "in" / "00000.tar").read_bytes())
    root = bucket()
    (tmp_path / "a").write_bytes(packed)
    fsspec.filesystem("s3").put(str(tmp_path / "a"), f"{root}/00000.tgz")
    open_dataset(root).to_webdataset(tmp_path / "out", old_id_col="old")
    members = read_tar(tmp_path / "out" / "00000.tar")
    images = [content for name, content in members.items() if name.endswith(".jpg")]
    assert images == list(made.images.values())


def test_images_without_extension_get_the_ending_of_their_format(tmp_path):
    members = [("a", jpeg(1)), ("a.txt", b"words"), ("b", jpeg(2, kind="PNG"))]
    members += [("c", jpeg(3)), ("c.jpg", jpeg(4))]
    write_tar(tmp_path / "in" / "0.tar", members)
    open_dataset(tmp_path / "in").to_webdataset(tmp_path / "out", samples_per_shard=9)
    assert read_tar(tmp_path / "out" / "00000.tar") == {
        "000000.jpg": jpeg(1),
        "000000.txt": b"words",
        "000001.png": jpeg(2, kind="PNG"),
        "000002.image.jpg": jpeg(3),
        "000002.jpg": jpeg(4),
    }


def test_links_updates_and_concatenated_tars_are_exported_whole(tmp_path):
    import tarfile

    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "0.tar", "w") as tar:
        for name, content in (("a.jpg", jpeg(1)), ("b.jpg", None), ("a.jpg", jpeg(2))):
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.LNKTYPE, "a.jpg"
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    more = write_tar(tmp_path / "more.tar", [("c.jpg", jpeg(3))]).read_bytes()
    with (tmp_path / "in" / "0.tar").open("ab") as file:
        file.write(more)
    open_dataset(tmp_path / "in").to_webdataset(tmp_path / "out")
    contents = list(read_tar(tmp_path / "out" / "00000.tar").values())
    assert contents == [jpeg(2), jpeg(1), jpeg(3)]


# --- samples that come several times -----------------------------------------------------------


@pytest.mark.parametrize("per_shard", [3, 100])
def test_rows_are_written_as_often_as_a_column_says(made, tmp_path, backend, per_shard):
    dataset = open_dataset(made.root, backend=backend)
    frame = dataset.metadata
    frame["copies"] = (frame.width - 32).where(frame.width != 33, None)
    new = tmp_path / "new"

    def run() -> object:
        return dataset.to_webdataset(
            new, samples_per_shard=per_shard, old_id_col="old", multiplicity="copies"
        )

    done = run()
    wanted = [row for row in made.rows if row["width"] > 33]
    samples = [row for row in wanted for _ in range(row["width"] - 32)]
    assert (done.rows, done.samples, done.filtered) == (len(wanted), len(samples), 6)
    assert (done.null, done.null_columns) == (3, {"copies": 3})
    check(new, made, samples, per_shard)
    # Each is one sample now: exported by that column again it would be the same.
    assert {row["copies"] for row in rows_of(open_dataset(new))} == {1}
    content, before = digests(new), times(new)
    assert run() == done
    assert times(new) == before
    for name in ("00000.tar", "_export.json"):
        (new / name).unlink()
    for rest in new.glob("*.tar"):
        rest.unlink()
    assert run() == done
    assert digests(new) == content


def test_how_often_is_part_of_what_was_exported(made, tmp_path):
    dataset = open_dataset(made.root)
    dataset.metadata = dataset.metadata.assign(once=1, twice=2)
    dataset.to_webdataset(tmp_path / "new", multiplicity="once")
    with pytest.raises(DatasetError, match="holds an export of other rows or settings"):
        dataset.to_webdataset(tmp_path / "new", multiplicity="twice")
    assert dataset.to_webdataset(tmp_path / "plain").samples == len(made.rows)


def test_a_row_cannot_be_written_half(made, tmp_path):
    dataset = open_dataset(made.root)
    dataset.metadata["copies"] = dataset.metadata.width / 32
    with pytest.raises(DatasetError, match=r"'copies' holds 1\.03\d* for the sample 000000001 of"):
        dataset.filter("shard == '00000.tar'").to_webdataset(
            tmp_path / "new", multiplicity="copies"
        )


@pytest.mark.parametrize("content", [b"[]", b"{", b"[" * 100_000], ids=["list", "cut", "deep"])
def test_a_damaged_manifest_is_named(made, tmp_path, content):
    dataset = open_dataset(made.root)
    dataset.to_webdataset(tmp_path / "out")
    (tmp_path / "out" / "_export.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"out/_export\.json is damaged"):
        dataset.to_webdataset(tmp_path / "out")
