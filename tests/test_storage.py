"""Local and S3 files: listing, ranges, and writes that nobody sees half done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path, monkeypatch):
    """An empty folder and an empty bucket."""
    if request.param == "local":
        return str(tmp_path / "data [1]")
    return request.getfixturevalue("bucket")() + "/data"


def put(location: str, content: bytes = b"x") -> str:
    storage.make_dirs(storage.parent(location))
    storage.write_bytes(location, content)
    return location


def test_write_read_stat_remove(place):
    location = put(storage.join(place, "a", "größe 1.bin"), b"0123456789")
    assert storage.read_bytes(location) == b"0123456789"
    info = storage.stat(location)
    assert (info.location, info.size) == (location, 10)
    assert abs(info.mtime - time.time()) < 60
    with storage.open_read(location) as file:
        file.seek(-3, 2)
        assert file.read() == b"789"
    with storage.fetched(location) as file:
        assert file.read() == b"0123456789"
    assert storage.read_ranges(location, [(5, 2), (0, 3), (9, 1), (4, 0)]) == [
        b"56",
        b"012",
        b"9",
        b"",
    ]
    storage.remove(location)
    storage.remove(location)
    assert storage.stat(location) is None
    assert storage.stat(storage.join(place, "absent", "b")) is None


def test_find_and_glob_are_sorted_and_leave_out_unfinished_files(place):
    for name in ("b.tar", "a.TAR", "sub/c.tar", "a.parquet", ".d.tar.curate-tmp-123.tar"):
        put(storage.join(place, name))
    found = [one.location[len(place) + 1 :] for one in storage.find(place, ".tar")]
    assert found == ["a.TAR", "b.tar", "sub/c.tar"]
    pattern = storage.join(place.replace("[1]", "[[]1]"), "*.tar")
    assert [one.location for one in storage.glob(pattern)] == [storage.join(place, "b.tar")]
    assert storage.is_dir(place)
    assert not storage.is_dir(storage.join(place, "b.tar"))
    assert not storage.is_dir(storage.join(place, "absent"))
    storage.remove_tree(place)
    storage.remove_tree(place)
    assert storage.stat(storage.join(place, "b.tar")) is None


def test_what_another_process_wrote_is_seen_at_once(place):
    first = put(storage.join(place, "a.tar"), b"1")
    assert len(storage.find(place, ".tar")) == 1
    assert storage.stat(storage.join(place, "b.tar")) is None
    code = (
        "import sys; from nemo_image_curate import storage;"
        "storage.write_bytes(sys.argv[1], b'22'); storage.write_bytes(sys.argv[2], b'333')"
    )
    second = storage.join(place, "b.tar")
    subprocess.run([sys.executable, "-c", code, first, second], check=True)
    assert storage.stat(first).size == 2
    assert storage.stat(second).size == 3
    assert [one.size for one in storage.find(place, ".tar")] == [2, 3]
    assert storage.read_bytes(first) == b"22"
    with storage.open_read(second) as file:
        assert file.read() == b"333"


def test_a_failed_write_leaves_the_old_file_whole(place):
    location = put(storage.join(place, "a.bin"), b"old")
    seen = []

    def write_half() -> None:
        with storage.atomic_write(location) as file:
            file.write(b"half")
            file.flush()
            seen.append(storage.read_bytes(location))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert seen == [b"old"]
    assert storage.read_bytes(location) == b"old"
    assert [one.location for one in storage.find(place, "")] == [location]
    if storage.is_local(place):
        assert os.listdir(place) == ["a.bin"]


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, '{"a":' * 100_000])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        storage.parse_json(text)
    assert storage.parse_json('{"a": [1]}') == {"a": [1]}


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    (tmp_path / "sub").mkdir()
    mine = tmp_path / "sub" / ".a.parquet.curate-tmp-0123"
    theirs = tmp_path / ".hidden"
    mine.touch()
    theirs.touch()
    storage.remove_temporaries(str(tmp_path))
    assert not mine.exists()
    assert theirs.exists()


def test_one_spelling_per_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = str(tmp_path / "a")
    for spelling in (
        "a",
        "./a/",
        "~/a",
        Path("a"),
        f"file://{tmp_path}/a",
        str(tmp_path / "b/../a"),
    ):
        assert storage.normalise(spelling) == expected
    assert storage.normalise("s3://bucket/a/") == "s3://bucket/a"
    assert storage.parent("s3://bucket/a/b") == "s3://bucket/a"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot create .*file/sub.*may write"):
        storage.make_dirs(str(tmp_path / "file" / "sub"))


JUNK = (".ipynb_checkpoints/a-checkpoint.tar", ".Trash-1000/files/a.tar", "$RECYCLE.BIN/a.tar")
JUNK += ("._a.tar", "@eaDir/a.tar", "sub/@eaDir/x/a.tar", "__MACOSX/._a.tar", "sub/._b.tar")


def test_what_systems_leave_behind_is_left_out(place):
    for name in ("a.tar", "sub/b.tar", *JUNK):
        put(storage.join(place, name))
    names = [info.location[len(place) + 1 :] for info in storage.find(place, ".tar")]
    assert names == ["a.tar", "sub/b.tar"]
    pattern = storage.join(place.replace("[1]", "[[]1]"), "**", "*.tar")
    globbed = [info.location[len(place) + 1 :] for info in storage.glob(pattern)]
    assert globbed == ["a.tar", "sub/b.tar"]
    assert storage.find(storage.join(place, "@eaDir"), ".tar")


def test_links_are_followed_once(tmp_path):
    blobs = tmp_path / "blobs"
    put(str(blobs / "aa"), b"12345")
    put(str(blobs / "folder" / "b.tar"), b"12")
    snapshot = tmp_path / "snap"
    snapshot.mkdir()
    (snapshot / "a.tar").symlink_to("../blobs/aa")
    (snapshot / "linked").symlink_to(blobs / "folder")
    (blobs / "folder" / "back").symlink_to(snapshot)
    for listed in (
        storage.find(str(snapshot), ".tar"),
        storage.glob(str(snapshot / "*.tar")) + storage.glob(str(snapshot / "linked" / "*.tar")),
    ):
        assert [(Path(info.location).name, info.size) for info in listed] == [
            ("a.tar", 5),
            ("b.tar", 2),
        ]
    (snapshot / "c.tar").symlink_to("../blobs/gone")
    for looking in (storage.find, lambda folder, end: storage.glob(f"{folder}/*{end}")):
        with pytest.raises(DatasetError, match=r"c\.tar is a link to a file that does not exist"):
            looking(str(snapshot), ".tar")


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    for looking in (
        lambda: storage.find(str(tmp_path), ".tar"),
        lambda: storage.glob(str(tmp_path / "*.tar")),
        lambda: storage.stat(str(tmp_path / "a.tar")),
    ):
        with pytest.raises(DatasetError, match=r"a\.tar is a pipe, socket or device"):
            looking()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("._a.jpg", True),
        ("x/._a.jpg", True),
        ("x/.DS_Store", True),
        ("Thumbs.db", True),
        ("x/desktop.ini", True),
        ("x/@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", True),
        ("__MACOSX/x/._a.jpg", True),
        ("__MACOSX/a.jpg", True),
        ("a.jpg\0._b.jpg\0c.jpg", True),
        ("a.jpg\0c.jpg", False),
        ("x/.ipynb_checkpoints/a-checkpoint.jpg", True),
        ("my.ipynb_checkpoints/a.jpg", False),
        (".Trash-0/a.jpg", True),
        (".Trash-me/a.jpg", False),
        (".hidden.jpg", False),
        ("a._b.jpg", False),
        ("my__MACOSX/a.jpg", False),
        ("desktop.ini.jpg", False),
    ],
)
def test_hidden_files(name, expected):
    assert storage.is_hidden(name) == expected
