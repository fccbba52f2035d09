"""The pass over the images: each row gets what is its own, whatever happens to the others."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from dask.base import tokenize
from PIL import Image

from nemo_image_curate import ImageClassifier, ImageStatistics, ImageTextPairDataset, frames
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.decode.cpu import CpuDecoder
from nemo_image_curate.errors import ConfigError, ImageError, JobError
from nemo_image_curate.quality.perceptual_hash import PerceptualHash
from nemo_image_curate.shards.headers import BLOCK
from tests.decode.pictures import base, saved
from tests.make_data import Truth, jpeg, make_dataset, write_sidecar, write_tar
from tests.make_embedders import (
    LoggingEmbedder,
    ThumbEmbedder,
    column,
    computed,
    embeddings,
    pillow_thumb,
    rows,
    thumb,
)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(buffer, "PNG")
    return buffer.getvalue()


def check_rows(found: list[dict[str, Any]], truth: Truth) -> None:
    """Every row has the embedding of its own picture, as Pillow computes it."""
    for row in found:
        assert row["image_error"] is None
        expected = pillow_thumb(truth.images[row["shard"], row["key"]])
        np.testing.assert_allclose(row["image_embedding"], expected, atol=0.03)


@pytest.fixture
def mixed(tmp_path):
    """One shard in which good pictures stand among all that can go wrong."""
    members = [
        ("a.jpg", jpeg(1)),
        ("b.txt", b"a caption without a picture"),
        ("c.jpg", b"<html>404 Not Found</html>"),
        ("d.png", png(300, 200)),
        ("e.jpg", jpeg(2)[:60]),
        ("f.jpg", b""),
        ("g.jpg", jpeg(3)),
        ("h.webp", jpeg(4, kind="WEBP")),
    ]
    write_tar(tmp_path / "0.tar", members)
    return tmp_path


REASONS = {
    "b": "missing",
    "c": "decode: ",
    "d": "too large: ",
    "e": "decode: ",
    "f": "decode: ",
}


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_a_bad_image_costs_its_own_row_and_no_other(mixed, backend, batch_size):
    ds = ImageTextPairDataset.from_webdataset(mixed, backend=backend)
    found = rows(ThumbEmbedder(batch_size=batch_size, max_pixels=59_999)(ds))
    assert [row["key"] for row in found] == list("abcdefgh")
    for row in found:
        reason = REASONS.get(row["key"])
        if reason is None:
            assert row["image_error"] is None
            assert len(row["image_embedding"]) == 48
        else:
            assert row["image_error"].startswith(reason)
            assert row["image_embedding"] is None
    good = {row["key"]: row["image_embedding"] for row in found if row["key"] in "ag"}
    np.testing.assert_allclose(good["a"], pillow_thumb(jpeg(1)), atol=0.03)
    np.testing.assert_allclose(good["g"], pillow_thumb(jpeg(3)), atol=0.03)


def test_the_limit_of_pixels_is_that_of_the_argument(mixed):
    ds = ImageTextPairDataset.from_webdataset(mixed).filter("key == 'd'")
    assert column(ThumbEmbedder(max_pixels=60_000)(ds), "image_error") == [None]
    assert column(ThumbEmbedder(max_pixels=1)(ds), "image_error")[0].startswith("too large")


@pytest.mark.parametrize("key", list(REASONS))
def test_on_error_raise_names_shard_key_and_reason(mixed, key, tmp_path):
    ds = ImageTextPairDataset.from_webdataset(mixed).filter(f"key == '{key}'")
    raising = ThumbEmbedder(max_pixels=59_999, on_error="raise")(ds)
    with pytest.raises(ImageError) as caught:
        raising.save_metadata(tmp_path / "out")
    message = str(caught.value)
    assert "0.tar" in message
    assert repr(key) in message
    assert REASONS[key].strip() in message
    assert "on_error='null'" in message


def test_on_error_raise_keeps_the_shards_that_are_whole(tmp_path):
    make_dataset(tmp_path / "in", sizes=[2, 2])
    write_tar(tmp_path / "in" / "bad1.tar", [("x.jpg", b"no picture")])
    write_tar(tmp_path / "in" / "bad2.tar", [("y.txt", b"no picture at all")])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    with pytest.raises(JobError) as caught:
        ThumbEmbedder(on_error="raise")(ds).save_metadata(tmp_path / "out")
    assert "bad1.tar: sample 'x': decode" in str(caught.value)
    assert "bad2.tar: sample 'y': missing" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "00000.parquet",
        "00001.parquet",
    ]


def test_on_error_raise_leaves_no_thread_behind(mixed):
    ds = ImageTextPairDataset.from_webdataset(mixed)
    with pytest.raises(ImageError):
        rows(ThumbEmbedder(batch_size=1, on_error="raise")(ds))
    assert not [one for one in threading.enumerate() if one.name.startswith("decode")]


def backwards(part):
    return part.iloc[::-1]


def merged(df):
    import pandas as pd

    labels = pd.DataFrame({"width": range(32, 38), "label": list("abcdef")})
    return df.merge(labels, on="width", how="inner")


CHANGES = {
    "as it is": lambda df: df,
    "filtered": lambda df: df[df.score > 3],
    "backwards": lambda df: df.map_partitions(backwards),
    "sorted": lambda df: df.sort_values("score"),
    "repartitioned to 1": lambda df: df.repartition(npartitions=1),
    "repartitioned to 9": lambda df: df.repartition(npartitions=9),
    "shuffled": lambda df: df.shuffle("key", npartitions=4),
    "merged": merged,
    "some partitions": lambda df: df.partitions[[2, 0]],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("pictures"), sizes=[6, 1, 5])


@pytest.mark.parametrize("change", list(CHANGES))
def test_rows_that_were_moved_about_get_their_own_embedding(pictures, change, backend):
    if change == "merged" and backend == "gpu":
        pytest.skip("merges with a pandas table")
    ds = ImageTextPairDataset.from_webdataset(pictures.root, backend=backend)
    ds.metadata = CHANGES[change](ds.metadata)
    expected = sorted((row["shard"], row["key"]) for row in rows(ds))
    found = rows(ThumbEmbedder(batch_size=4)(ds))
    assert sorted((row["shard"], row["key"]) for row in found) == expected != []
    check_rows(found, pictures)


def test_a_row_that_comes_twice_is_embedded_twice(pictures):
    import dask.dataframe as dd

    ds = ImageTextPairDataset.from_webdataset(pictures.root)
    ds.metadata = dd.concat([ds.metadata, ds.metadata]).repartition(npartitions=1)
    found = rows(ThumbEmbedder()(ds))
    assert len(found) == 24
    check_rows(found, pictures)


def test_shuffled_rows_give_the_same_bits(tmp_path):
    make_dataset(tmp_path, sizes=[70])
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    plain = {row["key"]: row["image_embedding"] for row in rows(ThumbEmbedder()(ds))}
    ds.metadata = ds.metadata.map_partitions(lambda part: part.sample(frac=1, random_state=3))
    found = rows(ThumbEmbedder()(ds))
    assert [row["key"] for row in found] != list(plain)
    assert {row["key"]: row["image_embedding"] for row in found} == plain


def test_the_order_of_rows_and_the_other_columns_stay(pictures):
    ds = ImageTextPairDataset.from_webdataset(pictures.root)
    ds.metadata = ds.metadata.sort_values("score")
    before = rows(ds)
    after = rows(ThumbEmbedder()(ds))
    assert [{name: row[name] for name in before[0]} for row in after] == before


NO_ROWS = pa.schema([("key", pa.string()), ("caption", pa.string())]).empty_table()


def test_partitions_without_rows(tmp_path, backend):
    make_dataset(tmp_path, sizes=[0, 3, 1], text=False, with_json=False)
    write_sidecar(tmp_path / "00000.parquet", NO_ROWS)
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    stages = {"image_stages": [ImageStatistics()]}
    assert len(rows(ThumbEmbedder(**stages)(ds))) == 4
    nothing = ThumbEmbedder(**stages)(ds.filter("key == 'nowhere'"))
    assert rows(nothing) == []
    saved = nothing.save_metadata(tmp_path / "out")
    assert len(saved) == 0
    kinds = dict(zip(*_schema(saved), strict=True))
    assert kinds["image_embedding"] == pa.list_(pa.field("item", pa.float32()))
    assert kinds["image_error"] == pa.string()
    assert kinds["brightness"] == pa.float32()


def _schema(ds) -> tuple[list[str], list[pa.DataType]]:
    schema = frames.to_arrow(ds.metadata._meta).schema
    return schema.names, schema.types


def test_what_is_computed_has_the_types_that_were_announced(pictures, backend):
    ds = ImageTextPairDataset.from_webdataset(pictures.root, backend=backend)
    made = ThumbEmbedder(image_stages=[ImageStatistics()])(ds)
    computed = frames.to_arrow(made.metadata.compute()).schema
    assert (computed.names, computed.types) == _schema(made)


def test_a_partition_of_bad_images_only(tmp_path, backend):
    write_tar(tmp_path / "0.tar", [("a.jpg", b"x"), ("b.jpg", b"y")])
    write_tar(tmp_path / "1.tar", [("c.jpg", jpeg(1))])
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    saved = ThumbEmbedder(image_stages=[ImageStatistics()])(ds).save_metadata(tmp_path / "out")
    found = rows(saved)
    assert [row["image_embedding"] is None for row in found] == [True, True, False]
    assert [row["brightness"] is None for row in found] == [True, True, False]
    assert saved.summary() == {"samples": 3, "errors": {"decode": 2}}


def test_rows_without_key_or_shard_are_missing(tmp_path):
    truth = make_dataset(tmp_path, sizes=[2], sidecars=False)
    keys = pa.array([truth.keys[0], None, truth.keys[1], "nowhere"])
    write_sidecar(tmp_path / "00000.parquet", {"key": keys})
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    found = rows(ThumbEmbedder()(ds))
    assert [row["image_error"] for row in found] == [None, "missing", None, "missing"]
    check_rows([found[0], found[2]], truth)
    ds.metadata = ds.metadata.assign(shard=ds.metadata.shard.where(ds.metadata.key != "nowhere"))
    assert column(ThumbEmbedder()(ds), "image_error")[3] == "missing"
    with pytest.raises(ImageError, match="missing"):
        rows(ThumbEmbedder(on_error="raise")(ds.filter(ds.metadata.key.isna())))


def test_index_files_are_used_when_asked_for_and_only_then(tmp_path):
    truth = make_dataset(tmp_path, sizes=[4], text=False, with_json=False)
    size = 2 * BLOCK
    offsets = {}
    content = (tmp_path / "00000.tar").read_bytes()
    for key in truth.keys:
        offsets[key] = content.index(truth.images["00000.tar", key])
        size = max(size, len(truth.images["00000.tar", key]))
    first, second, third, fourth = truth.keys
    # The two in the middle swapped: nobody but a reader of this file takes one for the other.
    swapped = {first: first, second: third, third: second, fourth: fourth}
    lines = [
        f"jpg {offsets[other]} {len(truth.images['00000.tar', other])} {key}.jpg"
        for key, other in swapped.items()
    ]
    (tmp_path / "00000.idx").write_text("v1.2 4\n" + "\n".join(lines) + "\n")
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    check_rows(rows(ThumbEmbedder()(ds)), truth)
    for row in rows(ThumbEmbedder(use_index_files=True)(ds)):
        expected = pillow_thumb(truth.images["00000.tar", swapped[row["key"]]])
        np.testing.assert_allclose(row["image_embedding"], expected, atol=0.03)


def test_two_stages_may_not_write_one_column(pictures):
    ds = ImageTextPairDataset.from_webdataset(pictures.root)
    with pytest.raises(ConfigError, match="two stages of one pass write the column 'sharpness'"):
        ThumbEmbedder(image_embedding_column="sharpness", image_stages=[ImageStatistics()])(ds)
    with pytest.raises(ConfigError, match="two stages of one pass write the column 'width'"):
        ThumbEmbedder(image_stages=[ImageStatistics(), ImageStatistics()])(ds)


@pytest.mark.parametrize("name", ["key", "shard", "image_error"])
def test_no_stage_may_overwrite_what_tells_rows_apart(pictures, name):
    ds = ImageTextPairDataset.from_webdataset(pictures.root)
    with pytest.raises(ConfigError, match=name):
        ThumbEmbedder(image_embedding_column=name)(ds)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 0),
        ("num_threads_per_worker", 0),
        ("max_pixels", -1),
        ("on_error", "ignore"),
    ],
)
def test_unusable_settings_are_refused_before_any_work(pictures, setting, value):
    ds = ImageTextPairDataset.from_webdataset(pictures.root)
    with pytest.raises(ConfigError, match=str(value)):
        ThumbEmbedder(**{setting: value})(ds)


def test_image_stages_share_one_pass(pictures, tmp_path):
    ds = ImageTextPairDataset.from_webdataset(pictures.root)
    log = tmp_path / "log"
    found = rows(LoggingEmbedder(str(log), image_stages=[ImageStatistics()], batch_size=4)(ds))
    check_rows(found, pictures)
    assert sorted(log.read_text().split()) == ["1", "1", "2", "4", "4"]
    alone = rows(ImageStatistics()(ds))
    for name in ImageStatistics().columns():
        for row, other in zip(found, alone, strict=True):
            # The sum over a picture may round differently in a batch of another size.
            assert row[name] == (
                other[name] if name == "image_format" else pytest.approx(other[name])
            )


_stop = threading.Event()
_others: list[threading.Thread] = []


def start_a_thread(part):
    """So that no later thread gets the number of one that has ended."""
    _others.append(threading.Thread(target=_stop.wait))
    _others[-1].start()
    return part


def test_a_process_builds_one_decoder_for_all_partitions(tmp_path):
    import dask

    make_dataset(tmp_path, sizes=[1] * 5)
    metadata = ThumbEmbedder()(ImageTextPairDataset.from_webdataset(tmp_path)).metadata
    worker_cache.clear()
    try:
        with dask.config.set(scheduler="synchronous"):
            metadata.map_partitions(start_a_thread, meta=metadata._meta).compute()
    finally:
        _stop.set()
    assert len(_others) == 5
    assert len([one for one in worker_cache._objects.values() if isinstance(one, CpuDecoder)]) == 1
    worker_cache.clear()


def test_on_two_workers_as_in_one_process(request, tmp_path):
    truth = make_dataset(tmp_path / "in", sizes=[5, 4, 3])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    alone = ThumbEmbedder(batch_size=2)(ds).save_metadata(tmp_path / "alone")
    request.getfixturevalue("client")
    saved = ThumbEmbedder(batch_size=2)(ds).save_metadata(tmp_path / "out")
    check_rows(rows(saved), truth)
    for name in ("00000", "00001", "00002"):
        one, other = ((tmp_path / folder / f"{name}.parquet") for folder in ("out", "alone"))
        assert one.read_bytes() == other.read_bytes()
    assert (embeddings(saved) == embeddings(alone)).all()


def exif(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


def test_orientation_is_of_the_whole_pass(tmp_path):
    upright = base()
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    members = {"lying.jpg": saved(lying, "JPEG", exif=exif(6), quality=95, subsampling=0)}
    members["upright.jpg"] = saved(upright, "JPEG", quality=95, subsampling=0)
    write_tar(tmp_path / "0.tar", members.items())
    ds = ImageTextPairDataset.from_webdataset(tmp_path)

    def embedded(orientation: str) -> list[dict]:
        shared = [stage(orientation=orientation) for stage in (ImageStatistics, PerceptualHash)]
        return rows(ThumbEmbedder(orientation=orientation, image_stages=shared)(ds))

    first, second = embedded("exif")
    assert (first["width"], first["height"]) == (123, 91)
    np.testing.assert_allclose(first["image_embedding"], second["image_embedding"], atol=0.02)
    assert (first["phash"] ^ second["phash"]).bit_count() <= 2
    first, second = embedded("stored")
    assert (first["width"], first["height"]) == (91, 123)
    assert np.dot(first["image_embedding"], second["image_embedding"]) < 0.9
    with pytest.raises(ConfigError, match="ImageStatistics has orientation='stored'"):
        ThumbEmbedder(orientation="exif", image_stages=[ImageStatistics()])(ds)
    with pytest.raises(ConfigError, match="orientation='up' should be"):
        ImageStatistics(orientation="up")(ds)


def test_orientation_is_recorded_and_computed_again(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [("a.jpg", jpeg(1))])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    for orientation in ("stored", "exif", "exif"):
        embedder = LoggingEmbedder(str(tmp_path / "log"), orientation=orientation)
        made = embedder(ds).save_metadata(tmp_path / "out")
        assert made.provenance["image_embedding"]["orientation"] == orientation
    assert computed(tmp_path / "log") == 2
    tokens = {tokenize(PerceptualHash(orientation=name)) for name in ("stored", "exif")}
    assert len(tokens) == 2


class Brightness(ImageClassifier):
    """Scores whatever it is given, NaN included."""

    def __init__(self):
        super().__init__("bright")

    def load_model(self, device: str):
        return lambda vectors: vectors.sum(dim=1).nan_to_num(7.0)


class NoDirection(ThumbEmbedder):
    """A model that gives nothing for dark pictures."""

    def load_embedding_model(self, device: str):
        def model(pixels):
            vectors = thumb(pixels)
            dark = pixels.mean((1, 2, 3)) < 0.4
            return torch.where(dark[:, None], vectors.new_tensor(self.nothing), vectors)

        return model


@pytest.mark.parametrize("nothing", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_a_model_makes_nothing_of_is_null(tmp_path, backend, nothing, normalize):
    dark, light = (
        saved(Image.new("RGB", (20, 20), (n, 200 * (n > 99), n)), "PNG") for n in (9, 190)
    )
    members = {"a.png": light, "b.png": dark, "c.png": light, "d.png": b"none", "e.png": dark}
    write_tar(tmp_path / "0.tar", members.items())
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    stages = {"classifiers": [Brightness()], "image_stages": [ImageStatistics()]}
    embedder = NoDirection(normalize_embeddings=normalize, **stages)
    embedder.nothing = nothing
    found = {row["key"]: row for row in rows(embedder(ds))}
    for key, row in found.items():
        assert (row["image_embedding"] is None) == (row["bright"] is None) == (key in "bde")
        assert (row["width"] is None) == (key == "d")
    reason = "embed: the model gave no direction (zeros or NaN)"
    assert [found[key]["image_error"] for key in "abce"] == [None, reason, None, reason]
    assert embedder(ds).summary()["errors"] == {"decode": 1, "embed": 2}
    vectors, errors = embedder.embed_images([light, dark])
    assert errors == [None, reason]
    assert np.isnan(vectors[1]).all()
    raising = NoDirection(on_error="raise")
    raising.nothing = nothing
    with pytest.raises(ImageError, match=r"sample 'b': embed: the model gave no direction"):
        rows(raising(ds.filter("key == 'b'")))
