"""Tars of every dialect give what tarfile and GNU tar give."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.shards.faults import Fault
from nemo_image_curate.shards.headers import is_header_of, read_entries
from tests.make_data import jpeg, write_tar


def entries_of(content: bytes | Path) -> tuple[list[tuple[str, int, int]], list[Fault]]:
    faults: list[Fault] = []
    content = content.read_bytes() if isinstance(content, Path) else content
    return read_entries(content, faults), faults


def contents_of(content: bytes) -> dict[str, bytes]:
    entries, _ = entries_of(content)
    return {name: content[offset : offset + size] for name, offset, size in entries}


def tar_of(members: dict[str, bytes], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


MEMBERS = {"a.jpg": b"1" * 700, "größe.txt": b"caption", "b.jpg": b"", "c.json": b"{}" * 512}


def rewritten(content: bytes, change: Callable[[bytearray], None]) -> bytes:
    """The tar with each header changed."""
    changed = bytearray(content)
    for _, offset, _ in entries_of(content)[0]:
        header = changed[offset - 512 : offset]
        change(header)
        changed[offset - 512 : offset] = header
    return bytes(changed)


def total(header: bytearray, signed: bool = False) -> int:
    rest = bytes(header[:148]) + b" " * 8 + bytes(header[156:])
    return sum(byte - 256 if signed and byte > 127 else byte for byte in rest)


CHECKSUMS: dict[str, Callable[[bytearray], bytes]] = {
    "posix": lambda header: b"%06o\0 " % total(header),
    "7 digits, NUL": lambda header: b"%07o\0" % total(header),
    "8 digits": lambda header: b"%08o" % total(header),
    "blanks first, NUL": lambda header: b"%6o\0 " % total(header),
    "blanks first, 7": lambda header: b"%7o\0" % total(header),
    "blanks around": lambda header: b" %5o  " % total(header),
    "NULs first": lambda header: b"%o" % total(header),
    "blank, NUL": lambda header: b"%06o \0" % total(header),
    "signed": lambda header: b"%06o\0 " % total(header, signed=True),
    "rest of an older value": lambda header: b"%05o\0xx" % total(header),
}


@pytest.mark.parametrize("kind", CHECKSUMS)
def test_checksums_as_every_writer_makes_them(kind):
    def change(header: bytearray) -> None:
        header[148:156] = CHECKSUMS[kind](header).ljust(8, b"\0")

    content = rewritten(tar_of(MEMBERS), change)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == list(MEMBERS), "tarfile takes it as well"
    assert contents_of(content) == MEMBERS
    assert entries_of(content)[1] == []


@pytest.mark.parametrize(
    "size", [b"%11o ", b"%11o\0", b"%012o", b" %o ", b"%o\0", b"%o \0", b"%o\0garbage"]
)
def test_sizes_as_every_writer_makes_them(size):
    def change(header: bytearray) -> None:
        value = int(bytes(header[124:136]).strip(b"\0 "), 8)
        field = size % value
        header[124:136] = field.rjust(12) if b"garbage" not in size else field[:12].ljust(12, b"x")
        header[148:156] = b"%06o\0 " % total(header)

    assert contents_of(rewritten(tar_of(MEMBERS), change)) == MEMBERS


@given(st.integers(0, 3), st.integers(0, 511), st.integers(1, 255))
def test_a_wrong_byte_in_a_header_ends_the_tar_there(number, place, mask):
    content = bytearray(tar_of(MEMBERS))
    start = entries_of(bytes(content))[0][number][1] - 512
    content[start + place] ^= mask
    entries, faults = entries_of(bytes(content))
    with tarfile.open(fileobj=io.BytesIO(tar_of(MEMBERS))) as tar:
        names = tar.getnames()
    kept = [name for name, _, _ in entries]
    if [one.kind for one in faults] == ["corrupt"]:
        assert kept == names[:number]
    else:
        # The checksum itself can be written in several ways, and 256 has two.
        assert kept == names


def test_git_archive(tmp_path):
    commands = ["init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm x"]
    (tmp_path / "r" / "sub").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "r" / "sub" / f"{number}.jpg").write_bytes(jpeg(number))
    for command in commands:
        subprocess.run(["git", *command.split()], cwd=tmp_path / "r", check=True)
    path = tmp_path / "a.tar"
    archive = ["git", "archive", "--prefix=set/", "-o", path, "HEAD"]
    subprocess.run(archive, cwd=tmp_path / "r", check=True)
    assert b"comment=" in path.read_bytes()[:1024], "a global pax header"
    expected = {f"set/sub/{number}.jpg": jpeg(number) for number in range(3)}
    assert contents_of(path.read_bytes()) == expected
    assert entries_of(path)[1] == []


def test_concatenated_tars_are_read_and_told(tmp_path):
    first, second = tar_of({"a.jpg": b"1", "b.jpg": b"2"}), tar_of({"c.jpg": b"3" * 600})
    for content in (first + second, first + bytes(5120) + second + bytes(2048)):
        assert contents_of(content) == {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3" * 600}
        ((kind, key, detail),) = entries_of(content)[1]
        assert (kind, key) == ("after end", "")
        assert detail.startswith("1 members")
    entries, faults = entries_of(first + second + second + tar_of(MEMBERS))
    assert len(entries) == 8
    assert [one.detail.split()[0] for one in faults] == ["6"]
    path = tmp_path / "a.tar"
    path.write_bytes(first + second)
    listed = subprocess.run(["tar", "-tif", path], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == list(contents_of(first + second))


def test_a_cut_in_the_second_of_two_tars():
    content = tar_of({"a.jpg": b"1"}) + tar_of({"b.jpg": b"2", "c.jpg": b"3" * 5000})[:3000]
    entries, faults = entries_of(content)
    assert [name for name, _, _ in entries] == ["a.jpg", "b.jpg"]
    assert [one.kind for one in faults] == ["truncated", "after end"]


@pytest.mark.parametrize("junk", [b"x", b"signature" * 100, jpeg(1), b"\0" * 700 + b"end"])
def test_other_bytes_after_the_end_are_counted(junk):
    tar = tar_of(MEMBERS)
    entries, faults = entries_of(tar + junk)
    assert len(entries) == len(MEMBERS)
    ((kind, _, detail),) = faults
    assert kind == "after end"
    assert detail.startswith(f"{len(junk.lstrip(bytes(1)))} bytes")


@pytest.mark.parametrize("number", range(24))
def test_padding_to_whole_records_is_nothing(number):
    assert entries_of(tar_of({"a.jpg": b"1" * 512 * number}))[1] == []
    assert entries_of(tar_of({"a.jpg": b"1" * 512 * number}).rstrip(b"\0") + bytes(1600))[1] == []


def test_zeros_of_a_download_that_was_not_finished_are_told():
    content = tar_of({f"{number}.jpg": b"1" * 4000 for number in range(10)})
    entries, faults = entries_of(content[: 4 * 4608] + bytes(len(content) - 4 * 4608))
    assert len(entries) == 4
    ((kind, key, detail),) = faults
    assert (kind, key) == ("after end", "")
    assert f"zero bytes from byte {4 * 4608}" in detail
    for size in (2**15, 3 * 2**20):
        assert [one.kind for one in entries_of(bytes(size))[1]] == ["after end"]
    assert entries_of(bytes(10240))[1] == [], "an empty tar"


@pytest.mark.parametrize(
    "options", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["--format=v7"]]
)
@pytest.mark.parametrize("long", [False, True])
def test_links_to_members_have_their_content(tmp_path, options, long):
    folder = "x" * 90 + "/" + "y" * 60 if long else "x/y"
    if long and options in (["--format=ustar"], ["--format=v7"]):
        pytest.skip("names over 100 bytes need another format")
    source = tmp_path / "in" / folder
    source.mkdir(parents=True)
    (source / "a.jpg").write_bytes(jpeg(1))
    os.link(source / "a.jpg", source / "hard.jpg")
    (source / "soft.jpg").symlink_to("a.jpg")
    (source / "twice.jpg").symlink_to("../" + os.path.basename(folder) + "/soft.jpg")
    (source / "outside.jpg").symlink_to("/etc/hostname")
    (source / "loop.jpg").symlink_to("loop.jpg")
    path = tmp_path / "a.tar"
    names = ["soft", "twice", "a", "hard", "outside", "loop"]
    members = [f"./{folder}/{name}.jpg" for name in names]
    command = ["tar", *options, "-cf", path, "-C", tmp_path / "in", *members]
    subprocess.run(command, check=True)
    expected = {f"{folder}/{name}.jpg": jpeg(1) for name in names[:4]}
    assert contents_of(path.read_bytes()) == expected
    assert list(contents_of(path.read_bytes())) == list(expected), "in the order of the tar"
    faults = entries_of(path)[1]
    assert [(one.kind, one.key) for one in faults] == [
        ("link", f"{folder}/outside"),
        ("link", f"{folder}/loop"),
    ]
    assert "/etc/hostname" in faults[0].detail


def test_links_add_a_limited_number_of_bytes(monkeypatch):
    monkeypatch.setattr("nemo_image_curate.shards.headers._MOST_LINKED", 2000)
    monkeypatch.setattr("nemo_image_curate.shards.headers._MAX_LINKED_RATIO", 0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 700
        tar.addfile(info, io.BytesIO(bytes(700)))
        for number in range(4):
            link = tarfile.TarInfo(f"{number}.txt")
            link.type, link.linkname = tarfile.LNKTYPE, "a.txt"
            tar.addfile(link)
    entries, faults = entries_of(buffer.getvalue())
    assert [name for name, _, _ in entries] == ["a.txt", "0.txt", "1.txt"]
    assert [(fault.kind, fault.key) for fault in faults] == [("link", "2"), ("link", "3")]


def test_content_under_the_name_of_a_folder_is_told():
    content = tar_of({"a.jpg": b"1", "d.jpg/": b"picture", "e/": b""})
    entries, faults = entries_of(content)
    assert [name for name, _, _ in entries] == ["a.jpg"]
    assert [fault.kind for fault in faults] == ["unnamed"]
    assert "d.jpg/" in faults[0].detail


def test_many_tars_in_one_are_read_without_looking_far_ahead():
    class Counted:
        def __init__(self, content: bytes):
            self.content, self.read = content, 0

        def __len__(self) -> int:
            return len(self.content)

        def __getitem__(self, place: slice) -> bytes:
            self.read += len(self.content[place])
            return self.content[place]

    one = tar_of({"a.cls": b""})[:1024]
    data = Counted(one * 500)
    faults: list[Fault] = []
    assert len(read_entries(data, faults)) == 500
    assert data.read < 10 * len(data)


def test_a_hard_link_is_to_the_member_before_it():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("a.jpg", b"old"), ("l.jpg", None), ("a.jpg", b"new!")):
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.LNKTYPE, "./a.jpg"
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    content = buffer.getvalue()
    assert [content[offset:][:size] for _, offset, size in entries_of(content)[0]] == [
        b"old",
        b"old",
        b"new!",
    ]


def test_names_with_dots_and_doubled_slashes():
    members = {"./a.jpg": b"1", "x//b.jpg": b"2", "x/./c.jpg": b"3", "x\\d.jpg": b"4"}
    assert list(contents_of(tar_of(members))) == ["a.jpg", "x/b.jpg", "x/c.jpg", "x\\d.jpg"]


def test_kinds_that_posix_does_not_know_are_regular_files():
    content = rewritten(tar_of(MEMBERS), lambda header: _set_kind(header, b"Z"))
    assert contents_of(content) == MEMBERS


def _set_kind(header: bytearray, kind: bytes) -> None:
    header[156:157] = kind
    header[148:156] = b"%06o\0 " % total(header)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jpeg(1) * 3, "image (jpg)"),
        (b"PK\3\4" + bytes(600), "ZIP"),
        (b"<!DOCTYPE html>" + b"<p>not found</p>" * 50, "HTML"),
        (b"PAR1" + bytes(600), "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12\n", "Git LFS"),
        (b"Access denied. " * 50, "text"),
    ],
)
def test_what_is_no_tar_says_what_it_looks_like(content, words):
    entries, faults = entries_of(content)
    assert entries == []
    ((kind, _, detail),) = faults
    assert kind == "corrupt"
    assert words in detail


def test_is_header_of(tmp_path):
    content = write_tar(tmp_path / "a.tar", [("./a.jpg", b"123")]).read_bytes()
    assert is_header_of(content[:512], "a.jpg", 3)
    assert not is_header_of(content[:512], "a.jpg", 4)
    assert not is_header_of(content[:512], "b.jpg", 3)
    assert not is_header_of(content[:100], "a.jpg", 3)
    assert not is_header_of(bytes(512), "a.jpg", 3)
