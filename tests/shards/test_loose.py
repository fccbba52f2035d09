"""Images are found by their bytes, and what is no image is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.loose import find_images
from nemo_image_curate.shards.pack import pack
from nemo_image_curate.shards.reader import TarShard
from tests.make_data import jpeg
from tests.make_embedders import rows
from tests.shards.conftest import NAMES


def test_images_of_a_folder_are_those_with_an_images_extension(folder):
    found = find_images([folder])
    assert [image.name for image in found] == NAMES
    assert [image.path for image in found] == [folder / name for name in NAMES]
    assert found.left_out == {
        "hidden or system file": 1,
        "txt (no image of that name)": 1,
        "without ending": 1,
        "tar": 1,
    }


def test_files_are_taken_whatever_they_are_called(folder, tmp_path):
    (tmp_path / "scan").write_bytes(jpeg(5))
    (tmp_path / "photo.txt").write_bytes(jpeg(6))
    (tmp_path / "upload.bin").write_bytes(jpeg(7))
    names = ["scan", "photo.txt", "upload.bin"]
    found = find_images([folder / "b.jpg", *(tmp_path / name for name in names)])
    assert [image.name for image in found] == ["b.jpg", *names]
    pack(found, tmp_path / "out", {"photo.txt": ["a caption"]})
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "out")
    with TarShard(ds.tar_files[0]) as shard:
        members = [shard.index.image(row["key"]) for row in rows(ds)]
        assert list(shard.read(members)) == [jpeg(1), jpeg(5), jpeg(6), jpeg(7)]


def test_paths_without_images(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        find_images([folder, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no images in .*empty: there is nothing"):
        find_images([tmp_path / "empty"])
    with pytest.raises(DatasetError, match=r"no images in .*: left out: 1 without ending"):
        find_images([folder / "README"])


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "extension"),
    [
        ("a.jfif", jpeg(1), "jpg"),
        ("a.JPE", jpeg(1), "jpg"),
        ("a.image", jpeg(1, kind="PNG"), "png"),
        ("a.img", jpeg(1, kind="WEBP"), "webp"),
        ("a", jpeg(1, kind="GIF"), "gif"),
        ("a.pgm", b"P5 1 1 255\n\x07", "pgm"),
        ("a.pnm", b"P6\n1 1 255\n\1\2\3", "ppm"),
        ("a.heic", jpeg(1), "jpg"),
        ("a.jxl", jpeg(1), "jpg"),
        ("a.dng", jpeg(1), "jpg"),
        ("a.jpg", jpeg(1, kind="PNG"), "jpg"),
        ("a.dat", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        ("a.bin", b"\xff\x0a\x7f\x21", "jxl"),
        ("a.tif", jpeg(1, kind="TIFF"), "tif"),
    ],
)
def test_bytes_decide(tmp_path, name, content, extension):
    (image,) = find_images([put(tmp_path / name, content).parent])
    # Names that the index of shards takes for images may be more than these.
    assert image.extension in (extension, name.rpartition(".")[2].lower())


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.dng", jpeg(1, kind="TIFF"), "dng (camera raw: convert to TIFF or JPEG)"),
        ("a.NEF", b"MM\0*" + bytes(60), "nef (camera raw: convert to TIFF or JPEG)"),
        ("a.tif", b"II*\0\x10\0\0\0CR\2\0", "tif (camera raw: convert to TIFF or JPEG)"),
        (
            "a.cr3",
            b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
            "cr3 (camera raw: convert to TIFF or JPEG)",
        ),
        ("a.mp4", b"\0\0\0\x18ftypisom\0\0\0\1isomavc1", "mp4"),
        ("a.pdf", b"%PDF-1.7", "pdf"),
        ("a.jpg", b"", "empty"),
        ("a", b"", "empty"),
        ("a", b"text", "without ending"),
        ("a.txt", b"text", "txt (no image of that name)"),
        ("sub/z.json", b"{}", "json (no image of that name)"),
        ("._z.jpg", jpeg(1), "hidden or system file"),
        (".DS_Store", b"x", "hidden or system file"),
        ("Thumbs.db", b"x", "hidden or system file"),
        (".git/z.jpg", jpeg(1), "hidden or system folder"),
        ("@eaDir/z.jpg", jpeg(1), "hidden or system folder"),
        ("__MACOSX/z.jpg", jpeg(1), "hidden or system folder"),
        ("shards/_pack.json", b"{}", "folder of packed shards"),
    ],
)
def test_what_is_left_out_is_told_by_kind(tmp_path, name, content, kind):
    put(tmp_path / "in" / "picture.jpg", jpeg(0))
    put(tmp_path / "in" / name, content)
    found = find_images([tmp_path / "in"])
    assert [image.name for image in found] == ["picture.jpg"]
    assert found.left_out == {kind: 1}


def test_links_are_followed_and_end(tmp_path):
    put(tmp_path / "in" / "0.jpg", jpeg(0))
    put(tmp_path / "other" / "1.jpg", jpeg(1))
    (tmp_path / "in" / "file.jpg").symlink_to(tmp_path / "in" / "0.jpg")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    # A file that opens, and whose bytes cannot be read.
    (tmp_path / "in" / "memory.jpg").symlink_to("/proc/self/mem")
    found = find_images([tmp_path / "in"])
    assert [image.name for image in found] == ["0.jpg", "file.jpg", "folder/1.jpg"]
    assert found.left_out == {"link to a folder above it": 2, "pipe or device": 1}
    assert len(found.unreadable) == 2
    assert "dangling.jpg (No such file" in found.unreadable[0]
    assert "memory.jpg (Input/output error)" in found.unreadable[1]


def test_a_file_that_is_named_twice_is_one(folder):
    found = find_images([folder, folder / "b.jpg"])
    assert len(found) == 4
    assert found.left_out["named twice"] == 1


def test_texts_beside_files_that_are_named(tmp_path):
    for name, content in (("0.jpg", jpeg(0)), ("0.txt", b"x"), ("1.jpg", jpeg(1)), ("9.txt", b"")):
        put(tmp_path / name, content)
    found = find_images([tmp_path / "0.jpg", tmp_path / "1.jpg", tmp_path / "9.txt"])
    assert [image.beside for image in found] == [(tmp_path / "0.txt",), ()]
    assert found.left_out == {"txt (no image of that name)": 1}
    assert found.beside == 1


def test_images_of_one_name_share_their_text(tmp_path):
    for name, content in (("0.jpg", jpeg(0)), ("0.png", jpeg(0)), ("0.TXT", b"both")):
        put(tmp_path / name, content)
    found = find_images([tmp_path])
    assert [image.beside for image in found] == [(tmp_path / "0.TXT",)] * 2
    assert found.beside == 1
    assert not found.left_out
