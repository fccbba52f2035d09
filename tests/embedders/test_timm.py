"""timm's models: which weights they get, what is refused, and that embeddings are timm's own."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from nemo_image_curate import (
    AestheticClassifier,
    ImageTextPairDataset,
    NsfwClassifier,
    TimmImageEmbedder,
)
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.errors import ConfigError, EncoderMismatchError, WeightsError
from nemo_image_curate.models.offline import offline_path, offline_state_dict
from nemo_image_curate.models.torchvision_compat import import_timm
from tests.make_data import jpeg, make_dataset, write_tar
from tests.make_embedders import column, embeddings
from tests.shared import SHARED, needs_shared

# timm's smallest: a transformer and two convolutional networks, 160 x 160.
VIT, CONV, RESNET = "test_vit", "test_efficientnet", "test_resnet"
CLIP_L = "vit_large_patch14_clip_quickgelu_224.openai"
CLIP_B = "vit_base_patch32_clip_quickgelu_224.openai"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    members = [("a.jpg", jpeg(1, 320, 240)), ("b.jpg", jpeg(2, 200, 300))]
    write_tar(folder / "0.tar", members)
    return folder


@pytest.fixture
def ds(two):
    return ImageTextPairDataset.from_webdataset(two)


def plain_embeddings(model: torch.nn.Module, pictures: list[bytes], **data) -> np.ndarray:
    """What a user of timm and Pillow gets, one image at a time, in float32."""
    timm = import_timm()
    from PIL import Image

    transform = timm.data.create_transform(
        **(timm.data.resolve_data_config(model=model) | data), is_training=False
    )
    found = []
    with torch.inference_mode():
        for data_of in pictures:
            pixels = transform(Image.open(io.BytesIO(data_of)).convert("RGB"))
            found.append(torch.nn.functional.normalize(model.eval()(pixels[None]))[0].numpy())
    return np.stack(found)


def photographs() -> list[bytes]:
    """The files of photographs that scikit-image and scikit-learn carry, as they are."""
    skimage, sklearn = pytest.importorskip("skimage"), pytest.importorskip("sklearn")
    data = Path(skimage.__file__).parent / "data"
    images = Path(sklearn.__file__).parent / "datasets" / "images"
    files = [
        *sorted(data.glob("*.jpg")),
        *sorted(data.glob("*.png")),
        *sorted(images.glob("*.jpg")),
    ]
    names = "astronaut chelsea coffee retina rocket hubble ihc china flower motorcycle_left"
    return [file.read_bytes() for file in files if file.stem.startswith(tuple(names.split()))]


def test_offline_embeddings_are_those_of_timm_and_pillow(tmp_path):
    pictures = photographs()
    assert len(pictures) >= 5
    write_tar(tmp_path / "0.tar", [(f"{n:02d}.jpg", data) for n, data in enumerate(pictures)])
    found = embeddings(TimmImageEmbedder("offline")(ImageTextPairDataset.from_webdataset(tmp_path)))
    assert found.shape == (len(pictures), 1280)
    model = import_timm().create_model("tf_efficientnet_lite0")
    model.load_state_dict(offline_state_dict())
    model.reset_classifier(0)
    expected = plain_embeddings(model, pictures, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (found * expected).sum(1).min() >= 0.998


@needs_shared
def test_offline_embeddings_on_photographs_of_many_kinds(tmp_path):
    files = sorted((SHARED / "data" / "imagenet").glob("*.JPEG"))[:300:15]
    files = files or sorted((SHARED / "data" / "imagenet").iterdir())[:300:15]
    pictures = [file.read_bytes() for file in files]
    write_tar(tmp_path / "0.tar", [(f"{n:02d}.jpg", data) for n, data in enumerate(pictures)])
    found = embeddings(TimmImageEmbedder("offline")(ImageTextPairDataset.from_webdataset(tmp_path)))
    model = import_timm().create_model("tf_efficientnet_lite0")
    model.load_state_dict(offline_state_dict())
    model.reset_classifier(0)
    expected = plain_embeddings(model, pictures, mean=(0.5,) * 3, std=(0.5,) * 3)
    cosines = (found * expected).sum(1)
    assert cosines.min() >= 0.998
    assert cosines.mean() >= 0.9995


@pytest.mark.parametrize("name", [VIT, CONV])
def test_embeddings_are_those_of_timm(ds, name):
    embedder = TimmImageEmbedder(name, autocast=False)
    pictures = [jpeg(1, 320, 240), jpeg(2, 200, 300)]
    expected = plain_embeddings(embedder.build_model(), pictures)
    found = embeddings(embedder(ds))
    assert expected.shape[1] == import_timm().create_model(name).num_features, "no classes"
    assert (found * expected).sum(1).min() >= 0.998
    fast = embeddings(TimmImageEmbedder(name)(ds))
    assert (found * fast).sum(1).min() >= 0.9995


def test_random_weights_are_the_same_each_time():
    one, two = (TimmImageEmbedder(VIT).build_model().state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    before = torch.random.get_rng_state()
    TimmImageEmbedder(VIT).build_model()
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's numbers are his own"


def published_heads(encoder: str, version: str, nsfw: str, aesthetic: str) -> list:
    """LAION's heads for an encoder, where their files are at hand."""
    if not SHARED.is_dir():
        return []
    options = {"trained_on": encoder, "check_encoder": False}
    weights = SHARED / "weights"
    return [
        AestheticClassifier(model_path=str(weights / aesthetic), version=version, **options),
        NsfwClassifier(model_path=str(weights / nsfw), **options),
    ]


CLIP = {
    CLIP_B: (
        512,
        "openai/clip-vit-base-patch32",
        "v1",
        "clip_autokeras_nsfw_b32.zip",
        "sa_0_4_vit_b_32_linear.pth",
    ),
    CLIP_L: (
        768,
        "openai/clip-vit-large-patch14",
        "v2",
        "clip_autokeras_binary_nsfw.zip",
        "sac+logos+ava1-l14-linearMSE.pth",
    ),
}


@pytest.mark.parametrize("name", list(CLIP))
def test_clip_embeddings_are_those_after_the_projection_and_heads_run_on_them(ds, tmp_path, name):
    width, *head = CLIP[name]
    heads = published_heads(*head)
    # The architecture is OpenAI's, the weights are random.
    saved = TimmImageEmbedder(name, classifiers=heads)(ds).save_metadata(tmp_path)
    found = pa.array(saved.metadata.compute()["image_embedding"], from_pandas=True)
    assert found.type == pa.list_(pa.field("item", pa.float32()))
    assert [len(value) for value in found.to_pylist()] == [width, width]
    provenance = saved.provenance["image_embedding"]
    assert provenance["encoder"] == f"{name.partition('.')[0]}:random"
    later = saved.select(["image_embedding"])
    for one in heads:
        scores = column(saved, one.pred_column)
        assert scores == pytest.approx(column(one(later), one.pred_column), abs=1e-4)
        assert all(np.isfinite(scores))
        if one.kind == "nsfw":
            assert all(0 <= value <= 1 for value in scores)
        one.check_encoder = True
        with pytest.raises(EncoderMismatchError, match=f"{name.partition('.')[0]}:random"):
            one(later)


def test_heads_of_other_encoders_are_refused_before_any_work(ds):
    for name in (VIT, CLIP_L, "offline"):
        with pytest.raises(EncoderMismatchError, match="openai/clip-vit-large-patch14"):
            TimmImageEmbedder(name, classifiers=[AestheticClassifier()])(ds)


@pytest.mark.parametrize("name", [CLIP_L, CLIP_B])
def test_openai_weights_need_quickgelu(ds, name):
    with pytest.raises(ConfigError) as caught:
        TimmImageEmbedder(name.replace("_quickgelu", ""), pretrained=True)(ds)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", [VIT, RESNET])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "without a head", "with another head"])
def test_a_checkpoint_gives_the_embeddings_of_its_model(ds, tmp_path, name, kind):
    torch.manual_seed(5)
    classes = {"without a head": 0, "with another head": 7}.get(kind, 1000)
    model = import_timm().create_model(name, num_classes=classes).eval()
    state = model.state_dict()
    path = tmp_path / ("weights.pth" if kind == "pth" else "weights.safetensors")
    torch.save(state, path) if kind == "pth" else save_file(state, path)
    embedder = TimmImageEmbedder(name, checkpoint_path=str(path), autocast=False)
    model.reset_classifier(0)
    expected = plain_embeddings(model, [jpeg(1, 320, 240), jpeg(2, 200, 300)])
    found = embeddings(embedder(ds))
    assert (found * expected).sum(1).min() >= 0.998
    built = embedder.build_model().state_dict()
    assert all(torch.equal(built[key], tensor) for key, tensor in model.state_dict().items())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    provenance = embedder(ds).provenance["image_embedding"]
    assert provenance["weights_sha256"] == digest
    assert provenance["encoder"] == f"{name}:sha256:{digest[:16]}"


def test_a_clip_checkpoint_keeps_its_projection(ds, tmp_path):
    # The smallest with OpenAI's layout.
    model = TimmImageEmbedder(CLIP_B).build_model()
    with torch.no_grad():
        model.head.weight.mul_(2)
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    path = str(tmp_path / "clip.safetensors")
    built = TimmImageEmbedder(CLIP_B, checkpoint_path=path).build_model()
    assert torch.equal(built.head.weight, model.head.weight)


def damaged(state: dict, how: str) -> dict:
    if how == "a layer is missing":
        return {key: value for key, value in state.items() if "blocks.1." not in key}
    if how == "one bias is missing":
        return {key: value for key, value in state.items() if key != "blocks.0.attn.qkv.bias"}
    if how == "a shape is wrong":
        return state | {"norm.weight": torch.ones(7)}
    if how == "other names":
        return {f"encoder.layer.{key}": value for key, value in state.items()}
    return import_timm().create_model(CONV).state_dict()


@pytest.mark.parametrize(
    "how",
    [
        "a layer is missing",
        "one bias is missing",
        "a shape is wrong",
        "other names",
        "another architecture",
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, how):
    path = tmp_path / "weights.safetensors"
    save_file(damaged(import_timm().create_model(VIT).state_dict(), how), path)
    with pytest.raises(WeightsError) as caught:
        TimmImageEmbedder(VIT, checkpoint_path=str(path)).build_model()
    assert f"{path} does not fit {VIT}" in str(caught.value)


def test_files_that_are_no_weights(ds, tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(WeightsError, match="is not a file"):
        TimmImageEmbedder(VIT, checkpoint_path=str(path))(ds)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        TimmImageEmbedder(VIT, checkpoint_path=str(path)).build_model()


class Payload:
    def __reduce__(self):
        return (os.mkdir, (os.environ["PAYLOAD"],))


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "harm"))
    torch.save({"norm.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError):
        TimmImageEmbedder(VIT, checkpoint_path=str(tmp_path / "evil.pth")).build_model()
    assert not (tmp_path / "harm").exists()


def test_contradicting_arguments(ds, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    path = str(tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="not both"):
        TimmImageEmbedder(VIT, pretrained=True, checkpoint_path=path)(ds)
    for options in ({"pretrained": True}, {"checkpoint_path": path}):
        with pytest.raises(ConfigError, match="brings its own weights"):
            TimmImageEmbedder("offline", **options)(ds)


def test_unknown_names_come_with_a_suggestion(ds):
    with pytest.raises(ConfigError, match="Did you mean 'vit_tiny_patch16_224'"):
        TimmImageEmbedder("vit_tiny_patch_224")(ds)
    with pytest.raises(ConfigError, match=r"it has: .*openai"):
        TimmImageEmbedder("vit_large_patch14_clip_quickgelu_224.nobody")(ds)


def test_a_prefix_makes_no_difference(ds):
    # "hf-hub:" would have timm ask the hub for a model that it knows by itself.
    expected = embeddings(TimmImageEmbedder(VIT)(ds))
    for prefix in ("timm/", "hf-hub:timm/"):
        assert (embeddings(TimmImageEmbedder(prefix + VIT)(ds)) == expected).all()


def test_fingerprints_know_the_weights_and_not_their_place(ds, tmp_path):
    def token(name: str, **options) -> str:
        return Lineage(TimmImageEmbedder(name, **options)(ds).metadata).token

    state = import_timm().create_model(VIT).state_dict()
    save_file(state, tmp_path / "one.safetensors")
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes())
    save_file(state | {"norm.bias": state["norm.bias"] + 1}, tmp_path / "two.safetensors")
    one, copy, two = (
        token(VIT, checkpoint_path=str(tmp_path / f"{name}.safetensors"))
        for name in ("one", "copy", "two")
    )
    assert one == copy
    assert len({one, two, token(VIT), token(RESNET)}) == 4


def test_the_offline_models_provenance(ds):
    provenance = TimmImageEmbedder("offline")(ds).provenance["image_embedding"]
    digest = hashlib.sha256(Path(offline_path()).read_bytes()).hexdigest()
    assert provenance["weights_sha256"] == digest
    assert provenance["encoder"] == "offline/tf_efficientnet_lite0"
    assert provenance["stage"] == "TimmImageEmbedder"


PRETRAINED = """
import json, sys
from nemo_image_curate import ImageTextPairDataset, TimmImageEmbedder
from nemo_image_curate.errors import WeightsError
try:
    ds = ImageTextPairDataset.from_webdataset(sys.argv[1])
    ds = TimmImageEmbedder("test_vit.r160_in1k", pretrained=True)(ds).save_metadata(sys.argv[2])
    print(json.dumps([ds.provenance["image_embedding"], ds.summary()]))
except WeightsError as error:
    print("refused:", error)
"""


def pretrained(two: Path, tmp_path: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRETRAINED, str(two), str(tmp_path / "out")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "no_proxy": "*", **environment},
    )
    return done.stdout


def test_pretrained_without_network_says_what_to_do(two, tmp_path):
    told = pretrained(two, tmp_path, HF_HUB_OFFLINE="1")
    assert told.startswith("refused: cannot fetch model.safetensors of timm/test_vit.r160_in1k")
    for remedy in ("checkpoint_path", "HF_HOME"):
        assert remedy in told


def test_pretrained_weights_come_from_the_hub_once(tmp_path):
    make_dataset(tmp_path / "in", sizes=[1, 1, 1])
    torch.manual_seed(8)
    save_file(import_timm().create_model(VIT).state_dict(), tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        """As much of the Hugging Face hub as a download needs."""

        def do_HEAD(self):
            if self.path.endswith("model.safetensors"):
                asked.append(f"{self.command} {self.path}")
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        told = pretrained(tmp_path / "in", tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
        server.shutdown()
    assert hashlib.sha256(content).hexdigest() in told
    assert '"encoder": "timm/test_vit.r160_in1k"' in told
    assert '"samples": 3' in told
    place = "/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    assert sorted(asked) == [f"GET {place}", f"HEAD {place}"]
