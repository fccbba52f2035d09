"""Inputs that change, shrink or vanish while they are used: told, and never taken for done."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import ChangedError, DatasetError, JobError, NotFoundError
from nemo_image_curate.quality.digest import DIGEST_COLUMN, ImageDigest
from tests.dataset.opened import open_dataset
from tests.make_data import digests, make_dataset, read_tar

HOWS = ["gone", "cut", "renamed", "in place"]
# What is said of each.
TOLD = {"gone": "was removed", "cut": "it had .* bytes, and has"}


def change(tar: Path, how: str) -> None:
    """Make it another tar, if possible one of the same size and times, or none."""
    content = tar.read_bytes()
    other = content.replace(b"JFIF", b"JFIX")
    times = os.stat(tar)
    same_times = times.st_atime_ns, times.st_mtime_ns
    if how == "gone":
        tar.unlink()
    elif how == "cut":
        os.truncate(tar, len(content) // 2)
    elif how == "renamed":
        new = tar.with_name("new")
        new.write_bytes(other)
        os.utime(new, ns=same_times)
        new.rename(tar)
    else:
        with tar.open("r+b") as file:
            file.write(other)
        os.utime(tar, ns=same_times)


def changing(dataset: ImageTextPairDataset, when: str, tar: Path, how: str):
    """The dataset, with something that changes a tar when a shard was computed."""

    def run(part):
        if len(part) and part["shard"].iloc[0] == when and tar.exists():
            change(tar, how)
        return part

    return dataset.replace(
        dataset.metadata.map_partitions(run, meta=dataset.metadata._meta), dataset.provenance
    )


@pytest.mark.parametrize("sidecars", [True, False])
@pytest.mark.parametrize("how", HOWS)
def test_a_tar_that_changes_while_its_task_runs_is_not_done(tmp_path, how, sidecars):
    made = make_dataset(tmp_path / "tars", sizes=[2, 2, 2], sidecars=sidecars)
    tar = made.root / "00001.tar"

    def digested() -> ImageTextPairDataset:
        return ImageDigest()(open_dataset(made.root))

    message = rf"00001\.tar.*{TOLD.get(how, 'other content of that size')}.*same job again"
    with pytest.raises((ChangedError, NotFoundError), match=message):
        changing(digested(), tar.name, tar, how).save_metadata(tmp_path / "out")
    written = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert written == ["00000.parquet", "00002.parquet"], "the others are done"
    if how in ("renamed", "in place"):
        again = digested().save_metadata(tmp_path / "out")
        anew = digested().save_metadata(tmp_path / "anew")
        columns = [one.metadata[DIGEST_COLUMN].compute().tolist() for one in (again, anew)]
        assert columns[0] == columns[1], "nothing of the old tar"


@pytest.mark.parametrize("sidecars", [True, False])
def test_a_tar_that_was_cut_before_its_turn_is_told(tmp_path, sidecars):
    made = make_dataset(tmp_path / "tars", sizes=[2, 20, 2], sidecars=sidecars)
    dataset = ImageDigest()(open_dataset(made.root))
    change(made.root / "00001.tar", "cut")
    with pytest.raises(ChangedError, match=r"00001\.tar was changed while it was in use"):
        dataset.save_metadata(tmp_path / "out")
    with pytest.raises(ChangedError, match=r"00001\.tar was changed while it was in use"):
        dataset.to_webdataset(tmp_path / "new")
    again = ImageDigest()(open_dataset(made.root)).save_metadata(tmp_path / "out")
    assert again.account().faults["truncated"] == 1


@pytest.mark.parametrize("how", HOWS)
def test_a_tar_that_changes_during_an_export_gives_no_garbage(tmp_path, how):
    made = make_dataset(tmp_path / "tars", sizes=[3, 3])
    # The first shard is staged when the second is computed, and not copied yet.
    dataset = changing(open_dataset(made.root), "00001.tar", made.root / "00000.tar", how)
    with pytest.raises((ChangedError, NotFoundError, JobError), match=r"00000\.tar"):
        dataset.to_webdataset(tmp_path / "new", samples_per_shard=3)
    pictures = set(made.images.values())
    for tar in (tmp_path / "new").glob("*.tar"):
        contents = {name: content for name, content in read_tar(tar).items() if "jpg" in name}
        assert set(contents.values()) <= pictures
    with pytest.raises(DatasetError, match=r"an export that is not finished; 1 of its shards"):
        open_dataset(tmp_path / "new")


def test_an_export_that_was_stopped_is_no_dataset(tmp_path):
    made = make_dataset(tmp_path / "tars", sizes=[3, 3])
    dataset, new = open_dataset(made.root), tmp_path / "new"
    dataset.to_webdataset(tmp_path / "whole", samples_per_shard=2)
    (new / "00001.tar").mkdir(parents=True)
    with pytest.raises(DatasetError, match="cannot write"):
        dataset.to_webdataset(new, samples_per_shard=2)
    message = r"an export that is not finished; \d of its shards.*same export again"
    for path in (new, [str(new / "00002.tar")], f"{new}/*2.tar"):
        with pytest.raises(DatasetError, match=message):
            open_dataset(path)
    (new / "00001.tar").rmdir()
    dataset.to_webdataset(new, samples_per_shard=2)
    assert digests(new) == digests(tmp_path / "whole")
    assert len(open_dataset(new)) == 6


def test_times_in_the_future_are_told_and_what_is_done_stays_done(tmp_path, caplog):
    made = make_dataset(tmp_path / "tars", sizes=[2, 2])
    tar, log = made.root / "00001.tar", tmp_path / "log"
    os.utime(tar, (time.time() + 1e6,) * 2)

    def noted(part):
        if len(part):
            with log.open("a") as file:
                file.write(part["shard"].iloc[0] + "\n")
        return part

    def run() -> list[str]:
        dataset = open_dataset(made.root)
        frame = dataset.metadata.map_partitions(noted, meta=dataset.metadata._meta)
        dataset.replace(frame).save_metadata(tmp_path / "out")
        dataset.to_webdataset(tmp_path / "new")
        lines = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    assert run() == ["00000.tar", "00001.tar"]
    assert "1 files have times in the future, such as" in caplog.text
    assert str(tar) in caplog.text
    assert run() == []
    os.utime(tar, (time.time() + 2e6,) * 2)
    with pytest.raises(Exception, match="inputs that have changed since"):
        run()
    assert log.read_text().split() == ["00001.tar"]


def test_times_in_the_past_change_no_byte(tmp_path):
    made = make_dataset(tmp_path / "tars", sizes=[2])
    contents = []
    for seconds in (1e9, 1.5e9):
        os.utime(made.root / "00000.tar", (seconds, seconds))
        ImageDigest()(open_dataset(made.root)).save_metadata(tmp_path / f"out{seconds}")
        contents.append((tmp_path / f"out{seconds}" / "00000.parquet").read_bytes())
    assert contents[0] == contents[1]
