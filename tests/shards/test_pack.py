"""Loose image files become shards."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageTextPairDataset, inspect_dataset
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.pack import find_images, pack, read_captions
from nemo_image_curate.shards.reader import TarShard
from tests.make_data import jpeg, read_tar
from tests.make_embedders import rows


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders, among other files."""
    files = {
        "b.jpg": jpeg(1),
        "a.JPEG": jpeg(2),
        "sub/c.png": jpeg(3, kind="PNG"),
        "sub/größe 猫.webp": jpeg(4, kind="WEBP"),
        "notes.txt": b"no picture",
        "README": b"no picture either",
        ".DS_Store": b"nor this",
        "sub/archive.tar": b"nor that",
    }
    for name, content in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "photos"


NAMES = ["a.JPEG", "b.jpg", "sub/c.png", "sub/größe 猫.webp"]


def test_images_of_a_folder_are_those_with_an_images_extension(folder):
    found = find_images([folder])
    assert [name for _, name in found] == NAMES
    assert [path for path, _ in found] == [folder / name for name in NAMES]


def test_files_are_taken_whatever_they_are_called(folder, tmp_path):
    (tmp_path / "scan").write_bytes(jpeg(5))
    (tmp_path / "photo.txt").write_bytes(jpeg(6))
    (tmp_path / "upload.bin").write_bytes(jpeg(7))
    names = ["scan", "photo.txt", "upload.bin"]
    found = find_images([folder / "b.jpg", *(tmp_path / name for name in names)])
    assert [name for _, name in found] == ["b.jpg", *names]
    pack(found, tmp_path / "out", {"photo.txt": ["a caption"]})
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "out")
    with TarShard(ds.tar_files[0]) as shard:
        members = [shard.index.image(row["key"]) for row in rows(ds)]
        assert list(shard.read(members)) == [jpeg(1), jpeg(5), jpeg(6), jpeg(7)]


def test_paths_without_images(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        find_images([folder, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no images in .*looked for .*jpg"):
        find_images([tmp_path / "empty"])


def test_shards_hold_the_files_byte_for_byte(folder, tmp_path):
    captions = {"b.jpg": ["eine Straße 🐈"], "c.png": ["found by its bare name"]}
    tars = pack(find_images([folder]), tmp_path / "out", captions, samples_per_shard=3)
    assert [tar.rpartition("/")[2] for tar in tars] == ["00000.tar", "00001.tar"]
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
    (tar,) = pack(find_images([folder]), tmp_path / "out")
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
    (first,) = pack(find_images([folder]), tmp_path / "out")
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
    found = find_images([folder])
    (folder / "b.jpg").unlink()
    with pytest.raises(DatasetError, match=r"cannot read .*b\.jpg"):
        pack(found, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


def write(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_captions_by_file_name(tmp_path):
    path = write(
        tmp_path / "c.csv",
        'image,caption\na.jpg,one\n"b, c.jpg","with ""quotes"", and\na second line"\na.jpg,two\n'
        "größe 猫.webp,画像\nempty.jpg,\n",
    )
    assert read_captions(path) == {
        "a.jpg": ["one", "two"],
        "b, c.jpg": ['with "quotes", and\na second line'],
        "größe 猫.webp": ["画像"],
        "empty.jpg": [""],
    }


@pytest.mark.parametrize(
    "header", ["image,caption", "File,Text", "note,file_name,caption", "caption,path"]
)
def test_columns_go_by_several_names_and_stand_anywhere(tmp_path, header):
    values = {"image": "a.jpg", "file": "a.jpg", "file_name": "a.jpg", "path": "a.jpg"}
    values |= {"caption": "x", "text": "x", "note": "-"}
    line = ",".join(values[name.lower()] for name in header.split(","))
    path = write(tmp_path / "c.csv", f"{header}\r\n{line}\r\n", "utf-8-sig")
    assert read_captions(path) == {"a.jpg": ["x"]}


def test_csv_files_that_are_none(tmp_path):
    with pytest.raises(DatasetError, match=r"it has: image, label"):
        read_captions(write(tmp_path / "c.csv", "image,label\na.jpg,x\n"))
    with pytest.raises(DatasetError, match=r"needs a column of file names"):
        read_captions(write(tmp_path / "e.csv", ""))
    with pytest.raises(DatasetError, match="not a readable CSV file in UTF-8"):
        read_captions(write(tmp_path / "l.csv", "image,caption\na.jpg,größe\n", "latin-1"))
    with pytest.raises(DatasetError, match=r"nowhere\.csv"):
        read_captions(tmp_path / "nowhere.csv")
