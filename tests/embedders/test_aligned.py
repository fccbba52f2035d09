"""Encoders aligned by a dataset's captions: learned, saved, found again, and fallen back from."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from nemo_image_curate import (
    AlignedEmbedder,
    ClipScore,
    ConseEmbedder,
    ImageTextPairDataset,
    OpenCLIPEmbedder,
    Searcher,
    build_index,
    embedder_of,
)
from nemo_image_curate.embedders import TextImageEmbedder, TextTower, aligned_file
from nemo_image_curate.embedders.align import count_learned_from
from nemo_image_curate.embedders.offline_features import OfflineFeatures
from nemo_image_curate.embedders.registry import named_embedder
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, DatasetError, WeightsError
from nemo_image_curate.models import weights
from nemo_image_curate.recipe.provenance import steps_of
from nemo_image_curate.recipe.steps import Step
from tests.embedders.open_clip_folders import WORDS, clip_folder
from tests.make_data import digests, jpeg, write_sidecar, write_tar
from tests.make_embedders import ThumbEmbedder, column

__all__ = ["clip_folder"]

COLOURS = {"red": (230, 20, 30), "green": (20, 200, 40), "blue": (20, 30, 220)}
PLACES = {"grass": 0, "water": 1, "snow": 2, "street": 3}
KINDS = [(colour, place) for colour in COLOURS for place in PLACES]


def picture(number: int) -> bytes:
    """A patch of one of three colours in one of four corners, on noise."""
    colour, place = KINDS[number % len(KINDS)]
    noise = np.random.default_rng(number).integers(90, 160, (32, 32, 3), dtype=np.uint8)
    top, left = divmod(PLACES[place], 2)
    noise[16 * top : 16 * top + 16, 16 * left : 16 * left + 16] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def texts(number: int) -> list[str]:
    colour, place = KINDS[number % len(KINDS)]
    return [f"a {colour} dog on {place}", f"{place} and a {colour} ball"]


def write(folder, numbers, **columns):
    """Two shards with one caption, or several, for each picture."""
    numbers = list(numbers)
    for shard, some in enumerate(filter(None, (numbers[::2], numbers[1::2]))):
        write_tar(folder / f"{shard}.tar", [(f"{n:04d}.png", picture(n)) for n in some])
        given = {name: [value(n) for n in some] for name, value in columns.items()}
        write_sidecar(folder / f"{shard}.parquet", {"key": [f"{n:04d}" for n in some], **given})
    return ImageTextPairDataset.from_webdataset(folder)


class Words(TextImageEmbedder):
    """Embeds texts as the words in them."""

    def __init__(self, **options):
        super().__init__("words", **options)

    def load_text_model(self, device):
        words = {word: n for n, word in enumerate(WORDS)}

        def encode(texts):
            vectors = torch.zeros(len(texts), len(words))
            for row, text in enumerate(texts):
                vectors[row, [words[word] for word in text.split() if word in words]] = 1
            return vectors

        return TextTower(encode, lambda text: None, lambda text: bool(encode([text]).any()), 20.0)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A weights' home of the test's own, with what others were made before."""
    before = weights.home()
    monkeypatch.setenv("NEMO_IMAGE_CURATE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for path in before.glob("imagenet-classes-*.safetensors"):
        (tmp_path / "home" / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Learned of colours and places, by thumbnails and words."""
    folder = tmp_path_factory.mktemp("fitted")
    ds = write(folder / "in", range(96), caption=lambda n: texts(n)[0], captions=texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEMO_IMAGE_CURATE_HOME", str(folder / "home"))
        return AlignedEmbedder.fit(ds, folder / "model", ThumbEmbedder(), Words())


def test_pictures_are_found_that_were_not_learned_from(fitted):
    facts = fitted.summary()
    assert facts["kind"] == "trained"
    assert facts["rows"] == {"used": 96}
    assert (facts["pictures"], facts["captions"]) == (96, 192)
    assert facts["held_out"]["pictures"] == 10
    images, _ = fitted.embed_images([picture(n) for n in range(200, 200 + len(KINDS))])
    words = fitted.embed_text([texts(n)[0] for n in range(200, 200 + len(KINDS))])
    assert np.linalg.norm(words, axis=1) == pytest.approx(1, abs=1e-5)
    nearest = (words @ images.T).argmax(1)
    assert (nearest == np.arange(len(KINDS))).mean() > 0.7


def test_copies_among_the_pictures_are_warned_of(caplog):
    captions = [f"caption {n}" for n in range(20)] + [f"caption {n}" for n in range(3, 43)]
    is_held_out = np.arange(60) < 20
    assert count_learned_from(captions, is_held_out) == 17
    assert "17 of 20 captions that are held out are those of pictures" in caplog.text
    caplog.clear()
    assert count_learned_from(["a", *map(str, range(40)), "a"], is_held_out[:42]) == 1
    assert not caplog.text


def test_one_file_holds_it_and_is_the_same_each_time(fitted, tmp_path):
    ds = write(tmp_path / "in", range(96), caption=lambda n: texts(n)[0], captions=texts)
    AlignedEmbedder.fit(ds, tmp_path / "model", ThumbEmbedder(), Words())
    assert digests(tmp_path / "model") == digests(Path(fitted.model_name))
    assert fitted.summary()["weights_sha256"] == fitted.weights_sha256()


def test_a_dataset_of_its_vectors_is_searched_by_what_it_records(tmp_path, clip_folder):
    ds = write(tmp_path / "in", range(48), caption=lambda n: texts(n)[0])
    AlignedEmbedder.fit(ds, tmp_path / "model", OpenCLIPEmbedder(clip_folder))
    embedder = named_embedder(f"aligned:{tmp_path / 'model'}", batch_size=8)
    embedded = ClipScore()(embedder(ds)).save_metadata(tmp_path / "out")
    assert all(value is not None for value in column(embedded, "clip_score"))
    build_index(embedded)
    record = embedded.provenance["image_embedding"]
    assert record["weights_sha256"] == embedder.weights_sha256()
    # It registered itself; the folder may go.
    sha256 = embedder.weights_sha256()
    (tmp_path / "model").rename(tmp_path / "moved")
    hits = Searcher.open(ImageTextPairDataset.from_webdataset(tmp_path / "out")).search("red dog")
    assert len(hits) == 10
    assert steps_of(list(embedded.metadata.columns), embedded.provenance)[0] == [
        Step("AlignedEmbedder", {"model_name": f"sha256:{sha256}"}),
        Step("ClipScore", {}),
    ]
    (tmp_path / "home" / "aligned" / f"{sha256}.safetensors").unlink()
    with pytest.raises(WeightsError, match=f"{sha256} is not kept in .*--checkpoint"):
        embedder_of(record)
    for path in ("moved", "moved/aligned.safetensors"):
        assert embedder_of(record, str(tmp_path / path)).weights_sha256() == sha256


def test_vectors_that_are_there_are_taken_and_nothing_is_decoded(tmp_path, clip_folder):
    encoder = OpenCLIPEmbedder(clip_folder)
    ds = encoder(write(tmp_path / "in", range(40), caption=lambda n: texts(n)[0]))
    saved = ds.save_metadata(tmp_path / "out")
    for path in (tmp_path / "in").glob("*.tar"):
        path.write_bytes(path.read_bytes().replace(b"PNG", b"GNP"))
    facts = AlignedEmbedder.fit(saved, tmp_path / "model", encoder).summary()
    assert facts["rows"] == {"used": 40}


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
def test_contrastive_losses(tmp_path, loss):
    ds = write(tmp_path / "in", range(48), caption=lambda n: texts(n)[0])
    options = {"loss": loss, "samples_seen": 5000, "text_encoder": Words()}
    facts = AlignedEmbedder.fit(ds, tmp_path / "model", ThumbEmbedder(), **options).summary()
    assert facts["samples_seen"] == 5000
    assert facts["held_out"]["learned"]["R@1"] > 0.5


def test_rows_that_cannot_be_used_are_counted(tmp_path, clip_folder):
    def caption(n):
        return {0: None, 1: " ", 2: "!!! ..."}.get(n, texts(n)[0])

    ds = write(tmp_path / "in", range(60), caption=caption)
    broken = picture(4)
    path = tmp_path / "in" / "0.tar"
    path.write_bytes(path.read_bytes().replace(broken[:64], b"x" * 64))
    facts = AlignedEmbedder.fit(ds, tmp_path / "m", OpenCLIPEmbedder(clip_folder)).summary()
    rows = facts["rows"]
    assert rows["without caption"] == 2
    assert rows["image: decode"] == 1
    assert sum(rows.values()) == 60
    few = AlignedEmbedder.fit(
        ds, tmp_path / "m", OpenCLIPEmbedder(clip_folder), max_pictures=30
    ).summary()
    assert 15 < few["rows"]["used"] < 45
    assert sum(few["rows"].values()) == 60


def test_rows_of_one_picture_are_one_picture(tmp_path, clip_folder):
    members = [(f"{n:03d}_{m}.png", picture(n)) for n in range(30) for m in range(3)]
    keys = [name.removesuffix(".png") for name, _ in members]
    captions = [f"{texts(n)[0]} {word}" for n in range(30) for word in ("red", "two", "big")]
    write_tar(tmp_path / "in" / "0.tar", members)
    write_sidecar(tmp_path / "in" / "0.parquet", {"key": keys, "caption": captions})
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in")
    facts = AlignedEmbedder.fit(ds, tmp_path / "model", OpenCLIPEmbedder(clip_folder)).summary()
    assert facts["rows"] == {"used": 90}
    assert facts["pictures"] == 30


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_pairs(tmp_path, clip_folder, count, caplog):
    ds = write(tmp_path / "in", range(count), caption=lambda n: texts(n)[0])
    encoder = OpenCLIPEmbedder(clip_folder)
    embedder = AlignedEmbedder.fit(ds, tmp_path / "model", encoder)
    assert embedder.summary()["kind"] == "base"
    assert "pictures are too few" in caplog.text
    words = ["a red dog", "snow"]
    assert np.allclose(embedder.embed_text(words), encoder.embed_text(words), atol=1e-6)
    own, again = (one.embed_images([picture(1)])[0] for one in (encoder, embedder))
    assert np.allclose(own, again, atol=1e-6)
    assert embedder.logit_scale() == pytest.approx(encoder.logit_scale(), rel=1e-5)
    with pytest.raises(DatasetError, match=f"{count} captions of {count} pictures are too few; 20"):
        AlignedEmbedder.fit(ds, tmp_path / "other", ThumbEmbedder(), encoder)


def test_captions_that_tell_nothing(tmp_path, clip_folder, caplog):
    ds = write(tmp_path / "in", range(40), caption=lambda n: "a photo")
    embedder = AlignedEmbedder.fit(ds, tmp_path / "model", OpenCLIPEmbedder(clip_folder))
    assert embedder.summary()["kind"] == "base"
    assert "all captions are the same" in caplog.text


def test_what_cannot_be_learned_from(tmp_path, clip_folder):
    encoder = OpenCLIPEmbedder(clip_folder)
    ds = write(tmp_path / "in", range(4), width=lambda n: n, empty=lambda n: None)
    for options, problem in (
        ({}, "no column 'caption'.*--caption-column"),
        ({"caption_column": "width"}, "'width' holds int64, no texts"),
        ({"caption_column": "empty"}, "none of 4 rows has a caption"),
        ({"loss": "cosine"}, "loss='cosine' should be one of correlation, infonce, siglip"),
        ({"max_pictures": 3}, "max_pictures=3 should be 20 or more"),
        ({"seed": -1}, "seed=-1 should be 0 or more"),
    ):
        with pytest.raises((ColumnNotFoundError, ConfigError, DatasetError), match=problem):
            AlignedEmbedder.fit(ds, tmp_path / "model", encoder, **options)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError, match="is no model: it would be written over"):
        AlignedEmbedder.fit(ds, tmp_path / "taken", encoder)
    with pytest.raises(ConfigError, match=r"thesis\.txt is no folder"):
        AlignedEmbedder.fit(ds, tmp_path / "taken" / "thesis.txt" / "model", encoder)


def test_what_is_no_model(tmp_path, clip_folder):
    with pytest.raises(WeightsError, match=r"holds no aligned.safetensors"):
        AlignedEmbedder(str(tmp_path)).encoder()
    weights_file = clip_folder.removeprefix("local-dir:") + "/open_clip_model.safetensors"
    with pytest.raises(WeightsError, match="holds other weights, not an aligned model"):
        AlignedEmbedder(weights_file).encoder()
    (tmp_path / "aligned.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="is no safetensors file"):
        AlignedEmbedder(str(tmp_path)).encoder()
    for header, problem in (("[" * 100_000, "nested too deep"), ("[1]", "holds other weights")):
        save_file({}, tmp_path / "aligned.safetensors", {"nemo_image_curate": header})
        with pytest.raises(WeightsError, match=problem):
            AlignedEmbedder(str(tmp_path)).encoder()


def test_a_header_that_was_edited(fitted, tmp_path):
    with safe_open(aligned_file.model_file(fitted.model_name), "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["nemo_image_curate"])
    for changes, lacks in (
        ({"image_encoder": {"encoder": "x", "weights_sha256": "y"}}, "'normalized'"),
        ({"text_encoder": {}}, "'encoder'"),
        ({"words": None}, "NoneType"),
    ):
        metadata = {"nemo_image_curate": json.dumps(header | changes)}
        save_file(tensors, tmp_path / "aligned.safetensors", metadata)
        with pytest.raises(WeightsError, match=f"is damaged: its header lacks .*{lacks}"):
            AlignedEmbedder(str(tmp_path)).encoder()


def test_a_copy_that_is_damaged_is_told_and_made_again(fitted, tmp_path):
    aligned_file.remember(fitted.model_name)
    kept = aligned_file.model_file(aligned_file.name_by_hash(fitted.model_name))
    kept.write_bytes(kept.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="is damaged: what is kept there has another hash"):
        AlignedEmbedder(f"sha256:{kept.stem}").encoder()
    aligned_file.remember(fitted.model_name)
    assert AlignedEmbedder(f"sha256:{kept.stem}").encoder() == fitted.encoder()


def test_a_record_is_of_its_model_or_is_none(fitted, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(fitted.model_name, folder)
    embedder, recipe = AlignedEmbedder(str(folder)), folder / "recipe.json"
    assert embedder.summary() == fitted.summary()
    recipe.write_text(json.dumps(fitted.summary() | {"weights_sha256": "0" * 64}))
    assert embedder.summary() == {}
    for content in ("{", "[" * 100_000):
        recipe.write_text(content)
        with pytest.raises(DatasetError, match="is no record of a model"):
            embedder.summary()


def test_encoders_that_it_was_not_learned_with(fitted):
    with pytest.raises(ConfigError, match=r"image_encoder= .*made by 'ThumbEmbedder'"):
        AlignedEmbedder(fitted.model_name).embed_images([picture(1)])
    with pytest.raises(ConfigError, match=r"image_encoder= is 'offline/conse', but .* on 'thumb'"):
        AlignedEmbedder(fitted.model_name, image_encoder=ConseEmbedder()).embed_images([jpeg(1)])


def test_offline_features():
    """Of EfficientNet-Lite0, ConSE's vector, and of the network's stages."""
    pictures = [jpeg(n, 224, 224) for n in range(2)]
    features, errors = OfflineFeatures().embed_images(pictures)
    assert errors == [None, None]
    # The same in units of one of its parts.
    features /= np.linalg.norm(features[:, :1280], axis=1, keepdims=True)
    own = features[:, OfflineFeatures.conse_values]
    assert np.linalg.norm(own, axis=1) == pytest.approx(1, abs=1e-4)
    assert features.shape[1] == 1280 + 384 + 2 * 784
    assert (features[:, 1664:] != 0).all()
    # Of the same picture, seen smaller.
    assert ((own * ConseEmbedder().embed_images(pictures)[0]).sum(1) > 0.9).all()
