"""Tars that are cut, damaged or made with intent: what is whole in them stays."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.shards.headers import Entry, read_entries
from nemo_image_curate.shards.index import scan
from tests.hostile import seeds
from tests.make_data import digests, jpeg, read_tar, write_tar

DIALECTS = ["ustar", "gnu", "pax", "gnu long", "pax long", "sparse"]


def entries_of(content: bytes) -> list[Entry]:
    return read_entries(content, [])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_cut_costs_what_is_behind_it(dialect: str) -> None:
    content = seeds.tars()[DIALECTS.index(dialect)]
    # A link stands for another member, which may be cut off.
    whole = entries_of(content)[: None if "long" not in dialect else 3]
    for cut in [*range(0, len(content), 512), *range(1, len(content), 331)]:
        kept = [entry for entry in whole if entry[1] + entry[2] <= cut]
        assert entries_of(content[:cut])[: len(kept)] == kept, cut


@pytest.mark.parametrize("dialect", DIALECTS[:3])
@pytest.mark.parametrize("damage", [b"\0" * 600, b"\xff" * 600, b"7" * 12, b"\x80"])
def test_damage_costs_what_is_behind_it(dialect: str, damage: bytes) -> None:
    content = seeds.tars()[DIALECTS.index(dialect)]
    whole = entries_of(content)
    for start in range(0, len(content), 97):
        damaged = content[:start] + damage + content[start + len(damage) :]
        kept = [entry for entry in whole if entry[1] + entry[2] <= start]
        assert entries_of(damaged)[: len(kept)] == kept, start


def test_names_that_lead_elsewhere_are_keys_and_nothing_more(tmp_path: Path) -> None:
    names = ["../../out", "/tmp/out", "a/../../out", "C:\\out", "~/out", "-rf", "$(x)", "a\nb"]
    members = [(f"{name}.jpg", jpeg(number)) for number, name in enumerate(names)]
    write_tar(tmp_path / "in" / "0.tar", members)
    before = digests(tmp_path)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend="cpu")
    saved = dataset.save_metadata(tmp_path / "meta")
    saved.to_webdataset(tmp_path / "new", old_id_col="old")
    after = digests(tmp_path)
    added = {name.split("/")[0] for name in after.keys() - before.keys()}
    assert added == {"meta", "new"}
    assert {name: after[name] for name in before} == before
    table = pq.read_table(tmp_path / "new" / "00000.parquet")
    assert table["old"].to_pylist() == names
    copied = read_tar(tmp_path / "new" / "00000.tar")
    assert list(copied.values()) == [content for _, content in members]


def test_many_tiny_members_take_time_and_memory_in_proportion(tmp_path: Path) -> None:
    """The index alone is kept, of 500 bytes a member; headers are parsed some at a time."""
    count = 30_000
    header = bytearray(tarfile.TarInfo("0").tobuf(tarfile.USTAR_FORMAT))
    header[148:156] = b" " * 8
    fixed = sum(header) - sum(header[:12])
    with open(tmp_path / "a.tar", "wb") as file:
        for number in range(count):
            header[:12] = b"%08d.%s" % (number // 2, b"txt" if number % 2 else b"jpg")
            header[148:156] = b"%06o\0 " % (fixed + sum(header[:12]))
            file.write(header)
        file.write(bytes(1024))
    with open(tmp_path / "a.tar", "rb") as file:
        tracemalloc.start()
        index = scan(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(index.samples) == count // 2
    assert index.faults == []
    assert peak < 1000 * count


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SYMTYPE])
def test_headers_that_name_nothing_end(kind: bytes) -> None:
    """Long names of long names, and links that lead in circles."""
    buffer = io.BytesIO()
    for number in range(2000):
        info = tarfile.TarInfo(f"{number}.jpg")
        info.type, info.linkname = kind, f"{(number + 1) % 2000}.jpg"
        info.size = 0 if kind == tarfile.SYMTYPE else 512
        buffer.write(info.tobuf(tarfile.USTAR_FORMAT) + bytes(info.size))
    assert entries_of(buffer.getvalue()) == []


def test_sizes_that_no_file_has() -> None:
    good = seeds.tars()[0].rstrip(b"\0")
    good += bytes(-len(good) % 512)
    whole = entries_of(good)
    for size in (b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"-0000000001\0"):
        header = bytearray(tarfile.TarInfo("z.jpg").tobuf(tarfile.USTAR_FORMAT))
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        faults: list = []
        assert read_entries(good + bytes(header) + bytes(1024), faults) == whole
        assert [fault.kind for fault in faults] in (["truncated"], ["corrupt"])
