"""Loose image files become shards."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageTextPairDataset, inspect_dataset
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.loose import find_images
from nemo_image_curate.shards.pack import pack
from nemo_image_curate.shards.reader import TarShard
from tests.make_data import jpeg, read_tar
from tests.make_embedders import rows
from tests.shards.conftest import NAMES


def test_shards_hold_the_files_byte_for_byte(folder, tmp_path):
    captions = {"b.jpg": ["eine Straße 🐈"], "c.png": ["found by its bare name"]}
    summary = pack(find_images([folder]), tmp_path / "out", captions, samples_per_shard=3)
    assert [tar.rpartition("/")[2] for tar in summary.tars] == ["00000.tar", "00001.tar"]
    first, second = (read_tar(tmp_path / "out" / f"{n:05d}.tar") for n in range(2))
    assert list(first) == [
        *("000000.jpeg", "000000.json"),
        *("000001.jpg", "000001.txt", "000001.json"),
        *("000002.png", "000002.txt", "000002.json"),
    ]
    assert first["000000.jpeg"] == jpeg(2)
    assert first["000001.txt"].decode() == "eine Straße 🐈"
    assert second["000010.webp"] == jpeg(4, kind="WEBP")
    assert json.loads(second["000010.json"])["file"] == NAMES[3]
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "out")
    assert [row["file"] for row in rows(ds)] == NAMES
    assert [row["caption"] for row in rows(ds)] == [
        None,
        "eine Straße 🐈",
        "found by its bare name",
        None,
    ]
    assert inspect_dataset(ds)["faults"] == []


def test_index_files_fit_their_tars(folder, tmp_path):
    (tar,) = pack(find_images([folder]), tmp_path / "out").tars
    with TarShard(tar, use_index_file=True) as by_idx, TarShard(tar) as by_scan:
        assert by_idx._read_idx() is not None
        assert by_idx.index.samples == by_scan.index.samples


def test_columns_do_not_depend_on_the_sidecars(folder, tmp_path):
    pack(find_images([folder]), tmp_path / "out", {"b.jpg": ["x"]}, fields={"c": {"n": 1}})
    with_sidecars = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    (tmp_path / "out" / "00000.parquet").unlink()
    assert rows(ImageTextPairDataset.from_webdataset(tmp_path / "out")) == with_sidecars


def test_several_captions(folder, tmp_path):
    captions = {"a.JPEG": ["one"], "c.png": ["one", "two", "three"]}
    pack(find_images([folder]), tmp_path / "out", captions, samples_per_shard=1)
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [row["caption"] for row in found] == ["one", None, "one", None]
    assert [row["captions"] for row in found] == [["one"], [], ["one", "two", "three"], []]
    texts = pa.list_(pa.field("element", pa.string()))
    for path in (tmp_path / "out").glob("*.parquet"):
        schema = pq.read_schema(path)
        assert schema.field("caption").type == pa.string()
        assert schema.field("captions").type.value_type == texts.value_type


def test_labels_beside_images(folder, tmp_path):
    for name, label in {"a": "7\n", "b": " -1 ", "sub/c": "007"}.items():
        (folder / f"{name}.cls").write_text(label)
    summary = pack(find_images([folder]), tmp_path / "out", samples_per_shard=2)
    assert (summary.texts, summary.captioned) == (3, 0)
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out" / "00000.tar"))
    assert [row["cls"] for row in found] == [7, -1]


def test_fields_that_only_some_files_have(folder, tmp_path):
    fields = {"b.jpg": {"licence": "CC0"}, "sub/c.png": {"licence": "MIT", "year": 1999}}
    pack(find_images([folder]), tmp_path / "out", fields=fields)
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [row["licence"] for row in found] == [None, "CC0", "MIT", None]
    assert [row["year"] for row in found] == [None, None, 1999, None]


def test_the_same_files_give_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        pack(find_images([folder]), tmp_path / name, samples_per_shard=2)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_output_that_holds_shards_is_left_alone(folder, tmp_path):
    (first,) = pack(find_images([folder]), tmp_path / "out").tars
    before = Path(first).read_bytes()
    with pytest.raises(DatasetError, match="holds shards of other images"):
        pack(find_images([folder / "b.jpg"]), tmp_path / "out")
    assert Path(first).read_bytes() == before


def test_unusable_arguments(folder, tmp_path):
    with pytest.raises(ConfigError, match="samples_per_shard=0"):
        pack(find_images([folder]), tmp_path / "out", samples_per_shard=0)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot create"):
        pack(find_images([folder]), tmp_path / "file" / "out")


def closes(summary, found: int) -> bool:
    """Whether every file that was found is told of."""
    told = summary.samples + summary.texts + sum(summary.left_out.values()) + summary.unreadable
    return told == found


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_captions_and_columns_beside_the_images(tmp_path):
    """As img2dataset writes its default format, with names in its .json that are ours."""
    record = {"key": "000000001", "caption": "from json", "width": 32, "shard": 7, "exif": {"a": 1}}
    record["image_error"] = "theirs"
    files = {
        "00000/000000000.jpg": jpeg(0),
        "00000/000000000.txt": "größe\n".encode(),
        "00000/000000000.json": json.dumps({**record, "key": "000000000"}).encode(),
        "00000/000000001.jpg": jpeg(1),
        "00000/000000001.json": json.dumps(record).encode(),
        "00000/b.caption": "﻿with a mark".encode(),
        "00000/b.png": jpeg(2, kind="PNG"),
        "00000/c.jpg": jpeg(3),
        "00000/c.jpg.txt": "wide".encode("utf-16"),
        "00000/d.jpg": jpeg(4),
        "00000/d.caption": b"less",
        "00000/d.txt": b"more",
        "00000_stats.json": b"{}",
    }
    summary = pack(find_images([put(tmp_path / "in", files)]), tmp_path / "out")
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [row["caption"] for row in found] == [
        "größe",
        "from json",
        "with a mark",
        "wide",
        "more",
    ]
    assert [row["key"] for row in found] == [f"00000000{number}" for number in range(5)]
    assert [row["original_key"] for row in found] == ["000000000", "000000001", None, None, None]
    assert [row["original_caption"] for row in found] == ["from json", None, None, None, None]
    assert [row["width"] for row in found] == [32, 32, None, None, None]
    assert found[0]["original_shard"] == 7
    assert found[0]["original_image_error"] == "theirs"
    assert "image_error" not in found[0]
    assert json.loads(found[0]["exif"]) == {"a": 1}
    assert summary.left_out == {
        "caption (there is another caption)": 1,
        "json (no image of that name)": 1,
    }
    assert (summary.samples, summary.captioned, summary.texts) == (5, 5, 6)
    assert closes(summary, len(files))
    (tmp_path / "out" / "00000.parquet").unlink()
    assert rows(ImageTextPairDataset.from_webdataset(tmp_path / "out")) == found


def test_texts_that_give_nothing_are_told(tmp_path):
    files = {f"{number}.jpg": jpeg(number) for number in range(5)}
    files |= {"0.txt": "größe".encode("latin-1"), "1.json": b"[1]", "2.json": b"{", "3.txt": b""}
    files |= {"4.json": b'{"a": "half \\ud83d", "b": 1e999, "c": 123456789012345678901234567890}'}
    put(tmp_path / "in", files)
    summary = pack(find_images([tmp_path / "in"]), tmp_path / "out")
    assert summary.left_out == {
        "json (no JSON object)": 2,
        "txt (not UTF-8: give --encoding NAME)": 1,
    }
    assert closes(summary, len(files))
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [row["caption"] for row in found] == [None, None, None, "", None]
    assert found[4]["a"] == "half ?"
    pack(find_images([tmp_path / "in"]), tmp_path / "again", encoding="latin-1")
    assert rows(ImageTextPairDataset.from_webdataset(tmp_path / "again"))[0]["caption"] == "größe"
    with pytest.raises(ConfigError, match=r"encoding='klingon' is no encoding"):
        pack(find_images([tmp_path / "in"]), tmp_path / "never", encoding="klingon")


def test_a_table_of_captions_counts_more_than_files(tmp_path):
    files = {"0.jpg": jpeg(0), "0.txt": b"beside", "1.jpg": jpeg(1), "1.txt": b"beside"}
    put(tmp_path / "in", files)
    summary = pack(find_images([tmp_path / "in"]), tmp_path / "out", {"0.jpg": ["table"]})
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [row["caption"] for row in found] == ["table", "beside"]
    assert summary.left_out == {"txt (the table of captions counts more)": 1}
    assert (summary.rows, summary.rows_without_image, summary.images_without_row) == (1, 0, 1)
    assert closes(summary, len(files))


def test_values_of_several_types_become_their_text(tmp_path):
    widths = [512, "n/a", None, [1, 2], 1.5]
    files = {f"{number}.jpg": jpeg(number) for number in range(5)}
    files |= {
        f"{number}.json": json.dumps({"width": width}).encode()
        for number, width in enumerate(widths)
    }
    pack(find_images([put(tmp_path / "in", files)]), tmp_path / "out")
    found = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert [row["width"] for row in found] == ["512", "n/a", None, "[1, 2]", "1.5"]


def test_captions_that_go_to_no_image(folder, tmp_path, caplog):
    with pytest.raises(DatasetError, match=r"3 of 3 rows go to no image: no image goes by 'x.jpg'"):
        pack(find_images([folder]), tmp_path / "out", {"x.jpg": ["a", "b"], "y.jpg": ["c"]})
    assert not list((tmp_path / "out").glob("*"))
    captions = {"x.jpg": ["a", "b"], "b.jpg": ["c"]}
    summary = pack(find_images([folder]), tmp_path / "out", captions)
    assert (summary.rows, summary.rows_without_image, summary.images_without_row) == (3, 2, 3)
    assert re.search(r"2 of 3 rows .*'x.jpg'.* 3 of 4 images have no row: 'a.JPEG', ", caplog.text)


def test_what_cannot_be_read_does_not_stop_the_others(folder, tmp_path, caplog):
    files = find_images([folder])
    (folder / "b.jpg").unlink()
    (folder / "broken.jpg").symlink_to(folder / "nowhere")
    summary = pack(files, tmp_path / "out")
    assert (summary.samples, summary.unreadable) == (3, 1)
    assert "b.jpg (No such file or directory)" in caplog.text
    assert len(ImageTextPairDataset.from_webdataset(tmp_path / "out")) == 3
    summary = pack(find_images([folder]), tmp_path / "again")
    assert (summary.samples, summary.unreadable) == (3, 1)
    assert "broken.jpg (No such file or directory)" in caplog.text
    for path in files.images:
        path.path.unlink(missing_ok=True)
    with pytest.raises(DatasetError, match=r"no images to pack.*a\.JPEG .*and 1 more"):
        pack(files, tmp_path / "never")


def test_a_stopped_pack_goes_on_and_counts_all(tmp_path):
    files = {f"{number}.jpg": jpeg(number) for number in range(5)}
    files |= {f"{number}.json": b"broken" for number in range(5)}
    put(tmp_path / "in", files)
    summaries = []
    for lost in ((), ("00002.parquet",), ("00001.parquet", "00001.tar")):
        for name in lost:
            (tmp_path / "out" / name).unlink()
        summaries.append(pack(find_images([tmp_path / "in"]), tmp_path / "out", None, 2))
    assert summaries[0] == summaries[1] == summaries[2]
    assert summaries[0].left_out == {"json (no JSON object)": 5}


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_names_that_are_not_utf8(tmp_path):
    name = os.fsencode(tmp_path / "in") + b"/caf\xe9.jpg"
    (tmp_path / "in").mkdir()
    with open(name, "wb") as file:
        file.write(jpeg(1))
    with open(name[:-3] + b"txt", "wb") as file:
        file.write(b"a cafe")
    pack(find_images([tmp_path / "in"]), tmp_path / "out")
    (row,) = rows(ImageTextPairDataset.from_webdataset(tmp_path / "out"))
    assert (row["file"], row["caption"]) == ("caf\\xe9.jpg", "a cafe")
