from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from nemo_image_curate.classifiers.laion_heads import HEADS
from nemo_image_curate.classifiers.laion_networks import aesthetic_head, fold_aesthetic, nsfw_head
from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models.known_encoders import CLIP_VIT_B_32, CLIP_VIT_L_14, ENCODERS
from nemo_image_curate.models.state_dicts import load_state_dict
from tests.shared import SHARED, needs_shared

WEIGHTS = SHARED / "weights"


def ratings(encoder: str) -> torch.Tensor:
    """LAION's sample embeddings of images rated 0 to 9, (10, d), normalised."""
    folder = {CLIP_VIT_L_14: "vit_l_14_embeddings", CLIP_VIT_B_32: "vit_b_32_embeddings"}[encoder]
    root = SHARED / "data" / "laion_ratings" / folder
    rows = np.concatenate([np.load(root / f"rating{i}.npy") for i in range(10)])
    return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)


def unit(rows: int, dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1)


def layered(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """LAION's V2 network as it was trained, in float64."""
    numbers = sorted({int(name.split(".")[1]) for name in state})
    steps: list[torch.nn.Module] = [torch.nn.Dropout() for _ in range(max(numbers) + 1)]
    for i in numbers:
        out, width = state[f"layers.{i}.weight"].shape
        steps[i] = torch.nn.Linear(width, out)
    network = torch.nn.Module()
    network.layers = torch.nn.Sequential(*steps)
    network.load_state_dict(state)
    return network.layers.double().eval()


def aesthetic_v2(widths=(6, 5, 4, 3, 2, 1)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {}
    for i, (below, above) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        state[f"layers.{i}.weight"] = torch.randn(above, below, generator=generator)
        state[f"layers.{i}.bias"] = torch.randn(above, generator=generator)
    return state


def nsfw(widths=(6, 5, 4, 1)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    state = {
        "norm.mean": torch.randn(widths[0], generator=generator),
        "norm.variance": torch.rand(widths[0], generator=generator),
    }
    for i, (below, above) in enumerate(pairwise(widths), 1):
        state[f"linear_{i}.weight"] = torch.randn(above, below, generator=generator)
        state[f"linear_{i}.bias"] = torch.randn(above, generator=generator)
    return state


def nsfw_reference(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Keras' graph, step by step, in float64."""
    wide = {name: tensor.double() for name, tensor in state.items()}
    x = (x.double() - wide["norm.mean"]) / wide["norm.variance"].sqrt().clamp_min(1e-7)
    count = len(wide) // 2 - 1
    for i in range(1, count + 1):
        x = x @ wide[f"linear_{i}.weight"].T + wide[f"linear_{i}.bias"]
        x = x.relu() if i < count else x.sigmoid()
    return x[:, 0]


def test_folded_equals_layered():
    state = aesthetic_v2()
    x = unit(50, 6)
    expected = layered(state)(x.double())[:, 0]
    weight, bias = fold_aesthetic(state)
    assert (weight.shape, bias.shape, weight.dtype) == ((6,), (), torch.float64)
    torch.testing.assert_close(x.double() @ weight + bias, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(aesthetic_head(state)(x).double(), expected, rtol=1e-5, atol=1e-5)


@needs_shared
def test_folded_equals_layered_for_the_published_head():
    state = load_state_dict(WEIGHTS / "sac+logos+ava1-l14-linearMSE.pth")
    x = torch.cat([ratings(CLIP_VIT_L_14), unit(200, 768)])
    expected = layered(state)(x.double())[:, 0].detach()
    weight, bias = fold_aesthetic(state)
    torch.testing.assert_close(x.double() @ weight + bias, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(aesthetic_head(state)(x).double(), expected, rtol=0, atol=2e-5)


@needs_shared
@pytest.mark.parametrize(
    ("encoder", "version"), [(CLIP_VIT_L_14, "v1"), (CLIP_VIT_B_32, "v1"), (CLIP_VIT_L_14, "v2")]
)
def test_better_rated_images_score_higher(encoder, version):
    head = HEADS["aesthetic", version, encoder]
    network = aesthetic_head(load_state_dict(WEIGHTS / head.weights.name))
    scores = network(ratings(encoder))
    print(version, encoder, scores.tolist())
    assert bool((scores.diff() > 0).all())


@needs_shared
@pytest.mark.parametrize(
    ("encoder", "converted"),
    [(CLIP_VIT_L_14, "nsfw_vit_l_14.pth"), (CLIP_VIT_B_32, "nsfw_vit_b_32.pth")],
)
def test_the_nsfw_zip_scores_like_its_conversion(encoder, converted):
    head = HEADS["nsfw", "v1", encoder]
    state = load_state_dict(WEIGHTS / converted)
    x = torch.cat([ratings(encoder), unit(200, head.embedding_dim)])
    found = nsfw_head(load_state_dict(WEIGHTS / head.weights.name))(x)
    torch.testing.assert_close(found, nsfw_head(state)(x), rtol=0, atol=0)
    expected = nsfw_reference(state, x)
    print(encoder, "max error", (found.double() - expected).abs().max().item())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    # LAION's ten samples are ordinary pictures.
    assert bool((found[:10] < 0.01).all())


def test_nsfw_follows_the_formula():
    state = nsfw()
    state["norm.variance"][0] = 0.0  # a column that never changed: Keras divides by 1e-7
    state["linear_1.weight"] *= 1e-3
    x = unit(100, 6)
    x[:, 0] = state["norm.mean"][0]
    found = nsfw_head(state)(x)
    assert bool(found.isfinite().all())
    state["norm.variance"][0] = 1e-14
    torch.testing.assert_close(found, nsfw_head(state)(x), rtol=0, atol=0)
    state = nsfw()
    expected = nsfw_reference(state, x)
    torch.testing.assert_close(nsfw_head(state)(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
@pytest.mark.parametrize(
    "network",
    [
        aesthetic_head(aesthetic_v2()),
        aesthetic_head({"weight": torch.ones(1, 6), "bias": torch.ones(1)}),
        nsfw_head(nsfw()),
        nsfw_head(nsfw((6, 1))),
    ],
)
def test_one_score_per_row(network, rows):
    scores = network(torch.zeros(rows, 6))
    assert (scores.shape, scores.dtype) == ((rows,), torch.float32)
    assert not scores.requires_grad
    assert not network.training


def test_building_a_head_leaves_the_random_numbers_alone():
    before = torch.random.get_rng_state()
    nsfw_head(nsfw())
    aesthetic_head(aesthetic_v2())
    assert torch.equal(before, torch.random.get_rng_state())


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("build", "state", "reason"),
    [
        (aesthetic_head, {}, r"expected the tensors \['layers\.0\.weight'"),
        (aesthetic_head, {"weight": torch.ones(1, 6)}, "'bias'"),
        (aesthetic_head, {"weight": torch.ones(2, 6), "bias": torch.ones(2)}, "one output"),
        (aesthetic_head, {"weight": torch.ones(6), "bias": torch.ones(1)}, "one output"),
        (aesthetic_head, without(aesthetic_v2(), "layers.4.bias"), r"layers\.4\.bias"),
        # The networks with ReLU have other layer numbers.
        (aesthetic_head, {**aesthetic_v2(), "layers.9.weight": torch.ones(1)}, r"layers\.9"),
        (aesthetic_head, {**aesthetic_v2(), "layers.4.weight": torch.ones(3, 9)}, r"\(3, 9\)"),
        (
            aesthetic_head,
            {"weight": torch.full((1, 2), torch.nan), "bias": torch.ones(1)},
            "finite",
        ),
        (nsfw_head, {}, "linear_1"),
        (nsfw_head, aesthetic_v2(), r"norm\.mean"),
        (nsfw_head, without(nsfw(), "norm.variance"), r"norm\.variance"),
        (nsfw_head, without(nsfw(), "linear_2.weight"), "expected the tensors"),
        (nsfw_head, {**nsfw(), "norm.mean": torch.ones(7)}, r"\(7,\)"),
        (nsfw_head, {**nsfw(), "norm.variance": -torch.ones(6)}, "none negative"),
        (nsfw_head, nsfw((6, 5, 2)), "one output"),
    ],
)
def test_other_tensors_are_refused(build, state, reason):
    with pytest.raises(WeightsError, match=reason):
        build(state)


def test_the_table_is_consistent():
    assert len(HEADS) == 6
    for (kind, version, encoder), head in HEADS.items():
        assert (head.kind, head.version, head.encoder) == (kind, version, encoder)
        assert head.embedding_dim == ENCODERS[encoder].embedding_dim
        assert head.weights.url.startswith("https://")


@needs_shared
@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.weights.name)
def test_the_table_describes_the_published_files(head):
    content = (WEIGHTS / head.weights.name).read_bytes()
    assert len(content) == head.weights.size
    assert hashlib.sha256(content).hexdigest() == head.weights.sha256
    state = load_state_dict(WEIGHTS / head.weights.name)
    build = {"aesthetic": aesthetic_head, "nsfw": nsfw_head}[head.kind]
    assert build(state)(torch.zeros(1, head.embedding_dim)).shape == (1,)
