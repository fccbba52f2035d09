"""The base of embedders: what a subclass may give, and what is recorded and computed again."""

from __future__ import annotations

import base64
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from nemo_image_curate import (
    ImageClassifier,
    ImageEmbedder,
    ImageStatistics,
    ImageTextPairDataset,
    TimmImageEmbedder,
    __version__,
    frames,
)
from nemo_image_curate.compute import devices
from nemo_image_curate.compute.client import get_client
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.decode import Preprocessing, decode_rgb
from nemo_image_curate.errors import ConfigError, DatasetError, ImageError, WeightsError
from tests.make_data import digests, jpeg, make_dataset, write_tar
from tests.make_embedders import (
    SMALL,
    LoggingEmbedder,
    ThumbEmbedder,
    column,
    computed,
    embeddings,
    pillow_thumb,
    rows,
    thumb,
)


@pytest.fixture
def ds(tmp_path):
    make_dataset(tmp_path / "in", sizes=[3, 2])
    return ImageTextPairDataset.from_webdataset(tmp_path / "in")


def test_normalised_or_as_the_model_gives_them(ds, backend):
    ds = ImageTextPairDataset.from_webdataset(ds.path, backend=backend)
    unit = embeddings(ThumbEmbedder()(ds))
    plain = embeddings(ThumbEmbedder(normalize_embeddings=False)(ds))
    lengths = np.linalg.norm(plain, axis=1)
    assert (abs(lengths - 1) > 0.05).any()
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit, plain / lengths[:, None], atol=1e-6)


class Halves(ThumbEmbedder):
    def load_embedding_model(self, device):
        return lambda pixels: thumb(pixels).to(torch.float16)


def test_the_column_is_float32_whatever_the_model_gives(ds):
    made = Halves(image_embedding_column="half")(ds).metadata.compute()
    assert pa.array(made["half"]).type == pa.list_(pa.field("item", pa.float32()))


class Shaped(ThumbEmbedder):
    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def load_embedding_model(self, device):
        return lambda pixels: torch.ones(self.shape)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 7), (3,)])
def test_a_model_of_the_wrong_shape_is_told_so(ds, shape):
    with pytest.raises(ConfigError, match="should be \\(images, dimensions\\)"):
        Shaped(shape)(ds.filter("shard == '00000.tar'")).metadata.compute()


class Hungry(ThumbEmbedder):
    """No machine has the memory for three images."""

    def load_embedding_model(self, device):
        def run(pixels):
            torch.empty(2 ** (60 if len(pixels) > 2 else 10), dtype=torch.uint8, device=device)
            return thumb(pixels)

        return run


class Insatiable(ThumbEmbedder):
    def load_embedding_model(self, device):
        return lambda pixels: torch.empty(2**50, device=device)


def test_batches_are_halved_where_memory_does_not_suffice(tmp_path, backend, caplog):
    make_dataset(tmp_path / "in", sizes=[11, 9])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend=backend)
    found = embeddings(Hungry(batch_size=8)(ds))
    np.testing.assert_allclose(found, embeddings(ThumbEmbedder()(ds)), atol=1e-6)
    warnings = [record.message for record in caplog.records if "no memory" in record.message]
    # 2 fit. The size is remembered, so that only threads that began together try in vain.
    assert set(warnings) == {f"no memory for {n} images at once; trying {n // 2}" for n in (8, 4)}


@pytest.mark.gpu
def test_memory_returns_after_two_embedders_in_one_save(tmp_path):
    if problem := frames.gpu_problem():
        pytest.skip(f"no GPU: {problem}")
    make_dataset(tmp_path / "in", sizes=[9, 7, 8])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend="gpu")
    left = []
    for number in range(4):
        both = ds
        for column_name in ("one", "two"):
            # 88 million weights, 176 MB in bfloat16.
            both = TimmImageEmbedder("vit_base_patch32_224", image_embedding_column=column_name)(
                both
            )
        saved = both.save_metadata(tmp_path / f"out{number}")
        assert saved.summary() == {"samples": 24, "errors": {}}
        free, total = torch.cuda.mem_get_info()
        left.append(total - free)
    # The first leaves what libraries load once.
    assert left[-1] - left[1] < 64e6


@pytest.mark.gpu
def test_on_a_gpu_two_threads_write_what_one_writes(tmp_path):
    if problem := frames.gpu_problem():
        pytest.skip(f"no GPU: {problem}")
    make_dataset(tmp_path / "in", sizes=[9, 7, 8, 1, 5])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend="gpu")
    embedded = TimmImageEmbedder("vit_tiny_patch16_224", batch_size=4)(ds)
    embedded.save_metadata(tmp_path / "alone")
    with get_client("gpu"):
        embedded.save_metadata(tmp_path / "spread")
    assert digests(tmp_path / "spread") == digests(tmp_path / "alone")


def test_too_little_memory_for_one_image_ends_the_job(ds, backend):
    ds = ImageTextPairDataset.from_webdataset(ds.path, backend=backend)
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        Insatiable()(ds).metadata.compute()
    assert devices.is_out_of_memory(caught.value)


def test_a_subclass_without_a_model_is_told_so(ds):
    with pytest.raises(ConfigError, match=r"ImageEmbedder does not define load_embedding_model"):
        ImageEmbedder("nothing")(ds).metadata.compute()


class Everything(ImageEmbedder):
    """A model that shows what its pixels were."""

    def load_embedding_model(self, device):
        return lambda pixels: pixels.flatten(1)


class Squashed(Everything):
    def preprocessing(self):
        return Preprocessing(32, "squash", 1.0, "bilinear", (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))


def test_the_model_gets_the_pixels_that_preprocessing_says(tmp_path):
    data = jpeg(5, 32, 32)
    write_tar(tmp_path / "0.tar", [("a.jpg", data)])
    ds = ImageTextPairDataset.from_webdataset(tmp_path)
    (found,) = embeddings(Squashed("x", normalize_embeddings=False)(ds))
    picture = decode_rgb(data).transpose(2, 0, 1) / 255
    expected = (picture - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape(
        [0.5, 0.25, 2.0], (3, 1, 1)
    )
    np.testing.assert_allclose(found.reshape(3, 32, 32), expected, atol=1e-5)
    (default,) = embeddings(Everything("x", normalize_embeddings=False)(ds))
    assert default.size == 3 * 224 * 224


class Reader(ThumbEmbedder):
    """Reads shards by itself: what is asked of it comes backwards, in twos, with a stranger."""

    def load_dataset_shard(self, tar_path):
        with tarfile.open(tar_path) as tar:
            found = [
                (member.name.split(".")[0], tar.extractfile(member).read())
                for member in tar
                if member.name.endswith(".jpg")
            ][::-1]
        for start in range(0, len(found), 2):
            keys = [key for key, _ in found[start : start + 2]]
            pictures = [self.pixels(data) for _, data in found[start : start + 2]]
            yield torch.stack([*pictures, torch.zeros(3, 16, 16)]), [*keys, "stranger"]

    def pixels(self, data):
        picture = torch.from_numpy(decode_rgb(data)).permute(2, 0, 1)[None].float() / 255
        return torch.nn.functional.interpolate(picture, (16, 16), mode="area")[0]


class Forgetful(Reader):
    def load_dataset_shard(self, tar_path):
        for pixels, keys in super().load_dataset_shard(tar_path):
            kept = [number for number, key in enumerate(keys) if not key.endswith("1")]
            yield pixels[kept], [keys[number] for number in kept]


class Unequal(Reader):
    def load_dataset_shard(self, tar_path):
        yield torch.zeros(3, 3, 16, 16), ["a", "b"]


class Nothing(Reader):
    def load_dataset_shard(self, tar_path):
        return []


def test_a_subclass_may_read_shards_itself(tmp_path):
    truth = make_dataset(tmp_path / "in", sizes=[5, 2])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    # Sorted, so that rows do not stand as the shard gives them.
    ds.metadata = ds.metadata.sort_values("score")
    found = rows(Reader()(ds))
    assert len(found) == 7
    for row in found:
        assert row["image_error"] is None
        expected = pillow_thumb(truth.images[row["shard"], row["key"]])
        assert np.dot(row["image_embedding"], expected) > 0.97
        others = [pillow_thumb(data) for data in truth.images.values()]
        assert np.argmax(others @ np.array(row["image_embedding"])) == next(
            number for number, key in enumerate(truth.images) if key[1] == row["key"]
        )


def test_what_an_own_reader_leaves_out_is_missing(ds):
    found = rows(Forgetful()(ds))
    assert [row["image_error"] for row in found] == [None, "missing", None, None, "missing"]
    assert [row["image_embedding"] is None for row in found] == [False, True, False, False, True]
    assert column(Nothing()(ds), "image_error") == ["missing"] * 5
    with pytest.raises(ImageError, match=r"00000.tar: sample '000000001': missing"):
        Forgetful(on_error="raise")(ds.filter("shard == '00000.tar'")).metadata.compute()


def test_an_own_reader_with_too_few_keys_is_told_so(ds):
    with pytest.raises(DatasetError, match="3 images with 2 keys"):
        Unequal()(ds.filter("shard == '00000.tar'")).metadata.compute()


def test_an_own_reader_does_not_go_with_statistics(ds):
    with pytest.raises(ConfigError, match="load_dataset_shard gives pixels only"):
        Reader(image_stages=[ImageStatistics()])(ds)


class Brightness(ImageClassifier):
    """The mean of an embedding, times a factor."""

    def __init__(self, factor: float = 1.0, **options):
        super().__init__(options.pop("pred_column", "bright"), **options)
        self.factor = factor

    def load_model(self, device):
        return lambda embeddings: self.factor * embeddings.mean(dim=1)


def test_inline_scores_are_those_of_a_later_pass(tmp_path, backend):
    make_dataset(tmp_path, sizes=[3, 1])
    write_tar(tmp_path / "bad.tar", [("x.jpg", b"bad picture"), ("y.jpg", jpeg(7))])
    ds = ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)
    inline = ThumbEmbedder(classifiers=[Brightness(), Brightness(2, pred_column="twice")])(ds)
    later = Brightness(2, pred_column="twice")(Brightness()(ThumbEmbedder()(ds)))
    for name in ("bright", "twice"):
        one, other = column(inline, name), column(later, name)
        assert [value is None for value in one] == [False] * 4 + [True, False]
        assert one == pytest.approx(other, abs=1e-6)
    assert column(inline, "twice")[0] == pytest.approx(2 * column(inline, "bright")[0])


def test_classifiers_may_not_write_one_column_twice(ds):
    with pytest.raises(ConfigError, match="two stages of one pass write the column 'bright'"):
        ThumbEmbedder(classifiers=[Brightness(), Brightness(2)])(ds)
    with pytest.raises(ConfigError, match="write the column 'image_embedding'"):
        ThumbEmbedder(classifiers=[Brightness(pred_column="image_embedding")])(ds)


class Powered(ThumbEmbedder):
    """A subclass with a parameter of its own, of which `config` knows nothing."""

    def __init__(self, power: int, **options):
        super().__init__(**options)
        self.power = power

    def load_embedding_model(self, device):
        return lambda pixels: thumb(pixels) ** self.power


def test_a_parameter_of_a_subclass_tells_models_apart(ds, tmp_path):
    one = embeddings(Powered(1)(ds).save_metadata(tmp_path / "out"))
    two = embeddings(Powered(2)(ds).save_metadata(tmp_path / "out"))
    assert (one < 0).any()
    assert (two >= 0).all()
    twice = column(ThumbEmbedder(classifiers=[Brightness(2)])(ds), "bright")
    once = column(ThumbEmbedder(classifiers=[Brightness(1)])(ds), "bright")
    assert twice == pytest.approx([2 * value for value in once])


def record(folder: Path, name: str = "00000.parquet") -> dict:
    return json.loads(pq.read_schema(folder / name).metadata[b"nemo_image_curate"])


def test_provenance_is_recorded_in_the_files(ds, tmp_path):
    made = ThumbEmbedder(classifiers=[Brightness()], image_stages=[ImageStatistics()])(ds)
    made.save_metadata(tmp_path / "out")
    for name in ("00000.parquet", "00001.parquet"):
        columns = record(tmp_path / "out", name)["columns"]
        assert columns["image_embedding"] == {
            "stage": "ThumbEmbedder",
            "model": "thumb",
            "encoder": "thumb",
            "weights_sha256": None,
            "preprocessing": json.loads(json.dumps(SMALL.to_dict())),
            "normalized": True,
            "autocast": True,
            "orientation": "stored",
            "version": __version__,
        }
        assert columns["bright"]["embedding_encoder"] == "thumb"
        assert columns["bright"]["embedding_column"] == "image_embedding"
        assert columns["sharpness"]["stage"] == "ImageStatistics"
    opened = ImageTextPairDataset.from_webdataset(tmp_path / "out")
    assert opened.provenance == made.provenance


def test_a_new_shard_is_all_that_is_computed(tmp_path):
    make_dataset(tmp_path / "in", sizes=[3, 4])
    log, out = tmp_path / "log", tmp_path / "out"

    def run():
        ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
        return LoggingEmbedder(str(log))(ds).save_metadata(out)

    run()
    assert computed(log) == 7
    before = (out / "00000.parquet").stat().st_mtime_ns
    run()
    assert computed(log) == 7
    write_tar(tmp_path / "in" / "00002.tar", [("new.jpg", jpeg(99)), ("bad.jpg", b"bad picture")])
    saved = run()
    assert computed(log) == 8
    assert (out / "00000.parquet").stat().st_mtime_ns == before
    assert saved.summary() == {"samples": 9, "errors": {"decode": 1}}


def test_a_new_shard_is_all_that_is_computed_in_place(tmp_path):
    make_dataset(tmp_path / "in", sizes=[3])
    log = tmp_path / "log"

    def run():
        ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
        return LoggingEmbedder(str(log))(ds).save_metadata()

    run()
    run()
    assert computed(log) == 3
    write_tar(tmp_path / "in" / "00001.tar", [("new.jpg", jpeg(99))])
    assert len(embeddings(run())) == 4
    assert computed(log) == 4


SAME = {
    "num_threads_per_worker": 2,
    "use_index_files": True,
}
OTHER = {
    "normalize_embeddings": False,
    "batch_size": 2,
    "autocast": False,
    "max_pixels": 1000,
    "on_error": "raise",
    "image_embedding_column": "vector",
    "classifiers": [Brightness()],
    "image_stages": [ImageStatistics()],
}


@pytest.mark.parametrize("setting", [*SAME, *OTHER])
def test_settings_that_change_values_are_part_of_the_fingerprint(ds, setting):
    plain = Lineage(ThumbEmbedder()(ds).metadata).token
    assert Lineage(ThumbEmbedder()(ds).metadata).token == plain
    changed = Lineage(ThumbEmbedder(**{setting: {**SAME, **OTHER}[setting]})(ds).metadata).token
    assert (changed == plain) == (setting in SAME)


def test_a_changed_setting_computes_again_and_an_unimportant_one_does_not(ds, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    LoggingEmbedder(str(log))(ds).save_metadata(out)
    LoggingEmbedder(str(log), num_threads_per_worker=1, use_index_files=True)(ds).save_metadata(out)
    assert computed(log) == 5
    saved = LoggingEmbedder(str(log), normalize_embeddings=False)(ds).save_metadata(out)
    assert computed(log) == 10
    assert abs(np.linalg.norm(embeddings(saved), axis=1) - 1).max() > 0.05


def test_an_interrupted_job_goes_on_where_it_was(ds, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    whole = LoggingEmbedder(str(log))(ds).save_metadata(out)
    expected = embeddings(whole)
    (out / "00001.parquet").unlink()
    (out / "_dataset.json").unlink()
    saved = LoggingEmbedder(str(log))(ds).save_metadata(out)
    assert computed(log) == 7
    assert (embeddings(saved) == expected).all()


class Weightless(ThumbEmbedder):
    def weights_sha256(self):
        raise WeightsError("there are none")


def test_weights_that_cannot_be_had_are_told_before_any_work(ds):
    with pytest.raises(WeightsError, match="there are none"):
        Weightless()(ds)


def test_the_parameters_are_kept_as_they_were_given():
    given = {"batch_size": 7, "classifiers": (), "max_pixels": 99, "on_error": "raise"}
    embedder = ThumbEmbedder(**given)
    assert {name: getattr(embedder, name) for name in given} == given


def test_unit_vectors_are_what_classifiers_see(ds, caplog):
    made = ThumbEmbedder(normalize_embeddings=False, classifiers=[Brightness()])
    with caplog.at_level(logging.WARNING):
        found = column(made(ds), "bright")
    assert "expects unit vectors; they are normalised" in caplog.text
    expected = column(ThumbEmbedder(classifiers=[Brightness()])(ds), "bright")
    assert found == pytest.approx(expected, abs=1e-7)


def test_pictures_in_memory_are_embedded_as_those_of_a_dataset():
    pictures = [jpeg(1), b"no picture", jpeg(2), *[jpeg(n) for n in range(40)]]
    found, errors = ThumbEmbedder().embed_images(pictures)
    assert errors[1].startswith("decode")
    assert np.isnan(found[1]).all()
    assert [n for n, error in enumerate(errors) if error] == [1]
    expected = np.stack([pillow_thumb(data) for data in (pictures[:1] + pictures[2:])])
    assert np.abs(np.delete(found, 1, axis=0) - expected).max() < 0.02
    assert ThumbEmbedder(normalize_embeddings=False).embed_images([])[0].shape == (0, 0)
    assert ThumbEmbedder().embed_images([b""])[0].shape == (1, 0)
    raw = ThumbEmbedder(normalize_embeddings=False).embed_images([jpeg(1)])[0]
    assert np.linalg.norm(raw) == pytest.approx(1)


def test_pictures_are_embedded_however_they_are_given(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(jpeg(1, kind="PNG"))
    url = f"data:;base64,{base64.b64encode(jpeg(1, kind='PNG')).decode()}"
    images = [path, str(path), path.read_bytes(), Image.open(path), url, None, "none.jpg", "data:,"]
    found, errors = ThumbEmbedder().embed_images(images)
    assert errors[:5] == [None] * 5
    assert np.ptp(found[:5], axis=0).max() == 0
    assert np.isnan(found[5:]).all()
    assert errors[5] == "missing"
    assert "there is no image file" in errors[6]
    assert "base64" in errors[7]
    with pytest.raises(ConfigError, match="not as ndarray"):
        ThumbEmbedder().embed_images([np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(ConfigError, match="a list of images"):
        ThumbEmbedder().embed_images(str(path))


@pytest.mark.parametrize("name", ["batch_size", "num_threads_per_worker", "max_pixels"])
@pytest.mark.parametrize("value", [0, -1])
def test_pictures_in_memory_are_not_embedded_with_unusable_settings(name, value):
    with pytest.raises(ConfigError, match=f"={value} should be a positive integer"):
        ThumbEmbedder(**{name: value}).embed_images([jpeg(1)])
