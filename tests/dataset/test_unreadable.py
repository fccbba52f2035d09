"""Files that are not found, forbidden, unavailable or damaged: four errors."""

from __future__ import annotations

import pytest

from nemo_image_curate.dataset.inspecting import inspect_dataset
from nemo_image_curate.errors import (
    CurateError,
    DamagedError,
    DatasetError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from nemo_image_curate.quality.digest import ImageDigest
from nemo_image_curate.shards import sidecars
from nemo_image_curate.shards.reader import TarShard
from nemo_image_curate.storage import open_read, read_bytes, read_ranges, write_bytes
from tests.dataset.opened import open_dataset
from tests.make_data import make_dataset


def upload(root: str, folder) -> None:
    for path in folder.iterdir():
        write_bytes(f"{root}/{path.name}", path.read_bytes())


@pytest.fixture
def remote(tmp_path, bucket):
    """Three shards, of which the first two have sidecars, behind a store that may refuse them."""
    make_dataset(tmp_path / "made", sizes=[2, 3, 4], sidecars=[True, True, False])
    root = bucket()
    upload(root, tmp_path / "made")
    return root


READERS = [
    read_bytes,
    lambda location: read_ranges(location, [(0, 4)]),
    lambda location: open_read(location).read(),
    sidecars.read_footer,
    sidecars.read_sidecar,
]


@pytest.mark.parametrize(("status", "error"), [(403, ForbiddenError), (404, NotFoundError)])
def test_what_a_store_refuses_is_no_damaged_file(remote, traffic, status, error):
    traffic.refused["00001.parquet"] = status
    for read in READERS[:2] + READERS[3:]:
        with pytest.raises(error, match=r"00001\.parquet") as told:
            read(f"{remote}/00001.parquet")
        assert "elete" not in str(told.value)
    with pytest.raises(DatasetError, match=r"00001\.parquet") as told:
        open_dataset(remote)
    assert "readable Parquet" not in str(told.value)


def test_a_store_that_is_busy(remote, traffic, monkeypatch):
    import s3fs.core

    # Its patience is not what this is about.
    monkeypatch.setattr(s3fs.core.S3FileSystem, "retries", 1)
    traffic.refused["00001.parquet"] = 503
    with pytest.raises(UnavailableError, match=r"cannot reach .*00001\.parquet"):
        sidecars.read_footer(f"{remote}/00001.parquet")


def test_a_disk_that_is_not_mounted(tmp_path):
    gone = str(tmp_path / "mount" / "00000.parquet")
    for read in READERS:
        with pytest.raises(NotFoundError, match=r"does not exist on .*Is the disk mounted there"):
            read(gone)
    with pytest.raises(NotFoundError):
        TarShard(gone).__enter__()


def test_a_disk_that_fails(tmp_path):
    # Reading the beginning of this gives EIO.
    link = tmp_path / "00000.parquet"
    link.symlink_to("/proc/self/mem")
    with pytest.raises(UnavailableError, match=r"cannot reach .*Input/output error"):
        read_bytes(str(link))


def test_a_tar_that_may_not_be_read_is_told_and_the_others_are_used(remote, traffic, caplog):
    traffic.refused["00002.tar"] = 403
    dataset = open_dataset(remote)
    assert len(dataset) == 5
    assert "1 of 3 shards cannot be read and are left out, such as may not read" in caplog.text
    assert dataset.account().faults["unreadable"] == 1
    assert inspect_dataset(dataset)["counts"]["unreadable"] == 1
    traffic.refused[".tar"] = 403
    with pytest.raises(CurateError, match=r"may not read .*00002\.tar"):
        open_dataset(f"{remote}/00002.tar")


def test_a_damaged_sidecar_is_not_to_be_deleted(tmp_path):
    make_dataset(tmp_path, sizes=[1])
    (tmp_path / "00000.parquet").write_bytes(b"half")
    with pytest.raises(DamagedError, match="not a readable Parquet file") as told:
        sidecars.read_footer(str(tmp_path / "00000.parquet"))
    assert "elete" not in str(told.value)


def test_images_of_a_store_that_fails_are_not_missing(remote, traffic, tmp_path):
    dataset = ImageDigest()(open_dataset(remote))
    traffic.refused["00001.tar"] = 403
    with pytest.raises(ForbiddenError, match=r"may not read .*00001\.tar"):
        dataset.save_metadata(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
