"""Rows that failed are computed again, others are taken over, and the bytes are a full run's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nemo_image_curate import ImageStatistics, ImageTextPairDataset
from nemo_image_curate.errors import ConfigError
from tests.dataset.opened import open_dataset, rows_of
from tests.decode.pictures import good
from tests.make_data import digests, jpeg, write_tar
from tests.make_embedders import LoggingEmbedder, computed

pytest.importorskip("pillow_heif")
BATCH = 4
# Of each shard's rows the sixth is a HEIC, which needs an extra; one of another shard is no image.
SIZES = [10, 9, 10]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    heic = good(40, 30)["heic"]
    for shard, size in enumerate(SIZES):
        members = [(f"{shard}{row}.jpg", jpeg(10 * shard + row)) for row in range(size)]
        if shard < 2:
            members[5] = (f"{shard}5.heic", heic)
        else:
            members[1] = ("21.jpg", b"<html>404</html>")
        write_tar(tmp_path / "tars" / f"{shard}.tar", members)
    return tmp_path / "tars"


def without_heif() -> pytest.MonkeyPatch:
    """As on a machine where the extra is not installed."""
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "pillow_heif", None)
    return patch


class Run:
    """Embeds into a folder, and counts the images that the model saw."""

    def __init__(self, tars: Path, log: Path):
        self.tars, self.log = tars, log

    def stage(self) -> LoggingEmbedder:
        return LoggingEmbedder(str(self.log), batch_size=BATCH, image_stages=[ImageStatistics()])

    def frame(self) -> ImageTextPairDataset:
        return self.stage()(open_dataset(self.tars))

    def __call__(self, folder: Path | None, change=lambda dataset: dataset, **options) -> int:
        before = computed(self.log)
        change(self.frame()).save_metadata(folder, **options)
        return computed(self.log) - before


@pytest.fixture
def run(tars: Path, tmp_path: Path) -> Run:
    return Run(tars, tmp_path / "log")


def test_failed_rows_alone_and_what_shares_their_batch(run, tmp_path):
    patch = without_heif()
    assert run(tmp_path / "meta") == 26
    errors = {row["key"]: row["image_error"] for row in rows_of(open_dataset(tmp_path / "meta"))}
    assert {key for key, error in errors.items() if error} == {"05", "15", "21"}
    assert "install nemo_image_curate[heif]" in errors["05"]
    patch.undo()
    first = digests(tmp_path / "meta")
    assert run(tmp_path / "meta") == 0, "what failed stays until it is asked for"
    assert digests(tmp_path / "meta") == first
    # The batches of 05 and 15, and that of 21 but for itself.
    assert run(tmp_path / "meta", retry=True) == 4 + 4 + 3
    assert run(tmp_path / "full") == 28
    retried = digests(tmp_path / "meta")
    assert retried == digests(tmp_path / "full")
    assert run(tmp_path / "meta", retry=True) == 3
    assert digests(tmp_path / "meta") == retried


def test_in_place(run, tars, tmp_path):
    patch = without_heif()
    run(None)
    patch.undo()
    assert run(None, retry=True) == 4 + 4 + 3
    in_place = digests(tars)
    for sidecar in tars.glob("*.parquet"):
        sidecar.unlink()
    run(None)
    assert digests(tars) == in_place


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda ds: ds.filter("width > 20"), 4 + 4 + 3),
        (lambda ds: ds.select(["image_embedding", "image_error", "width"]), 28),
        (lambda ds: ds.replace(ds.metadata.assign(width=ds.metadata.width + 1)), 28),
        (lambda ds: ds.replace(ds.metadata[ds.metadata.width.fillna(1) != 32]), 28),
        (lambda ds: ImageStatistics()(ds), 28),
    ],
    ids=["filter", "select", "own columns", "own filter", "second pass"],
)
def test_what_is_done_behind_the_pass(run, tmp_path, change, seen):
    """Where values are not saved as the pass made them, it looks at all images."""
    patch = without_heif()
    run(tmp_path / "meta", change)
    patch.undo()
    assert run(tmp_path / "meta", change, retry=True) == seen
    run(tmp_path / "full", change)
    assert digests(tmp_path / "meta") == digests(tmp_path / "full")


def test_calculations_in_place_are_not_made_twice(run):
    patch = without_heif()
    run(None)
    patch.undo()
    with pytest.raises(ConfigError, match=r"a second time.*Save to a folder"):
        run(
            None,
            lambda ds: ds.replace(ds.metadata.assign(width=ds.metadata.width + 1)),
            retry=True,
        )


def test_new_shards_and_failed_rows_together(run, tars, tmp_path):
    patch = without_heif()
    run(tmp_path / "meta")
    patch.undo()
    write_tar(tars / "3.tar", [("30.jpg", jpeg(30)), ("31.jpg", jpeg(31))])
    assert run(tmp_path / "meta", retry=True) == 2 + 4 + 4 + 3
    assert run(tmp_path / "full") == 30
    assert digests(tmp_path / "meta") == digests(tmp_path / "full")


def test_images_that_are_too_large_stay_so(tars, tmp_path):
    log = tmp_path / "log"
    dataset = open_dataset(tars)
    embedder = LoggingEmbedder(str(log), batch_size=BATCH, max_pixels=40 * 30 - 1)
    embedder(dataset).save_metadata(tmp_path / "meta")
    before = computed(log)
    embedder(dataset).save_metadata(tmp_path / "meta", retry=True)
    assert computed(log) - before == 3, "the batch of what is no image"


def test_columns_that_were_added_in_place_stay(run, tmp_path):
    meta = tmp_path / "meta"
    patch = without_heif()
    run(meta)
    patch.undo()
    dataset = open_dataset(meta)
    dataset.metadata["own"] = dataset.metadata["width"] * 2
    dataset.save_metadata()
    with pytest.raises(ConfigError, match=r"3 files .* be lost: own\."):
        run(meta, retry=True)
    before = computed(run.log)
    retried = run.stage()(open_dataset(meta)).save_metadata(retry=True)
    assert computed(run.log) - before == 4 + 4 + 3
    assert [row["key"] for row in rows_of(retried) if row["image_error"]] == ["21"]
    assert "own" in retried.metadata.columns
    assert run(meta) == 0
