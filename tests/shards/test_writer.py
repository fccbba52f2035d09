"""Tars written by us, read by Python, GNU tar, webdataset and DALI's script."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_image_curate.shards.index import format_idx, scan
from nemo_image_curate.shards.writer import TarWriter, header
from tests.make_data import jpeg, read_tar
from tests.shards.test_index import by_tarfile, members_of, wds2idx


def write(path: Path, members: list[tuple[str, bytes]]) -> list:
    with path.open("wb") as file:
        tar = TarWriter(file)
        found = [tar.add(name, name.partition(".")[2], content) for name, content in members]
        tar.close()
    return found


def test_written_tar_is_read_by_python_gnu_tar_and_ourselves(tmp_path):
    members = [
        ("a.jpg", jpeg(1)),
        ("a.txt", b""),
        ("größe 🐈.jpg", bytes(512)),
        ("k" * 200 + ".jpg", bytes(513)),
        ("d/" + "é" * 60 + ".json", b"{}"),
        ("b.bin", memoryview(os.urandom(5000))),
    ]
    path = tmp_path / "a.tar"
    found = write(path, members)
    assert read_tar(path) == {name: bytes(content) for name, content in members}
    listed = subprocess.run(["tar", "-tf", path], check=True, capture_output=True).stdout
    assert len(listed.splitlines()) == len(members)
    assert path.stat().st_size % tarfile.RECORDSIZE == 0
    with path.open("rb") as file:
        index = scan(file)
    assert index.faults == []
    assert members_of(index) == by_tarfile(path)
    assert sorted(one.offset for one in found) == sorted(one[1] for one in by_tarfile(path))


def test_many_members_and_bytes_that_repeat(tmp_path):
    members = [
        (f"{number:05d}.jpg", bytes([number % 256]) * (number % 700)) for number in range(3000)
    ]
    write(tmp_path / "a.tar", members)
    write(tmp_path / "b.tar", members)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert read_tar(tmp_path / "a.tar") == dict(members)


def test_empty_tar(tmp_path):
    write(tmp_path / "a.tar", [])
    assert read_tar(tmp_path / "a.tar") == {}
    assert (tmp_path / "a.tar").read_bytes() == bytes(tarfile.RECORDSIZE)


def test_members_of_several_megabytes(tmp_path):
    # More than one writev call may take at once.
    members = [(f"{number}.jpg", bytes([number]) * 3_000_001) for number in range(4)]
    write(tmp_path / "a.tar", members)
    assert read_tar(tmp_path / "a.tar") == dict(members)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=150
    ),
    size=st.integers(0, 2**40),
)
def test_header_equals_pythons(name, size):
    raw = header(name, size)
    if len(raw) == 512:
        assert tarfile.TarInfo.frombuf(raw, "utf-8", "surrogateescape").name.rstrip(
            "/"
        ) == name.rstrip("/")
        parsed = tarfile.TarInfo.frombuf(raw, "utf-8", "surrogateescape")
        assert (parsed.size, parsed.mode, parsed.mtime, parsed.uid) == (size, 0o644, 0, 0)
    else:
        assert len(raw) % 512 == 0
        assert len(name.encode()) > 100 or size >= 8**11


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 2**40])
def test_sizes_of_8_gib_and_more(size):
    assert tarfile.TarInfo.frombuf(header("a.jpg", size)[-512:], "utf-8", "strict").size == size


def test_index_is_byte_for_byte_what_wds2idx_writes(tmp_path):
    path = tmp_path / "a.tar"
    samples = []
    with path.open("wb") as file:
        tar = TarWriter(file)
        for number in range(5):
            key = f"{number:05d}"
            names = [f"{key}.{extension}" for extension in ("jpg", "txt", "seg.png", "my label")]
            samples.append(
                [(name, tar.add(name, name.partition(".")[2], name.encode())) for name in names]
            )
        tar.close()
    assert format_idx(samples) == wds2idx(path, tmp_path / "a.idx")
