"""Packed tars are read as if they were not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os

import pyarrow as pa
import pytest

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.compression import compression_of, plain_tar
from nemo_image_curate.shards.reader import TarShard
from nemo_image_curate.storage import read_bytes
from tests.make_data import jpeg, write_tar


def zstd(content: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return buffer.getvalue().to_pybytes()


PACK = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


def is_plain(location: str) -> bool:
    return compression_of(read_bytes(location)[:10]) is None


def images(location) -> tuple[dict[str, bytes], list[str]]:
    with TarShard(str(location)) as shard:
        keys = list(shard.index.samples)
        contents = shard.read(map(shard.index.image, keys))
        return dict(zip(keys, contents, strict=True)), [one.kind for one in shard.index.faults]


@pytest.fixture
def tar(tmp_path) -> bytes:
    members = [(f"{number}.jpg", jpeg(number)) for number in range(40)]
    return write_tar(tmp_path / "in" / "a.tar", members).read_bytes()


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_known_by_their_first_bytes_whatever_they_are_called(tmp_path, tar, kind, name):
    (tmp_path / name).write_bytes(PACK[kind](tar))
    assert compression_of(PACK[kind](tar)) == kind
    assert not is_plain(str(tmp_path / name))
    assert images(tmp_path / name) == ({str(n): jpeg(n) for n in range(40)}, [])
    with plain_tar(str(tmp_path / name)) as plain:
        assert plain.file.read() == tar
        assert plain.fault is None


def test_a_plain_tar_that_is_called_packed(tmp_path, tar):
    (tmp_path / "a.tar.gz").write_bytes(tar)
    assert is_plain(str(tmp_path / "a.tar.gz"))
    assert len(images(tmp_path / "a.tar.gz")[0]) == 40


@pytest.mark.parametrize("name", ["BZh9.jpg", "BZh11AY.jpg", "(.jpg", "7zXZ.jpg"])
def test_a_plain_tar_whose_first_name_begins_as_a_packed_file(tmp_path, name):
    path = write_tar(tmp_path / "a.tar", [(name, jpeg(1))])
    assert is_plain(str(path))
    assert images(path) == ({name[:-4]: jpeg(1)}, [])


@pytest.mark.parametrize("kind", PACK)
def test_streams_of_several_parts(tmp_path, tar, kind):
    half = len(tar) // 2
    (tmp_path / "a.tar").write_bytes(PACK[kind](tar[:half]) + PACK[kind](tar[half:]))
    assert images(tmp_path / "a.tar") == ({str(n): jpeg(n) for n in range(40)}, [])


@pytest.mark.parametrize("kind", PACK)
def test_a_stream_that_is_cut_off_gives_what_came_out(tmp_path, kind):
    # What does not shrink, so that half a stream holds about half of the members.
    members = [(f"{number}.jpg", os.urandom(30_000)) for number in range(100)]
    tar = write_tar(tmp_path / "b.tar", members)
    packed = PACK[kind](tar.read_bytes())
    tar.write_bytes(packed[: len(packed) // 2])
    found, faults = images(tar)
    assert found.items() <= {name[:-4]: content for name, content in members}.items()
    # bzip2 works on blocks of 900 kB.
    assert len(found) >= (15 if kind == "bzip2" else 40)
    assert faults[0] == "truncated"


@pytest.mark.parametrize("kind", PACK)
def test_a_stream_that_is_damaged_or_cut_at_once_raises_nothing(tmp_path, tar, kind):
    packed = bytearray(PACK[kind](tar))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(packed)
    found, faults = images(tmp_path / "a.tar")
    # Arrow writes zstd without the checksum that would show it.
    assert faults or kind == "zstd"
    assert len(found) <= 40
    (tmp_path / "b.tar").write_bytes(packed[:10])
    assert images(tmp_path / "b.tar") == ({}, ["truncated"])


def test_a_zstd_stream_after_a_frame_to_be_skipped(tmp_path, tar):
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    (tmp_path / "a.tar").write_bytes(skipped + zstd(tar))
    contents, faults = images(tmp_path / "a.tar")
    assert contents == {str(number): jpeg(number) for number in range(40)}
    assert faults == []


def test_what_follows_a_gzip_stream(tmp_path, tar):
    (tmp_path / "a.tar").write_bytes(gzip.compress(tar) + bytes(100))
    assert images(tmp_path / "a.tar")[1] == []
    (tmp_path / "a.tar").write_bytes(gzip.compress(tar) + b"signature")
    found, faults = images(tmp_path / "a.tar")
    assert (len(found), faults) == (40, ["corrupt"])


def test_what_fills_the_disk_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(
        DatasetError, match=r"a\.tar\.gz unpacks to more than .* unpack it yourself"
    ):
        TarShard(str(path)).__enter__()


def test_packed_tars_in_a_bucket(tmp_path, tar, bucket):
    import fsspec

    root = bucket()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar))
    fsspec.filesystem("s3").put(str(tmp_path / "a.tar.gz"), f"{root}/a.tar.gz")
    assert len(images(f"{root}/a.tar.gz")[0]) == 40
    assert not is_plain(f"{root}/a.tar.gz")
    assert images(f"{root}/a.tar.gz")[0] == {str(n): jpeg(n) for n in range(40)}
