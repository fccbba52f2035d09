"""The tar index against Python's tarfile and DALI's wds2idx."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_image_curate.shards.faults import FAULT_KINDS
from nemo_image_curate.shards.index import TarIndex, format_idx, parse_idx, scan
from nemo_image_curate.shards.names import normal_name, split_name
from tests.make_data import jpeg, make_dataset, write_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
fast = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def index_of(content: bytes | Path) -> TarIndex:
    if isinstance(content, Path):
        with content.open("rb") as file:
            return scan(file)
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return scan(file)


def members_of(index: TarIndex) -> list[tuple[str, int, int]]:
    return sorted(
        (f"{key}.{one.extension}", one.offset, one.size)
        for key, sample in index.samples.items()
        for one in sample
    )


def by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path) as tar:
        return sorted(
            (normal_name(one.name), one.offset_data, one.size)
            for one in tar
            if one.isreg() and split_name(one.name)
        )


def kinds(index: TarIndex) -> list[str]:
    return [fault.kind for fault in index.faults]


LONG_DIR = "/".join(["directory-with-a-long-name"] * 5)
NAMES = {
    "ustar": ["a.jpg", f"{LONG_DIR}/b.jpg", f"{LONG_DIR}/b.txt", "größe/日本 🐈.jpg", "x.seg.png"],
    "gnu": ["a.jpg", "k" * 101 + ".jpg", "k" * 101 + ".txt", "y" * 300 + ".jpg", "日本 🐈.jpg"],
    "pax": [
        "a.jpg",
        "k" * 101 + ".jpg",
        "y" * 300 + ".jpg",
        "y" * 300 + ".json",
        "é" * 99 + ".png",
    ],
}


@pytest.mark.parametrize("kind", FORMATS)
def test_equals_tarfile(tmp_path, kind):
    members = [(name, os.urandom(number * 511)) for number, name in enumerate(NAMES[kind])]
    path = write_tar(tmp_path / "a.tar", members, FORMATS[kind])
    index = index_of(path)
    assert members_of(index) == by_tarfile(path)
    assert len(members_of(index)) == len(members)
    assert index.faults == []
    data = path.read_bytes()
    contents = dict(members)
    for name, offset, size in members_of(index):
        assert data[offset : offset + size] == contents[name]


def test_names_of_exactly_the_field_width(tmp_path):
    members = [("n" * length + ".jpg", b"x") for length in range(94, 99)]
    path = write_tar(tmp_path / "a.tar", members, tarfile.GNU_FORMAT)
    assert members_of(index_of(path)) == by_tarfile(path)


def test_other_kinds_of_members_are_passed_over(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(
        path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 600}
    ) as tar:
        for name, kind in {
            "folder.d": tarfile.DIRTYPE,
            "soft.jpg": tarfile.SYMTYPE,
            "hard.jpg": tarfile.LNKTYPE,
            "pipe.jpg": tarfile.FIFOTYPE,
            "device.jpg": tarfile.CHRTYPE,
        }.items():
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "l" * 150
            tar.addfile(info)
            one = tarfile.TarInfo(f"after-{kind.decode()}.jpg")
            one.size = 700
            tar.addfile(one, io.BytesIO(bytes(700)))
        for kind in (tarfile.AREGTYPE, tarfile.CONTTYPE):
            info = tarfile.TarInfo(f"regular{ord(kind)}.jpg")
            info.type = kind
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
        tar.addfile(tarfile.TarInfo("empty.jpg"))
    index = index_of(path)
    assert members_of(index) == by_tarfile(path)
    assert len(members_of(index)) == 8
    assert {fault.kind for fault in index.faults} == {"link"}
    assert {fault.key for fault in index.faults} >= {"soft", "pipe", "device"}


def test_a_link_that_states_a_size_has_no_content(tmp_path):
    # Some writers repeat the size of the link's target.
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("l.jpg")
        link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.jpg", 12345
        tar.addfile(link)
        after = tarfile.TarInfo("b.jpg")
        after.size = 3
        tar.addfile(after, io.BytesIO(b"abc"))
    assert members_of(index_of(path)) == by_tarfile(path) == [("b.jpg", 1024, 3)]


@pytest.mark.parametrize(
    "options", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["--format=v7"]]
)
def test_equals_tarfile_for_tars_of_gnu_tar(tmp_path, options):
    source = tmp_path / "in"
    (source / "sub.folder").mkdir(parents=True)
    for number in range(3):
        (source / "sub.folder" / f"é {number}.JPG").write_bytes(jpeg(number))
        (source / f"{number}.txt").write_text("caption")
    path = tmp_path / "a.tar"
    subprocess.run(["tar", *options, "-cf", path, "-C", source, "."], check=True)
    index = index_of(path)
    assert members_of(index) == by_tarfile(path)
    assert len(index.samples) == 6
    assert index.faults == []
    assert index.image("sub.folder/é 1") is not None


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"]])
def test_sparse_members_are_named_and_do_not_hide_what_follows(tmp_path, options):
    source = tmp_path / "in"
    source.mkdir()
    with (source / "a.jpg").open("wb") as file:
        for block in range(40):  # more pieces than one header can list
            file.seek(block * 65536)
            file.write(b"x" * 4096)
    (source / "b.jpg").write_bytes(jpeg(1))
    path = tmp_path / "a.tar"
    command = ["tar", *options, "--sparse", "-cf", path, "-C", source, "a.jpg", "b.jpg"]
    subprocess.run(command, check=True)
    index = index_of(path)
    if path.stat().st_size > 40 * 65536:
        pytest.skip("this file system keeps no holes")
    assert list(index.samples) == ["b"]
    with tarfile.open(path) as tar:
        assert index.samples["b"][0].offset == tar.getmember("b.jpg").offset_data
    assert [(fault.kind, fault.key) for fault in index.faults] == [("sparse", "a")]


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 20 * 2**30])
@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_sizes_of_8_gib_and_more(tmp_path, kind, size):
    info = tarfile.TarInfo("big.bin")
    info.size = size
    after = tarfile.TarInfo("a.jpg")
    after.size = 3
    path = tmp_path / "a.tar"
    with path.open("wb") as file:  # a file with a hole: takes no space
        file.write(info.tobuf(FORMATS[kind]))
        start = file.tell()
        file.seek(start + -(-size // 512) * 512)
        file.write(after.tobuf(FORMATS[kind]) + b"abc".ljust(512, b"\0") + bytes(1024))
    index = index_of(path)
    assert index.samples["big"][0] == ("bin", start, size)
    assert members_of(index) == by_tarfile(path)


def test_empty_tars(tmp_path):
    path = write_tar(tmp_path / "a.tar", [])
    assert index_of(path) == TarIndex()
    assert kinds(index_of(b"")) == ["truncated"]
    assert kinds(index_of(b"not a tar, " * 100)) == ["corrupt"]
    assert kinds(index_of(b"\x1f\x8b" + os.urandom(5000))) == ["corrupt"]


@pytest.mark.parametrize(
    "extension",
    [
        "jpg",
        "jpeg",
        "png",
        "webp",
        "bmp",
        "tif",
        "tiff",
        "gif",
        "avif",
        "jp2",
        "ppm",
        "JPG",
        "Jpeg",
        "PNG",
        "WebP",
    ],
)
def test_image_extensions_in_any_case(tmp_path, extension):
    path = write_tar(
        tmp_path / "a.tar", [("a.txt", b"t"), ("a.seg.png", b"s"), (f"a.{extension}", b"i")]
    )
    index = index_of(path)
    assert index.image("a") == (extension, 2560, 1)
    assert index.image("b") is None
    assert index.member("a", ("seg.png",)).offset == 1536


def test_duplicates_and_interleaved_samples_are_named(tmp_path):
    names = ["a.jpg", "b.jpg", "a.txt", "b.txt", "b.jpg", "c.jpg", "c.jpg", "README", "c.txt"]
    path = write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    index = index_of(path)
    assert [(fault.kind, fault.key) for fault in index.faults] == [
        ("interleaved", "a"),
        ("interleaved", "b"),
        ("duplicate", "b"),
        ("duplicate", "c"),
        ("unnamed", "README"),
    ]
    extensions = {key: [one.extension for one in sample] for key, sample in index.samples.items()}
    assert extensions == {"a": ["jpg", "txt"], "b": ["jpg", "txt"], "c": ["jpg", "txt"]}
    assert index.image("b").offset == 512 * 9, "the last of two counts"


def index_with(tmp_path, *members: tuple[str, bytes]) -> TarIndex:
    return index_of(write_tar(tmp_path / "a.tar", members))


def test_images_are_known_by_their_bytes_where_no_name_says_so(tmp_path):
    names = ["jfif", "jpe", "image", "img", "bin", "data", "JPG_large", "input.image"]
    members = [(f"{number}.{name}", jpeg(number)) for number, name in enumerate(names)]
    members += [("bare", jpeg(50)), ("bare.txt", b"caption"), ("x/bare2", jpeg(51, kind="PNG"))]
    members += [("no.image", b"nothing"), ("README", b"words"), ("t.txt", jpeg(1))]
    index = index_with(tmp_path, *members)
    for number, name in enumerate(names):
        assert index.image(str(number)).extension == name
    assert (index.image("bare").extension, index.image("x/bare2").extension) == ("", "")
    assert index.image("no") is None
    assert index.image("t") is None, "a .txt is never looked into"
    assert [(fault.kind, fault.key) for fault in index.faults] == [("unnamed", "README")]


def test_a_name_that_says_image_goes_before_bytes(tmp_path):
    index = index_with(tmp_path, ("a.raw", jpeg(1)), ("a.jpg", b"broken"), ("a.seg.png", b"s"))
    assert index.image("a").extension == "jpg"
    assert list(index.image_faults()) == []


@pytest.mark.parametrize(
    ("image_member", "extension"),
    [
        (None, "input.jpg"),
        ("target.png", "target.png"),
        ("TARGET.PNG", "target.png"),
        ("target.*", "target.png"),
        ("*.png", "target.png"),
        ("*.JPG", "input.jpg"),
        ("txt", "txt"),
        ("[it]*.jpg", "input.jpg"),
        ("jpg", None),
        ("webp", None),
    ],
)
def test_the_choice_of_the_image(tmp_path, image_member, extension):
    names = ["input.jpg", "target.png", "txt"]
    index = index_with(tmp_path, *[(f"s0.{name}", jpeg(1)) for name in names])
    member = index.image("s0", image_member)
    assert (member and member.extension) == extension


def test_a_pattern_of_an_ending_takes_plain_and_compound_names(tmp_path):
    index = index_with(tmp_path, ("a.png", b"1"), ("b.seg.png", b"2"), ("c.png.txt", b"3"))
    found = [index.image(key, "*.png") for key in "abc"]
    assert [member and member.extension for member in found] == ["png", "seg.png", None]


def test_several_images_of_a_sample_are_told(tmp_path):
    names = ["22.05.png", "22.07.png", "1.jpg", "1.webp", "2.jpg", "2.seg.png", "3.a.jpg", "3.txt"]
    index = index_with(tmp_path, *[(name, jpeg(1)) for name in names])
    faults = list(index.image_faults())
    assert [(fault.kind, fault.key) for fault in faults] == [
        ("several images", "22"),
        ("several images", "1"),
    ]
    for word in ("05.png, 07.png", "image_member="):
        assert word in faults[0].detail
    assert [fault.key for fault in index.image_faults("05.png")] == []
    assert [fault.key for fault in index.image_faults("*.png")] == ["22"]


def test_why_there_is_no_image(tmp_path):
    index = index_with(tmp_path, ("a.outputs.txt", b"x"), ("a.json", b"{}"), ("b.jpg", b"y"))
    assert index.why_no_image("c") == "missing"
    assert index.why_no_image("a") == (
        "missing: none of its members (outputs.txt, json) is an image; image_member= chooses one"
    )
    assert "image_member='webp'" in index.why_no_image("b", "webp")


def test_hidden_files_are_no_samples(tmp_path):
    names = ["._a.jpg", "a.jpg", "x/._b.jpg", "Thumbs.db", "__MACOSX/x/._a.jpg", ".DS_Store"]
    index = index_with(tmp_path, *[(name, jpeg(1)) for name in names])
    assert list(index.samples) == ["a"]
    ((kind, key, detail),) = index.faults
    assert (kind, key) == ("hidden", "")
    assert detail.startswith("5 files")


def test_keys_and_names_with_a_dot_and_a_slash_are_the_same(tmp_path):
    index = index_with(tmp_path, ("./0.jpg", b"1"), (".//x//1.jpg", b"2"))
    assert list(index.samples) == ["0", "x/1"]
    for key in ("0", "./0", "x/1", "./x/1"):
        assert index.image(key) is not None
        assert index.sample(key)


def test_an_update_takes_the_place_of_the_member(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"old"), ("a.txt", b"t"), ("b.jpg", b"b")])
    (tmp_path / "a.jpg").write_bytes(b"new!")
    subprocess.run(["tar", "-rf", path, "-C", tmp_path, "./a.jpg"], check=True)
    index = index_of(path)
    assert [(one.extension, one.size) for one in index.samples["a"]] == [("jpg", 4), ("txt", 1)]
    assert [(fault.kind, fault.key) for fault in index.faults] == [("duplicate", "a")]


def test_each_kind_of_fault_is_described():
    assert all(FAULT_KINDS.values())
    assert {"truncated", "corrupt", "after end", "duplicate", "hidden", "link"} <= set(FAULT_KINDS)


def _fill(kind: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[kind]) as tar:
        for number in range(4):
            for name, size in (
                (f"{number}.jpg", 700 * number),
                (f"{number}.{'long' * 30}.txt" if kind != "ustar" else f"{number}.txt", 12),
            ):
                info = tarfile.TarInfo(name)
                info.size = size
                tar.addfile(info, io.BytesIO(bytes([65 + number]) * size))
    return buffer.getvalue()


TARS = {kind: _fill(kind) for kind in FORMATS}
WHOLE = {kind: members_of(index_of(content)) for kind, content in TARS.items()}


@pytest.mark.parametrize("kind", FORMATS)
@fast
@given(data=st.data())
def test_truncated_anywhere_keeps_what_is_whole(kind, data):
    content = TARS[kind]
    interesting = sorted(
        {offset + d for _, offset, size in WHOLE[kind] for d in (-512, -1, 0, size)}
    )
    cut = data.draw(st.sampled_from(interesting) | st.integers(0, len(content)))
    index = index_of(content[:cut])
    kept = members_of(index)
    assert kept == [one for one in WHOLE[kind] if one[1] + one[2] <= cut]
    last = max(offset + -(-size // 512) * 512 for _, offset, size in WHOLE[kind])
    if cut < last + 512:
        # Without any end-of-archive block the tar was cut, even between two members.
        assert "truncated" in kinds(index) or len(kept) == len(WHOLE[kind])
    else:
        assert index.faults == []
    if len(kept) < len(WHOLE[kind]):
        assert kinds(index) == ["truncated"]


@pytest.mark.parametrize("kind", FORMATS)
@fast
@given(data=st.data())
def test_flipped_bytes_never_raise_and_never_give_wrong_members(kind, data):
    content = bytearray(TARS[kind])
    flips = data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), max_size=8)
    )
    for position, mask in flips:
        content[position] ^= mask
    index = index_of(bytes(content))
    for _, offset, size in members_of(index):
        assert 512 <= offset <= offset + size <= len(content)
    # A header that was hit ends the scan; long names have their text outside any checksum. Two
    # bytes that cancel in the sum are what no reader sees: tarfile takes such a header, too.
    if kind == "ustar":
        for _, offset, _ in set(members_of(index)) - set(WHOLE[kind]):
            header = bytes(content[offset - 512 : offset])
            assert header != TARS[kind][offset - 512 : offset]
            tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    if not flips:
        assert members_of(index) == WHOLE[kind]


@fast
@given(st.binary(max_size=3000))
def test_any_bytes_are_scanned_without_raising(content):
    assert isinstance(index_of(content), TarIndex)


def test_damaged_header_ends_the_scan_and_is_named():
    content = bytearray(TARS["ustar"])
    third = WHOLE["ustar"][2]
    content[third[1] - 512 + 3] ^= 0xFF
    index = index_of(bytes(content))
    assert members_of(index) == WHOLE["ustar"][:2]
    assert [fault.kind for fault in index.faults] == ["corrupt"]
    assert str(third[1] - 512) in index.faults[0].detail


# --- wds2idx ---------------------------------------------------------------------------------


def wds2idx(tar: Path, idx: Path, locale: str = "C.UTF-8") -> str:
    """The index that DALI's own script writes."""
    script = Path(sys.executable).with_name("wds2idx")
    if not script.exists():
        pytest.skip("DALI's wds2idx is not installed")
    environment = {**os.environ, "LC_ALL": locale}
    subprocess.run(
        [sys.executable, script, tar, idx], env=environment, check=True, capture_output=True
    )
    return idx.read_text("utf-8", "surrogateescape")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_wds2idx_gives_the_same_index(tmp_path, locale):
    truth = make_dataset(tmp_path, sizes=[5], extra={"seg.png": b"abc", "Ünï.cls": b""})
    text = wds2idx(tmp_path / "00000.tar", tmp_path / "00000.idx", locale)
    index = parse_idx(text)
    assert index == index_of(tmp_path / "00000.tar")
    assert list(index.samples) == truth.keys


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_wds2idx_names_are_read_as_tar_quotes_them(tmp_path, locale):
    names = [
        "a b.jpg",
        "a b.txt",
        "日本 🐈.jpg",
        "back\\slash.jpg",
        "new\nline.jpg",
        "tab\t1.jpg",
        "x\x7f.jpg",
    ]
    path = write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    index = parse_idx(wds2idx(path, tmp_path / "a.idx", locale))
    assert index == index_of(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.0 1\n0\n",
        "v1.1 1\njpg 512 3\n",
        "v1.2 x\njpg 512 3 a.jpg\n",
        "v1.2 2\njpg 512 3 a.jpg\n",  # fewer samples than it says: written by halves
        "v1.2 1\njpg 512 3 a.png\n",
        "v1.2 1\njpg 512\n",
        "v1.2 1\njpg 512 3 a.jpg txt 20",
        "v1.2 1\nb c.jpg 512 3 a.b c.jpg\n",  # a space in the extension: not to be told apart
        "garbage\x00\xff",
    ],
)
def test_unusable_idx_is_refused(text):
    assert parse_idx(text) is None


@fast
@given(st.text(max_size=80))
def test_any_text_is_parsed_without_raising(text):
    assert isinstance(parse_idx("v1.2 1\n" + text), TarIndex | None)
    assert isinstance(parse_idx(text), TarIndex | None)


def test_format_idx_round_trip(tmp_path):
    make_dataset(tmp_path, sizes=[3], extra={"a\\b.bin": b"1"})
    index = index_of(tmp_path / "00000.tar")
    groups = [
        [(f"{key}.{one.extension}", one) for one in sample] for key, sample in index.samples.items()
    ]
    assert parse_idx(format_idx(groups)) == index
    assert format_idx(groups) == wds2idx(tmp_path / "00000.tar", tmp_path / "x.idx")
