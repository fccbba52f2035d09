"""Columns of tables of one's own, against a dict, however rows are spread."""

from __future__ import annotations

import logging
import shutil

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

from nemo_image_curate import ClipScore, ImageTextPairDataset, Join
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DamagedError,
    DatasetError,
    EncoderMismatchError,
    SchemaError,
)
from nemo_image_curate.selection import join_table, joining
from tests.make_data import digests, write_sidecar, write_tar
from tests.make_embedders import rows

DIM = 8
CLIP = "openai/clip-vit-large-patch14"
UIDS = [None if n == 5 else f"uid-{n}" for n in range(30)]
# Of other rows, too, in another order; some rows of the dataset have none.
OWN = [*range(99, 40, -1), *(n for n in reversed(range(30)) if n % 4)]


def make_dataset(folder, backend: str = "cpu", sizes=(7, 0, 12, 11)) -> ImageTextPairDataset:
    start = 0
    for shard, size in enumerate(sizes):
        numbers = range(start, start + size)
        start += size
        keys = [f"{shard:03d}{number:04d}" for number in numbers]
        write_tar(folder / f"{shard:03d}.tar", [(f"{key}.txt", b"") for key in keys])
        columns = {
            "key": pa.array(keys, pa.string()),
            "uid": pa.array([UIDS[number] for number in numbers], pa.string()),
            "number": pa.array(numbers, pa.int32()),
        }
        write_sidecar(folder / f"{shard:03d}.parquet", columns)
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


@pytest.fixture
def ds(tmp_path, backend):
    return make_dataset(tmp_path / "in", backend)


def vector(number: int) -> list[float]:
    return [number + step / 4 for step in range(DIM)]


def table(numbers=OWN) -> pa.Table:
    return pa.table(
        {
            "uid": pa.array([f"uid-{n}" for n in numbers], pa.large_string()),
            "own": [n / 2 if n % 3 else None for n in numbers],
            "name": [f"a name of {n}" for n in numbers],
            "image_embedding": pa.array(
                [np.array(vector(n), "f2") for n in numbers], pa.list_(pa.float16())
            ),
        }
    )


def write(folder, numbers=OWN, files: int = 3):
    folder.mkdir()
    for file, part in enumerate(np.array_split(np.array(numbers), files)):
        pq.write_table(table(part.tolist()), folder / f"{file}.parquet", row_group_size=9)
        arrays = np.array([vector(n) for n in part], "f2")
        np.savez(folder / f"{file}.npz", l14_img=arrays, l14_txt=arrays[:, ::-1], s=arrays[:, 0])
    return folder


def expected(numbers=OWN) -> list[dict]:
    known = {row["uid"]: row for row in table(numbers).to_pylist()}
    nothing = dict.fromkeys(("own", "name", "image_embedding"))
    return [{**nothing, **known.get(uid, {}), "uid": uid} for uid in UIDS]


def without(found: list[dict], *names: str) -> list[dict]:
    return [{name: row[name] for name in row if name not in names} for row in found]


def join(ds, source, **options):
    return Join(source, **options)(ds)


def test_rows_stay_and_have_what_the_table_says(tmp_path, ds, client, caplog):
    source = write(tmp_path / "own")
    with caplog.at_level(logging.INFO):
        joined = join(ds, source, work_dir=tmp_path / "work")
    found = rows(joined)
    assert without(found, "key", "shard", "number") == expected()
    assert without(found, "own", "name", "image_embedding") == rows(ds)
    assert (
        "21 of 30 rows of the dataset are in the table, by uid; 21 of 81 rows of the table"
        in caplog.text
    )
    saved = joined.save_metadata(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").glob("*.parquet")) == [
        f"{shard:03d}.parquet" for shard in range(4)
    ]
    assert rows(saved) == found
    assert str(saved.metadata.dtypes["image_embedding"]).startswith(("list<item: float>", "list"))
    assert len(saved.filter("own > 5")) == sum((row["own"] or 0) > 5 for row in expected())


@pytest.mark.parametrize("spell", ["folder", "glob", "list", "file", "pandas", "arrow"])
def test_all_forms_of_a_table(tmp_path, ds, spell):
    folder = write(tmp_path / "own", files=1 if spell == "file" else 3)
    sources = {
        "folder": folder,
        "glob": f"{folder}/*.parquet",
        "list": sorted(folder.glob("*.parquet")),
        "file": folder / "0.parquet",
        "pandas": table().to_pandas(),
        "arrow": table(),
    }
    joined = join(ds, sources[spell], work_dir=tmp_path / "work")
    assert without(rows(joined), "key", "shard", "number") == expected()


@pytest.mark.parametrize("place", ["{}", "{}/*.parquet"])
def test_a_table_in_an_object_store(tmp_path, bucket, place):
    url = bucket()
    fsspec.filesystem("s3").put(f"{write(tmp_path / 'own')}/", f"{url}/own/", recursive=True)
    ds = make_dataset(tmp_path / "in")
    joined = join(ds, place.format(f"{url}/own"), names=["own"], arrays={"image": "l14_img"})
    assert [row["own"] for row in rows(joined)] == [row["own"] for row in expected()]
    assert [row["image"] for row in rows(joined)] == [row["image_embedding"] for row in expected()]


def test_pieces_buckets_and_workers_change_no_byte(tmp_path, monkeypatch, workers):
    ds, source = make_dataset(tmp_path / "in"), write(tmp_path / "own")
    with Client(workers):
        join(ds, source, work_dir=tmp_path / "a").save_metadata(tmp_path / "once")
    monkeypatch.setattr(joining, "_BUCKET_BYTES", 200)
    monkeypatch.setattr(join_table, "_PIECE_BYTES", 100)
    joined = join(ds, write(tmp_path / "moved"), work_dir=tmp_path / "b")
    assert len(list((tmp_path / "b").rglob("*.npy"))) > 3
    joined.save_metadata(tmp_path / "twice")
    assert digests(tmp_path / "once") == digests(tmp_path / "twice")


def test_finished_shards_stay_when_the_dataset_grows(tmp_path):
    source, folder = write(tmp_path / "own"), tmp_path / "in"
    make_dataset(folder, sizes=(7, 9, 14))
    for file in list(folder.glob("002.*")):
        file.rename(tmp_path / file.name)
    join(ImageTextPairDataset.from_webdataset(folder), source).save_metadata(tmp_path / "saved")
    changed = (tmp_path / "saved" / "000.parquet").stat().st_mtime_ns
    for file in list(tmp_path.glob("002.*")):
        file.rename(folder / file.name)
    more = join(ImageTextPairDataset.from_webdataset(folder), source)
    saved = more.save_metadata(tmp_path / "saved")
    assert (tmp_path / "saved" / "000.parquet").stat().st_mtime_ns == changed
    assert without(rows(saved), "key", "shard", "number") == expected()
    assert "conflict" not in saved.provenance["own"]


def test_a_table_is_read_once_after_a_restart(tmp_path, monkeypatch):
    ds, source = make_dataset(tmp_path / "in"), write(tmp_path / "own")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(joining, "_match_all", stop)
        with pytest.raises(KeyboardInterrupt):
            join(ds, source, work_dir=tmp_path / "work")
    for file in [*source.glob("*.parquet")]:
        # The footers only.
        content = bytearray(file.read_bytes())
        content[4 : len(content) // 4] = bytes(len(content) // 4 - 4)
        file.write_bytes(content)
    joined = join(ds, source, work_dir=tmp_path / "work")
    assert without(rows(joined), "key", "shard", "number") == expected()
    assert [path.name.partition("-")[0] for path in (tmp_path / "work").glob("*/*")] == ["joined"]


def test_only_rows_that_match_are_kept(tmp_path):
    ds = make_dataset(tmp_path / "in")
    join(ds, table([*OWN, *range(1000, 9000)]), work_dir=tmp_path / "work")
    kept = sum(path.stat().st_size for path in (tmp_path / "work").rglob("*") if path.is_file())
    assert kept < 10_000


def test_files_that_are_gone_are_named(tmp_path, backend):
    ds = make_dataset(tmp_path / "in", backend)
    joined = join(ds, table(), work_dir=tmp_path / "work")
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(DatasetError, match=r"is gone.*Run Join again"):
        rows(joined)


def test_arrays_beside_the_files(tmp_path, ds):
    source = write(tmp_path / "own")
    arrays = {"image": "l14_img", "text": "l14_txt", "first": "s"}
    joined = join(ds, source, names=["own"], arrays=arrays, encoder=CLIP)
    for row, wanted in zip(rows(joined), expected(), strict=True):
        image = wanted["image_embedding"]
        assert row["own"] == wanted["own"]
        assert row["image"] == image
        assert row["text"] == (image and image[::-1])
        assert row["first"] == (image and image[0])
        assert "image_embedding" not in row
    assert joined.provenance["image"]["encoder"] == joined.provenance["text"]["encoder"] == CLIP
    assert "encoder" not in joined.provenance["own"]


def test_only_arrays(tmp_path, ds):
    joined = join(ds, write(tmp_path / "own"), names=[], arrays={"image": "l14_img"})
    assert [row["image"] for row in rows(joined)] == [row["image_embedding"] for row in expected()]


def test_scores_accept_embeddings_of_an_encoder_that_was_told(tmp_path, ds):
    source = write(tmp_path / "own")
    arrays = {"image_embedding": "l14_img", "text_embedding": "l14_txt"}
    with pytest.raises(EncoderMismatchError):
        ClipScore()(join(ds, source, names=[], arrays=arrays))
    scores = rows(ClipScore()(join(ds, source, names=[], arrays=arrays, encoder=CLIP)))
    for row, wanted in zip(scores, expected(), strict=True):
        image = wanted["image_embedding"]
        cosine = image and np.dot(image, image[::-1]) / np.dot(image, image)
        assert row["clip_score"] == (cosine and pytest.approx(cosine, abs=1e-3))


def test_by_whole_numbers_and_by_key(tmp_path, ds):
    own = pd.DataFrame({"number": np.array(OWN, "uint8"), "key": [f"k{n}" for n in OWN]})
    joined = join(ds, own.rename(columns={"key": "own"}), on="number")
    assert [row["own"] for row in rows(joined)] == [
        f"k{n}" if n in OWN else None for n in range(30)
    ]
    keys = pd.DataFrame({"key": [row["key"] for row in rows(ds)][::-1], "own": range(30)})
    assert [row["own"] for row in rows(join(ds, keys, on="key"))] == [*range(29, -1, -1)]


def test_a_row_twice_in_the_dataset_has_it_twice(tmp_path, ds, caplog):
    own = pa.table({"shard": ["000.tar", "003.tar", "009.tar"], "own": [1, 2, 3]})
    found = rows(join(ds, own, on="shard"))
    assert [row["own"] for row in found] == [1] * 7 + [None] * 12 + [2] * 11
    assert "18 of 30 rows of the dataset" in caplog.text
    assert "2 of 3 rows of the table" in caplog.text


def test_a_value_twice_in_the_table_is_named(tmp_path):
    ds, source = make_dataset(tmp_path / "in"), write(tmp_path / "own", [*OWN, 7, 50, 50])
    with pytest.raises(ConfigError, match=r"has uid='uid-50' more than once, and 2 such values"):
        join(ds, source, work_dir=tmp_path / "work")
    shutil.rmtree(source)
    joined = join(ds, write(tmp_path / "own"), work_dir=tmp_path / "work")
    assert without(rows(joined), "key", "shard", "number") == expected()


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"on": "nr"}, ColumnNotFoundError, "no column 'nr'"),
        ({}, {"names": ["onw"]}, ColumnNotFoundError, r"no column 'onw'\..*Did you mean 'own'"),
        ({}, {"names": "own"}, ConfigError, r"should be a list: \['own'\]"),
        ({}, {"names": ["own", "uid"]}, ConfigError, "different columns"),
        ({}, {"names": [], "arrays": None}, ConfigError, "no other column than 'uid'"),
        ({"key": "a"}, {}, ConfigError, r"of these names already: key\. Choose others"),
        (
            {},
            {"names": ["own"], "encoder": CLIP},
            ConfigError,
            "no column of embeddings, only: own",
        ),
        ({"uid": 3}, {}, ConfigError, r"'uid' is .* in the table\. .*: cast one of them"),
        ({"uid": "x"}, {}, DatasetError, r"0 of 30 rows.*both write 'uid' in the same way"),
        ({}, {"arrays": {"a": "l14_img"}}, ConfigError, "this table is in memory"),
    ],
)
def test_what_cannot_be_joined_is_told(tmp_path, ds, change, options, error, message):
    own = table().to_pandas().drop(columns="image_embedding").assign(**change)
    if "uid" in change and isinstance(change["uid"], str):
        own["uid"] = [f"x{n}" for n in range(len(own))]
    with pytest.raises(error, match=message):
        join(ds, own, work_dir=tmp_path / "work", **options)


def test_tables_that_cannot_be_read_are_told(tmp_path):
    ds, source = make_dataset(tmp_path / "in"), write(tmp_path / "own")
    with pytest.raises(DatasetError, match=r"nowhere\.parquet"):
        join(ds, tmp_path / "nowhere.parquet")
    with pytest.raises(DatasetError, match="there are no Parquet files at"):
        join(ds, f"{source}/*.csv")
    with pytest.raises(ConfigError, match=r"not dict\. Write it first"):
        join(ds, {"uid": ["uid-1"]})
    with pytest.raises(ConfigError, match="has no array 'b32_img', only: l14_img, l14_txt, s"):
        join(ds, source, names=[], arrays={"a": "b32_img"})
    pq.write_table(table().drop_columns("own"), source / "0.parquet")
    with pytest.raises(DatasetError, match=r"0\.npz: l14_img has shape \(27, 8\), and .* 81 rows"):
        join(ds, source, names=[], arrays={"a": "l14_img"})
    with pytest.raises(ColumnNotFoundError, match="no column 'own'"):
        join(ds, source, names=["own"])
    shutil.move(source / "0.parquet", source / "8.parquet")
    with pytest.raises(SchemaError, match=r"8\.parquet has no column 'own', unlike"):
        join(ds, source, names=["own"])
    (source / "9.parquet").write_bytes(b"PAR1 and more PAR1")
    with pytest.raises(
        DamagedError, match=r"(?s)9\.parquet is no readable Parquet file: .*[^.]\. Other tables"
    ):
        join(ds, source, names=["name"])
