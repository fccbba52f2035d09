"""OpenCLIP's models by name and by path: embeddings are open_clip's own, images and texts."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nemo_image_curate import ClipScore, ImageTextPairDataset, OpenCLIPEmbedder, embedder_of
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.embedders.open_clip import _text_forward
from nemo_image_curate.errors import ConfigError, WeightsError
from nemo_image_curate.models.open_clip import OpenCLIPSource, import_open_clip
from tests.embedders.open_clip_folders import CLIP, clip_folder, save, siglip_folder
from tests.make_data import jpeg, write_tar
from tests.make_embedders import column, embeddings

__all__ = ["clip_folder", "siglip_folder"]

TEXTS = ["a photo of the red dog", "two women and a child on the beach", "green ball"]
PICTURES = [jpeg(n, 300, 200) for n in range(4)]


@pytest.fixture(params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_folder")


def own_encode(folder: str, mirror: bool = False) -> tuple[np.ndarray, np.ndarray, torch.nn.Module]:
    """What open_clip itself makes of the pictures and texts."""
    open_clip = import_open_clip()
    model, _, transform = open_clip.create_model_and_transforms(folder)
    tokenize = open_clip.get_tokenizer(folder)
    pixels = [transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in PICTURES]
    with torch.inference_mode():
        batch = torch.stack(pixels)
        images = model.eval().encode_image(batch.flip(3) if mirror else batch, normalize=True)
        texts = model.encode_text(tokenize(TEXTS), normalize=True)
    return images.numpy(), texts.numpy(), model


def dataset(tmp_path, backend="auto", captions=TEXTS):
    members = []
    for n, data in enumerate(PICTURES):
        members.append((f"{n}.jpg", data))
        if n < len(captions):
            members.append((f"{n}.txt", captions[n].encode()))
    write_tar(tmp_path / "0.tar", members)
    return ImageTextPairDataset.from_webdataset(tmp_path, backend=backend)


def test_images_and_texts_are_those_of_open_clip(folder):
    images, texts, model = own_encode(folder)
    embedder = OpenCLIPEmbedder(folder)
    found, errors = embedder.embed_images(PICTURES)
    assert errors == [None] * 4
    # Pictures and texts differ among themselves by more than the tolerance.
    assert (images @ images.T)[0, 1:].max() < 0.99
    assert (texts @ texts.T)[0, 1:].max() < 0.99
    assert (1 - (found * images).sum(1)).max() < 1e-3
    assert (1 - (embedder.embed_text(TEXTS) * texts).sum(1)).max() < 1e-3
    assert embedder.logit_scale() == pytest.approx(model.logit_scale.exp().item())
    bias = None if model.logit_bias is None else model.logit_bias.item()
    assert embedder.logit_bias() == bias


def test_a_dataset_gets_both_columns(folder, tmp_path, backend):
    images, texts, _ = own_encode(folder)
    mirrored, _, _ = own_encode(folder, mirror=True)
    embedder = OpenCLIPEmbedder(folder, flip=True)
    ds = ClipScore(flip=True)(embedder(dataset(tmp_path, backend)))
    saved = ds.save_metadata(tmp_path / "out")
    assert (1 - (embeddings(saved) * images).sum(1)).max() < 1e-3
    assert (1 - (embeddings(saved, "text_embedding") * texts).sum(1)).max() < 1e-3
    scores = column(saved, "clip_score")
    assert scores[:3] == pytest.approx((images[:3] * texts).sum(1), abs=2e-2)
    assert scores[3] is None
    assert (1 - (embeddings(saved, "image_embedding_flipped") * mirrored).sum(1)).max() < 1e-3
    flipped = column(saved, "clip_score_flipped")
    assert flipped[:3] == pytest.approx((mirrored[:3] * texts).sum(1), abs=2e-2)
    for name in ("image_embedding", "text_embedding"):
        assert saved.provenance[name]["encoder"] == embedder.encoder()
        assert saved.provenance[name]["weights_sha256"] == embedder.weights_sha256()


def test_the_preprocessing_is_the_models(clip_folder, siglip_folder):
    assert OpenCLIPEmbedder(clip_folder).preprocessing().resize_mode == "shortest"
    siglip = OpenCLIPEmbedder(siglip_folder).preprocessing()
    assert (siglip.resize_mode, siglip.size, siglip.mean) == ("squash", 160, (0.5, 0.5, 0.5))
    named = OpenCLIPEmbedder("ViT-SO400M-14-SigLIP-384", "webli").preprocessing()
    assert (named.resize_mode, named.size, named.std) == ("squash", 384, (0.5, 0.5, 0.5))


def test_weights_of_an_architecture_from_a_file(clip_folder, tmp_path):
    """The path that a hub's weights take after the download: a name, and a file."""
    open_clip = import_open_clip()
    (tmp_path / "tiny-architecture.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(tmp_path / "tiny-architecture.json")
    file = clip_folder.removeprefix("local-dir:") + "/open_clip_model.safetensors"
    embedder = OpenCLIPEmbedder("tiny-architecture", checkpoint_path=file)
    images, texts, _ = own_encode(clip_folder)
    assert (1 - (embedder.embed_images(PICTURES)[0] * images).sum(1)).max() < 1e-3
    assert (1 - (embedder.embed_text(TEXTS) * texts).sum(1)).max() < 1e-3
    assert embedder.encoder().startswith("open_clip/tiny-architecture:sha256:")
    torch.save(dict(list(load_file(file).items())[:-1]), tmp_path / "cut.pt")
    with pytest.raises(WeightsError, match="does not fit tiny-architecture"):
        OpenCLIPEmbedder("tiny-architecture", checkpoint_path=str(tmp_path / "cut.pt")).embed_text(
            ["a dog"]
        )
    # Random weights are the same each time, and another encoder than any file's.
    random = OpenCLIPEmbedder("tiny-architecture")
    again = OpenCLIPEmbedder("tiny-architecture", batch_size=3)
    assert np.array_equal(random.embed_text(TEXTS), again.embed_text(TEXTS))
    assert random.encoder() == "tiny-architecture:random"


def test_the_recorded_embedder_is_built_again(clip_folder, tmp_path):
    embedder = OpenCLIPEmbedder(clip_folder)
    ds = embedder(dataset(tmp_path))
    again = embedder_of(ds.provenance["image_embedding"])
    assert np.array_equal(again.embed_text(TEXTS), embedder.embed_text(TEXTS))
    assert Lineage(again(dataset(tmp_path)).metadata).token == Lineage(ds.metadata).token


def test_texts_that_cannot_be_embedded(clip_folder, siglip_folder):
    clip, siglip = OpenCLIPEmbedder(clip_folder), OpenCLIPEmbedder(siglip_folder)
    for text in ("", "  \n"):
        with pytest.raises(ConfigError, match="is empty"):
            clip.embed_text(["a dog", text])
    with pytest.raises(ConfigError, match="longer than the 77 tokens"):
        clip.embed_text(["dog " * 76])
    assert clip.embed_text(["dog " * 75]).shape == (1, 32)
    assert clip.embed_text(["dog " * 500], truncate=True).shape == (1, 32)
    with pytest.raises(ConfigError, match="longer than the 64 tokens"):
        siglip.embed_text(["dog " * 64])
    assert siglip.embed_text(["dog " * 63]).shape == (1, 96)
    # CLIP's tokens are bytes: any alphabet passes. SigLIP drops punctuation.
    assert np.isfinite(clip.embed_text(["собака на пляже", "海辺の犬", "🐕"])).all()
    with pytest.raises(ConfigError, match="none of its characters"):
        siglip.embed_text(["?!"])
    with pytest.raises(ConfigError, match="a list of texts"):
        clip.embed_text("a dog")


class Recording:
    """A tokenizer that keeps what it is given."""

    def __init__(self, tokenize):
        self.tokenize = tokenize
        self.texts = list[str]()

    def __getattr__(self, name):
        return getattr(self.tokenize, name)

    def __call__(self, texts, **options):
        self.texts += texts
        return self.tokenize(texts, **options)


def test_texts_that_are_surely_short_are_tokenized_once(folder, monkeypatch):
    recording = Recording(OpenCLIPSource(folder).tokenizer())
    monkeypatch.setattr(OpenCLIPSource, "tokenizer", lambda source: recording)
    # The second may be too long once it is cleaned, and the third as it is.
    texts = ["a photo of the red dog", "женщина", "dog " * 30]
    # Not normalised, so that it is no tower of another test.
    OpenCLIPEmbedder(folder, normalize_embeddings=False).embed_text(texts)
    assert [recording.texts.count(text) for text in texts] == [1, 2, 2]


def test_rows_of_the_mask_are_aligned(clip_folder):
    model, tokenize = OpenCLIPSource(clip_folder).build(), OpenCLIPSource(clip_folder).tokenizer()
    masks = list[torch.Tensor]()

    def keep(module, args, options):
        masks.append(options["attn_mask"])

    model.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.inference_mode():
        _text_forward(model)(tokenize(TEXTS))
        model.encode_text(tokenize(TEXTS))
    own, whole = masks
    n = len(own)
    assert n < 77
    assert own.stride(0) % 8 == 0
    assert torch.equal(own, whole[:n, :n])


def test_captions_that_cannot_be_embedded_are_null(siglip_folder, tmp_path):
    texts = ["?!", "dog " * 500, " "]
    ds = OpenCLIPEmbedder(siglip_folder)(dataset(tmp_path, captions=texts))
    found = column(ds, "text_embedding")
    assert [one is None for one in found] == [True, False, True, True]
    assert len(column(ds, "image_embedding")[0]) == 96


def test_names_and_files_that_do_not_exist(clip_folder, tmp_path):
    def refused(match, kind, *names, **options):
        with pytest.raises(kind, match=match):
            OpenCLIPEmbedder(*names, **options).encoder()

    refused("Did you mean 'ViT-B-32'", ConfigError, "ViT-B-322")
    refused("it has: .*laion2b_s34b_b79k", ConfigError, "ViT-B-32", "mine")
    refused("not both", ConfigError, "ViT-B-32", "openai", checkpoint_path=__file__)
    refused("brings its weights", ConfigError, clip_folder, "openai")
    refused("is not a file", WeightsError, "ViT-B-32", checkpoint_path="missing.pt")
    refused("holds 0 .safetensors files", WeightsError, f"local-dir:{tmp_path}")
    refused("is none that", ConfigError, "ViT-B-32", checkpoint_encoder="openai/clip")
    (tmp_path / "model.safetensors").touch()
    refused("open_clip_config.json is not a file", WeightsError, f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{}")
    refused("is no configuration", WeightsError, f"local-dir:{tmp_path}")


def test_the_hub_is_asked_and_its_silence_told(monkeypatch):
    """The same code with a name; here the hub is out of reach (HF_HUB_OFFLINE)."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for embedder in (
        OpenCLIPEmbedder("ViT-B-32", "laion2b_s34b_b79k"),
        OpenCLIPEmbedder("hf-hub:laion/CLIP-that-is-not-cached"),
    ):
        with pytest.raises(WeightsError, match="cannot fetch"):
            embedder.embed_text(["a dog"])


def test_another_configuration_gives_another_fingerprint(clip_folder, tmp_path):
    other = save(tmp_path / "tiny-clip", CLIP | {"quick_gelu": False})
    one, two = OpenCLIPEmbedder(clip_folder), OpenCLIPEmbedder(other)
    # The same weights, but another activation.
    assert one.weights_sha256() == two.weights_sha256()
    assert one.encoder() != two.encoder()
    ds = dataset(tmp_path / "data")
    assert Lineage(one(ds).metadata).token != Lineage(two(ds).metadata).token
