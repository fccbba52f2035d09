"""Reading members by key, with and without index files."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.index import Member, format_idx, scan
from nemo_image_curate.shards.reader import TarShard
from tests.forked import Forked
from tests.make_data import jpeg, make_dataset, write_tar


def write_idx(tar: Path) -> Path:
    with tar.open("rb") as file:
        index = scan(file)
    groups = [
        [(f"{key}.{one.extension}", one) for one in sample] for key, sample in index.samples.items()
    ]
    path = tar.with_suffix(".idx")
    path.write_text(format_idx(groups))
    return path


def images(location: Path, use_index_file: bool) -> dict[str, bytes]:
    with TarShard(str(location), use_index_file) as shard:
        keys = list(shard.index.samples)
        return dict(zip(keys, shard.read(map(shard.index.image, keys)), strict=True))


@pytest.mark.parametrize("use_index_file", [False, True])
def test_reads_members_in_the_order_asked_for(tmp_path, use_index_file):
    truth = make_dataset(tmp_path, sizes=[6])
    write_idx(tmp_path / "00000.tar")
    with TarShard(str(tmp_path / "00000.tar"), use_index_file) as shard:
        keys = truth.keys[::-1]
        members = [shard.index.image(key) for key in keys]
        found = list(shard.read([None, *members, None]))
    assert found == [None, *[truth.images["00000.tar", key] for key in keys], None]


def test_a_fitting_idx_is_used(tmp_path):
    make_dataset(tmp_path, sizes=[3])
    idx = write_idx(tmp_path / "00000.tar")
    lines = idx.read_text().splitlines()
    # Leave out the middle sample: what comes back shows that the index file was followed.
    idx.write_text("\n".join(["v1.2 2", lines[1], lines[3]]) + "\n")
    assert len(images(tmp_path / "00000.tar", use_index_file=True)) == 2
    assert len(images(tmp_path / "00000.tar", use_index_file=False)) == 3


def foreign(folder: Path, tar: Path) -> None:
    other = write_tar(folder / "o" / "x.tar", [(f"{n}.jpg", jpeg(n + 50)) for n in range(3)])
    shutil.copy(write_idx(other), tar.with_suffix(".idx"))


def same_names_other_sizes(folder: Path, tar: Path) -> None:
    other = write_tar(folder / "o" / "x.tar", [(f"{n}.jpg", jpeg(n, 64)) for n in range(3)])
    shutil.copy(write_idx(other), tar.with_suffix(".idx"))


def of_a_longer_tar(folder: Path, tar: Path) -> None:
    other = write_tar(folder / "o" / "x.tar", [(f"{n}.jpg", jpeg(n)) for n in range(9)])
    shutil.copy(write_idx(other), tar.with_suffix(".idx"))


def of_a_shorter_tar(folder: Path, tar: Path) -> None:
    other = write_tar(folder / "o" / "x.tar", [(f"{n}.jpg", jpeg(n)) for n in range(2)])
    shutil.copy(write_idx(other), tar.with_suffix(".idx"))


def older_than_the_tar(folder: Path, tar: Path) -> None:
    idx = write_idx(tar)
    text = idx.read_text().replace(" 0.jpg", " 7.jpg")
    idx.write_text(text)
    os.utime(idx, (1, 1))


def cut(folder: Path, tar: Path) -> None:
    idx = write_idx(tar)
    idx.write_text(idx.read_text()[:-20])


def empty(folder: Path, tar: Path) -> None:
    tar.with_suffix(".idx").write_bytes(b"")


def binary(folder: Path, tar: Path) -> None:
    tar.with_suffix(".idx").write_bytes(os.urandom(300))


def without_samples(folder: Path, tar: Path) -> None:
    tar.with_suffix(".idx").write_text("v1.2 0\n")


@pytest.mark.parametrize(
    "spoil",
    [
        foreign,
        same_names_other_sizes,
        of_a_longer_tar,
        of_a_shorter_tar,
        older_than_the_tar,
        cut,
        empty,
        binary,
        without_samples,
    ],
)
def test_stale_or_foreign_idx_is_ignored(tmp_path, spoil):
    tar = write_tar(tmp_path / "00000.tar", [(f"{n}.jpg", jpeg(n)) for n in range(3)])
    spoil(tmp_path, tar)
    assert images(tar, use_index_file=True) == {str(n): jpeg(n) for n in range(3)}


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_idx_of_dali_with_long_names_is_not_followed_into_the_wrong_bytes(tmp_path, tar_format):
    # wds2idx points 1 KiB before the content of a member whose name needs an extra GNU header.
    import subprocess
    import sys

    script = Path(sys.executable).with_name("wds2idx")
    if not script.exists():
        pytest.skip("DALI's wds2idx is not installed")
    names = ["a", "folder/" + "x" * 110, "z"]
    members = [(f"{name}.jpg", jpeg(n)) for n, name in enumerate(names)]
    tar = write_tar(tmp_path / "00000.tar", members, tar_format)
    subprocess.run([sys.executable, script, tar], check=True, capture_output=True)
    assert tar.with_suffix(".idx").exists()
    expected = {name: jpeg(n) for n, name in enumerate(names)}
    assert images(tar, use_index_file=True) == expected


def test_empty_file_has_no_samples(tmp_path):
    (tmp_path / "a.tar").touch()
    with TarShard(str(tmp_path / "a.tar")) as shard:
        assert shard.index.samples == {}
        assert list(shard.read([None])) == [None]


def test_missing_shard_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.tar does not exist.*metadata="):
        TarShard(str(tmp_path / "gone.tar")).__enter__()
    with pytest.raises(DatasetError, match="cannot read shard"):
        TarShard(str(tmp_path)).__enter__()


@pytest.mark.parametrize("with_idx", [False, True])
def test_reads_from_s3(tmp_path, bucket, with_idx):
    import fsspec

    root = bucket()
    truth = make_dataset(tmp_path, sizes=[70])
    write_idx(tmp_path / "00000.tar")
    fs = fsspec.filesystem("s3")
    fs.put(str(tmp_path / "00000.tar"), f"{root}/00000.tar")
    if with_idx:
        fs.put(str(tmp_path / "00000.idx"), f"{root}/00000.idx")
    with TarShard(f"{root}/00000.tar", use_index_file=True) as shard:
        keys = truth.keys[::-1]
        found = list(shard.read([None, *map(shard.index.image, keys)]))
        assert shard._tar.is_opened, "with an index only ranges are read"
    assert found == [None, *[truth.images["00000.tar", key] for key in keys]]
    if with_idx:
        other = write_tar(tmp_path / "o.tar", [("a.jpg", bytes(100)), ("b.jpg", bytes(90))])
        fs.put(str(write_idx(other)), f"{root}/00000.idx")
        with TarShard(f"{root}/00000.tar", use_index_file=True) as shard:
            assert list(shard.index.samples) == truth.keys


def _cut_while_it_is_read() -> None:
    """What `test_a_tar_that_is_cut_while_it_is_open` runs in a process of its own."""
    location = sys.argv[1]
    with TarShard(location) as shard:
        members = [shard.index.image(key) for key in shard.index.samples]
        contents = shard.read(members)
        next(contents)
        os.truncate(location, 4096)
        for _ in contents:
            pass


def test_a_tar_that_is_cut_while_it_is_open(tmp_path):
    # Of a file that is mapped, this would be the end of the process: SIGBUS.
    tar = write_tar(tmp_path / "a.tar", [(f"{n}.jpg", bytes(2**20)) for n in range(8)])
    process = Forked("tests.shards.test_reader:_cut_while_it_is_read", "cut", tar)
    _, told = process.communicate()
    assert process.returncode == 1
    assert f"ChangedError: {tar} became shorter while it was read. Wait until" in told


def test_missing_shard_on_s3(bucket):
    with pytest.raises(DatasetError, match="does not exist"):
        TarShard(f"{bucket()}/00000.tar").__enter__()


def test_an_index_is_remembered_as_long_as_its_tar_stays_as_it_is(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [("a.jpg", jpeg(1))])
    with TarShard(str(tar)) as shard:
        first = shard.index
    with TarShard(str(tar)) as shard:
        assert shard.index is first
        assert list(shard.read([shard.index.image("a")])) == [jpeg(1)]
    write_tar(tar, [("b.jpg", jpeg(1))])
    with TarShard(str(tar)) as shard:
        assert list(shard.index.samples) == ["b"]
    tar.unlink()
    with pytest.raises(DatasetError, match="does not exist"):
        TarShard(str(tar)).__enter__()


def test_the_indexes_of_many_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    tars = [write_tar(tmp_path / f"{n}.tar", [(f"{n}.jpg", jpeg(n))]) for n in range(8)]

    def look(number: int) -> bool:
        return images(tars[number % 8], False) == {str(number % 8): jpeg(number % 8)}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(80)))


def test_a_remote_tar_whose_index_is_known_is_not_fetched_before_it_is_read(tmp_path, bucket):
    import fsspec

    root = bucket()
    make_dataset(tmp_path, sizes=[3])
    fsspec.filesystem("s3").put(str(tmp_path / "00000.tar"), f"{root}/00000.tar")
    location = f"{root}/00000.tar"
    with TarShard(location) as shard:
        first = shard.index
    with TarShard(location) as shard:
        assert shard.index is first
        assert not shard._tar.is_opened
        (content,) = shard.read([shard.index.image("000000001")])
        assert content == jpeg(1)
        assert shard._tar.is_opened


def test_images_by_their_bytes_of_a_remote_tar_with_an_index_file(tmp_path, bucket):
    import fsspec

    root = bucket()
    members = [(f"{n}.{e}", jpeg(n)) for n, e in enumerate(["jpg", "data", "xyz"])]
    tar = write_tar(tmp_path / "a.tar", [*members, ("3.xyz", b"no image")])
    fs = fsspec.filesystem("s3")
    fs.put(str(tar), f"{root}/a.tar")
    fs.put(str(write_idx(tar)), f"{root}/a.idx")
    with TarShard(f"{root}/a.tar", use_index_file=True) as shard:
        found = list(shard.read(map(shard.index.image, "0123")))
        assert shard._tar.is_opened
    assert found == [jpeg(0), jpeg(1), jpeg(2), None]


def test_member_is_a_plain_tuple():
    assert Member("jpg", 512, 3) == ("jpg", 512, 3)


@pytest.mark.parametrize("line", ["jpg 87 60703 b.jpg", "jpg 512 100 b.jpg", "jpg 1024 900 b.jpg"])
def test_an_idx_whose_members_overlap_or_end_nowhere_is_not_used(tmp_path, line):
    tar = write_tar(tmp_path / "0.tar", [(f"{name}.jpg", b"1" * 300) for name in "abc"])
    lines = write_idx(tar).read_text().splitlines()
    tar.with_suffix(".idx").write_text("\n".join([lines[0], lines[1], line, lines[3], ""]))
    with TarShard(str(tar), use_index_file=True) as shard:
        members = [members[0] for members in shard.index.samples.values()]
        assert list(shard.read(members)) == [b"1" * 300] * 3
