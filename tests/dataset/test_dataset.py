"""The small methods of ImageTextPairDataset."""

from __future__ import annotations

import hashlib
import io
import os
import warnings

import pyarrow as pa
import pytest
from PIL import Image

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError, ImageError
from nemo_image_curate.frames import to_arrow
from nemo_image_curate.quality.digest import ImageDigest
from nemo_image_curate.quality.statistics import ImageStatistics
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar


@pytest.fixture
def made(tmp_path):
    return make_dataset(tmp_path, sizes=[4, 0, 3])


@pytest.fixture
def dataset(made, backend):
    return ImageTextPairDataset.from_webdataset(made.root, backend=backend)


def keys_of(dataset: ImageTextPairDataset) -> list[str]:
    return to_arrow(dataset.metadata[["key"]].compute())["key"].to_pylist()


def test_length_head_and_text(dataset, made):
    assert len(dataset) == 7
    assert to_arrow(dataset.head(6))["key"].to_pylist() == made.keys[:6]
    assert len(dataset.head(100)) == 7
    text = repr(dataset)
    assert str(made.root) in text
    assert "3 shards" in text
    assert dataset.backend in text
    assert "caption" in text


def test_head_does_not_make_workers_warn(tmp_path, client):
    make_dataset(tmp_path, sizes=[4, 3, 5])
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    client.run(lambda: warnings.simplefilter("error", UserWarning))
    try:
        assert [len(dataset.head(n)) for n in (2, 6, 100)] == [2, 6, 12]
    finally:
        client.run(lambda: warnings.filters.pop(0))


def test_filter(dataset, made):
    expected = [row["key"] for row in made.rows if row["score"] > 4 and row["width"] != 33]
    assert 0 < len(expected) < 7
    assert keys_of(dataset.filter("score > 4 and width != 33")) == expected
    df = dataset.metadata
    assert keys_of(dataset.filter((df.score > 4) & (df.width != 33))) == expected
    assert len(dataset) == 7, "the dataset itself is not changed"


def test_nulls_do_not_pass_a_filter(dataset, made):
    df = dataset.metadata
    dataset.metadata = df.assign(score=df.score.where(df.width != 33, None))
    expected = [row["key"] for row in made.rows if row["width"] != 33]
    assert keys_of(dataset.filter("score >= 0")) == expected
    assert keys_of(dataset.filter(dataset.metadata.score >= 0)) == expected


def test_wrong_expressions(dataset):
    with pytest.raises(ColumnNotFoundError, match=r"no column 'scroe'\. Did you mean 'score'"):
        dataset.filter("scroe > 5")
    for wrong in ("score >", "import os", "score > 'x' +", ""):
        with pytest.raises(ConfigError, match="cannot use the expression"):
            dataset.filter(wrong)


def test_select(dataset):
    assert list(dataset.select(["score", "key"]).metadata.columns) == ["key", "shard", "score"]
    with pytest.raises(ColumnNotFoundError, match=r"no column 'captions'\. Did you mean 'caption'"):
        dataset.select(["captions"])


def test_the_frame_is_a_plain_dask_frame(dataset, made):
    df = dataset.metadata
    df["wide"] = df.width > 32
    assert int(df.wide.sum().compute()) == sum(row["width"] > 32 for row in made.rows)
    counts = to_arrow(df.groupby("shard").size().compute().to_frame("n"))
    assert sorted(counts["n"].to_pylist()) == [3, 4]


@pytest.mark.parametrize("shard", [None, "00002.tar"])
def test_image(dataset, made, shard):
    key = made.keys[-1]
    picture = dataset.image(key, shard)
    expected = Image.open(io.BytesIO(made.images["00002.tar", key]))
    assert picture.tobytes() == expected.tobytes()


def test_image_that_cannot_be_shown(tmp_path):
    root = tmp_path / "t"
    members = [("a.jpg", b"not a picture"), ("b.txt", b"b"), ("c.jpg", jpeg(1)[:300])]
    write_tar(root / "0.tar", [*members, ("same.jpg", jpeg(1))])
    write_tar(root / "1.tar", [("same.jpg", jpeg(2))])
    dataset = ImageTextPairDataset.from_webdataset(root)
    for key in "ac":
        with pytest.raises(ImageError, match=rf"^0\.tar: {key}: "):
            dataset.image(key)
    with pytest.raises(DatasetError, match=r"sample 'b' has no image in 0\.tar"):
        dataset.image("b")
    with pytest.raises(DatasetError, match="key 'zzz' is not in the dataset"):
        dataset.image("zzz")
    with pytest.raises(DatasetError, match=r"'same' is in several shards: 0\.tar, 1\.tar; give"):
        dataset.image("same")
    expected = Image.open(io.BytesIO(jpeg(2))).tobytes()
    assert dataset.image("same", "1.tar").tobytes() == expected


def test_keys_of_any_kind_find_their_picture(tmp_path):
    keys = ["a b", "日本 🐈", "v1.0/x y", "0012", "-5", "Ünï", "a'\"b", "x" * 150, "%41"]
    import tarfile

    members = [(f"{key}.jpg", jpeg(n)) for n, key in enumerate(keys)]
    write_tar(tmp_path / "a b.c.tar", members, tarfile.GNU_FORMAT)
    write_sidecar(tmp_path / "a b.c.parquet", {"key": keys[::-1]})
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    for number, key in enumerate(keys):
        expected = Image.open(io.BytesIO(jpeg(number))).tobytes()
        assert dataset.image(key).tobytes() == expected
    dataset.to_webdataset(tmp_path / "new", old_id_col="old")
    again = ImageTextPairDataset.from_webdataset(tmp_path / "new")
    found = to_arrow(again.metadata.compute()).to_pylist()
    assert [row["old"] for row in found] == keys[::-1]
    expected = Image.open(io.BytesIO(jpeg(0))).tobytes()
    assert again.image(found[-1]["key"]).tobytes() == expected


def test_replace_keeps_what_is_known(dataset):
    record = {"stage": "a"}
    other = dataset.replace(dataset.metadata.assign(x=1), {"x": record})
    assert other.provenance == {"x": record}
    assert dataset.provenance == {}
    assert (other.path, other.tar_files, other.id_col) == (
        dataset.path,
        dataset.tar_files,
        dataset.id_col,
    )


PAIRS = {"input.jpg": jpeg(1, 40, 30), "target.png": jpeg(2, 20, 10, "PNG"), "txt": b"caption"}


@pytest.fixture
def pairs(tmp_path):
    for shard in range(2):
        members = [(f"s{n}.{name}", content) for n in range(2) for name, content in PAIRS.items()]
        write_tar(tmp_path / f"{shard:05d}.tar", members)
    return tmp_path


def widths(dataset: ImageTextPairDataset) -> set[int | None]:
    table = to_arrow(ImageStatistics()(dataset).metadata[["width"]].compute())
    return set(table["width"].to_pylist())


def test_the_image_member_decides_what_is_looked_at(pairs):
    for image_member, width in ((None, 40), ("input.*", 40), ("target.png", 20), ("*.PNG", 20)):
        dataset = ImageTextPairDataset.from_webdataset(pairs, image_member=image_member)
        assert dataset.image_member == image_member
        assert widths(dataset) == {width}
        assert dataset.image("s0", "00000.tar").width == width
        name = "target.png" if width == 20 else "input.jpg"
        digests = ImageDigest()(dataset).metadata["image_sha256"].compute()
        assert set(digests) == {hashlib.sha256(PAIRS[name]).hexdigest()}


def test_the_image_member_stays_with_what_is_saved(pairs, tmp_path_factory):
    dataset = ImageTextPairDataset.from_webdataset(pairs, image_member="target.png")
    folder = tmp_path_factory.mktemp("out") / "meta"
    for place in (folder, None):
        saved = dataset.filter("key != ''").save_metadata(place)
        assert saved.image_member == "target.png"
        again = ImageTextPairDataset.from_webdataset(place or pairs)
        assert again.image_member == "target.png"
        assert widths(again) == {20}
        other = ImageTextPairDataset.from_webdataset(place or pairs, image_member="input.jpg")
        assert widths(other) == {40}, "what is said counts more than what was saved"


def test_work_of_one_image_member_is_not_taken_for_that_of_another(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "meta"
    for image_member, width in (("input.jpg", 40), ("target.png", 20), ("target.png", 20)):
        dataset = ImageTextPairDataset.from_webdataset(pairs, image_member=image_member)
        saved = ImageStatistics()(dataset).save_metadata(folder)
        assert set(to_arrow(saved.metadata.compute())["width"].to_pylist()) == {width}


def test_shards_saved_with_different_image_members_need_a_choice(pairs, tmp_path_factory):
    for shard, image_member in (("00000.tar", "input.jpg"), ("00001.tar", "target.png")):
        part = ImageTextPairDataset.from_webdataset(pairs / shard, image_member=image_member)
        part.save_metadata()
    with pytest.raises(ConfigError, match=r"different image_member.*--image-member"):
        ImageTextPairDataset.from_webdataset(pairs)
    assert widths(ImageTextPairDataset.from_webdataset(pairs, image_member="input.jpg")) == {40}


def test_a_row_without_image_says_which_members_there_are(pairs):
    dataset = ImageTextPairDataset.from_webdataset(pairs, image_member="webp")
    done = ImageStatistics()(dataset)
    reasons = set(to_arrow(done.metadata[["image_error"]].compute())["image_error"].to_pylist())
    assert reasons == {
        "missing: none of its members (input.jpg, target.png, txt) is image_member='webp'"
    }
    assert done.summary()["errors"] == {"missing": 4}
    with pytest.raises(DatasetError, match=r"no image in 00000\.tar: missing: none of"):
        dataset.image("s0", "00000.tar")
    assert "none of its members" in dataset.show(1).html


def test_an_image_member_that_can_be_none(pairs):
    with pytest.raises(ConfigError, match="image_member"):
        ImageTextPairDataset.from_webdataset(pairs, image_member="")


@pytest.mark.parametrize("relative_tars", [False, True])
def test_a_frame_of_ones_own_with_relative_paths(
    made, tmp_path, backend, monkeypatch, relative_tars
):
    opened = ImageTextPairDataset.from_webdataset(made.root, backend=backend)
    monkeypatch.chdir(tmp_path.parent)
    tars = [os.path.relpath(tar) if relative_tars else tar for tar in opened.tar_files]
    dataset = ImageTextPairDataset(tmp_path.name, opened.metadata, tars)
    monkeypatch.chdir("/")
    assert dataset.path == opened.path
    assert dataset.image(made.keys[0]).size == opened.image(made.keys[0]).size
    saved = dataset.save_metadata(tmp_path / "saved")
    assert keys_of(saved) == made.keys
    assert saved.path == opened.path


def test_columns_of_the_dataset_that_a_stage_replaces_are_told(made, tmp_path, caplog, backend):
    dataset = ImageTextPairDataset.from_webdataset(made.root, backend=backend)
    dataset.metadata["sharpness"] = 1.0
    measured = ImageStatistics()(dataset)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == "width, sharpness: the dataset's own columns are replaced by ImageStatistics"
    caplog.clear()
    saved = measured.save_metadata(tmp_path / "meta")
    ImageStatistics()(saved)
    ImageStatistics(orientation="exif")(saved)
    saved.with_columns(lambda part: {"score": part["score"]}, {"score": pa.float64()})
    assert not caplog.records, "columns of ours, and what users do themselves"
