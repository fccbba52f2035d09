"""Faster forward passes give the embeddings that plain float32 gives."""

from __future__ import annotations

import pytest
import torch

from nemo_image_curate.compute.devices import has_bfloat16
from nemo_image_curate.embedders.precision import (
    _fuse_quick_gelu,
    _never_alone,
    _without_tf32,
    compile_blocks,
    optimise,
)
from nemo_image_curate.models.torchvision_compat import import_timm


def pictures(number: int, side: int) -> torch.Tensor:
    """Smooth pictures, more like photographs than noise is."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.randn(number, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def model(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(1)
    return import_timm().create_model(name, num_classes=0, **options).eval()


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=1).min())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch32_clip_quickgelu_224"])
def test_transformers_keep_their_embeddings(name):
    pixels = pictures(4, 224)
    with torch.inference_mode():
        expected = model(name)(pixels)
        plain = optimise(model(name), "cpu", autocast=False)(pixels)
        network = model(name)
        fast = optimise(network, "cpu", autocast=True)(pixels)
    assert torch.equal(plain, expected)
    assert fast.dtype == torch.float32
    assert cosine(fast, expected) >= 0.9995
    used = torch.bfloat16 if has_bfloat16("cpu") else torch.float32
    assert {weight.dtype for weight in network.parameters()} == {used}


def test_quick_gelu_in_one_operation_is_the_same_function():
    name, pixels = "vit_base_patch32_clip_quickgelu_224", pictures(3, 224)
    fused = model(name).requires_grad_(False)
    with torch.inference_mode():
        _fuse_quick_gelu(fused)
        expected, found = model(name)(pixels), fused(pixels)
    assert {type(block.mlp.act) for block in fused.blocks} == {torch.nn.SiLU}
    assert torch.allclose(expected, found, atol=1e-5 * float(expected.abs().max()))


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """With batch statistics that change something when they are folded away."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
@pytest.mark.parametrize("autocast", [True, False])
def test_convolutional_networks_stay_in_float32(name, autocast):
    network = lively(model(name))
    pixels = pictures(5, 160)
    with torch.inference_mode():
        expected = network(pixels)
        forward = optimise(network, "cpu", autocast)
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
        for size in (5, 1):
            found = forward(pixels[:size])
            assert found.dtype == torch.float32
            assert torch.allclose(found, expected[:size], rtol=1e-3, atol=1e-4)
            assert cosine(found, expected[:size]) > 0.999999


class Unfit(torch.nn.Module):
    """A convolution whose offset a trace would take for a constant."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)

    def forward(self, pixels):
        return self.conv(pixels).mean(dim=(2, 3)) + float(pixels.mean())


class Untraceable(Unfit):
    def forward(self, pixels):
        if pixels.shape[0] == 2:
            raise ValueError("twos are not liked here")
        return self.conv(pixels).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [Unfit, Untraceable])
def test_a_network_that_cannot_be_frozen_runs_as_it_is(kind):
    network = kind().eval()
    forward = optimise(network, "cpu", autocast=True)
    with torch.inference_mode():
        for number in (1, 5):
            pixels = pictures(number, 224) * number
            assert torch.allclose(forward(pixels), network(pixels), atol=1e-5)


class Asking(Unfit):
    """Asks whether convolutions may round their factors."""

    def forward(self, pixels):
        self.rounds = torch.backends.cudnn.allow_tf32
        return super().forward(pixels)


class AskingBlock(Asking):
    """Mostly matrix products."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(100, 100)


def test_convolutions_in_float32_leave_the_setting_as_it_was():
    network, pixels = Asking().eval(), pictures(2, 224)
    with torch.inference_mode():
        embeddings = _without_tf32(network)(pixels)
        assert not network.rounds
        assert torch.backends.cudnn.allow_tf32
        assert torch.equal(network(pixels), embeddings)
        assert network.rounds


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [Asking, AskingBlock])
def test_on_a_gpu_convolutions_are_in_float32_without_autocast(kind):
    pixels, network = pictures(2, 224), kind().eval()
    with torch.inference_mode():
        expected = network(pixels)
        for autocast in (False, True):
            embeddings = optimise(network, "cuda", autocast)(pixels.cuda()).cpu()
            assert network.rounds is autocast
            torch.testing.assert_close(embeddings, expected, rtol=0, atol=0.1 if autocast else 1e-5)


class Untrained(torch.nn.Module):
    def forward(self, pixels):
        return pixels.mean(dim=(2, 3))


def test_a_model_without_weights():
    assert optimise(Untrained(), "cpu", autocast=True)(torch.ones(2, 3, 4, 4)).shape == (2, 3)


def test_dropout_is_off():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(48, 8))
    forward = optimise(network.train(), "cpu", autocast=False)
    pixels = torch.ones(2, 3, 4, 4)
    assert torch.equal(forward(pixels), forward(pixels))
    assert not forward(pixels).requires_grad


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(12, 12)

    def forward(self, x):
        return x + torch.nn.functional.silu(self.linear(x))


class Fickle(Block):
    """Gives something else when compiled."""

    def forward(self, x):
        return -x if torch.compiler.is_compiling() else x


def stack(kind: type[torch.nn.Module]) -> torch.nn.Sequential:
    torch.manual_seed(2)
    blocks = torch.nn.Sequential(*[kind() for _ in range(3)])
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 12), blocks).eval()


def test_repeated_blocks_are_compiled_for_all_batch_sizes(monkeypatch):
    # What is generated for a CPU is not used, and takes half a minute.
    compiled = torch.compile

    def traced(block, *, dynamic, options):
        assert options == {"deterministic": True}
        return compiled(block, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    network, pixels = stack(Block), pictures(7, 2)
    with torch.inference_mode():
        expected = network(pixels)
        torch._dynamo.utils.counters.clear()
        assert compile_blocks(network, pixels[:2])
        assert all(type(block).__name__ == "OptimizedModule" for block in network[2])
        for size in (7, 3, 2, 1):
            found = _never_alone(network)(pixels[:size])
            torch.testing.assert_close(found, expected[:size])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Scaled(Block):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        # As dropout, which is off, looks at its rate.
        return x if self.scale == 0 else super().forward(x) * self.scale


@pytest.mark.parametrize(("scales", "float_inputs"), [([0.5] * 10, 0), (range(1, 11), 1)])
def test_floats_are_constants_where_all_blocks_have_the_same(scales, float_inputs, monkeypatch):
    compiled, inputs = torch.compile, list[list[object]]()

    def backend(graph, example_inputs):
        inputs.append(example_inputs)
        return graph

    def traced(block, **_):
        return compiled(block, backend=backend, dynamic=True)

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    blocks = torch.nn.Sequential(*[Scaled(float(scale)) for scale in scales])
    network, pixels = stack(Block), pictures(7, 2)
    network[2] = blocks.eval()
    with torch.inference_mode():
        expected = network(pixels)
        assert compile_blocks(network, pixels[:2])
        torch.testing.assert_close(network(pixels), expected)
    # More kinds of blocks than torch compiles would be left as they are.
    assert len(inputs) == 1
    assert (
        sum(getattr(value, "dtype", None) == torch.float64 for value in inputs[0]) == float_inputs
    )


def test_models_of_several_stages_are_not_compiled():
    network = torch.nn.Sequential(stack(Block), stack(Block)[1:])
    assert not compile_blocks(network, pictures(2, 2))
    assert {type(module).__name__ for module in network.modules()} >= {"Block"}
    assert not any(type(module).__name__ == "OptimizedModule" for module in network.modules())


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch32_clip_quickgelu_224"])
def test_on_a_gpu_transformers_keep_their_embeddings(name):
    pixels = pictures(33, 224)
    with torch.inference_mode():
        expected = model(name)(pixels)
        network = model(name)
        torch._dynamo.utils.counters.clear()
        chance = torch.cuda.get_rng_state()
        forward = optimise(network, "cuda", autocast=True)
        assert torch.equal(torch.cuda.get_rng_state(), chance)
        assert {type(block).__name__ for block in network.blocks} == {"OptimizedModule"}
        for size in (33, 1, 5, 2):
            found = forward(pixels[:size].to("cuda"))
            assert (found.shape, found.dtype) == ((size, expected.shape[1]), torch.float32)
            assert cosine(found.cpu(), expected[:size]) >= 0.999
            again = forward(pixels[:size].to("cuda"))
            assert torch.equal(found, again)
    # For all sizes, the single picture too.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.cuda
def test_on_a_gpu_convolutional_networks_keep_their_embeddings():
    pixels = pictures(5, 160)
    with torch.inference_mode():
        expected = lively(model("test_efficientnet"))(pixels)
        forward = optimise(lively(model("test_efficientnet")), "cuda", autocast=True)
        assert cosine(forward(pixels.to("cuda")).cpu(), expected) >= 0.9999


def test_blocks_that_change_when_compiled_stay_as_they_are(caplog):
    network = stack(Fickle)
    assert not compile_blocks(network, pictures(2, 2))
    assert {type(block) for block in network[2]} == {Fickle}
    assert "it changes the embeddings" in caplog.text


def test_blocks_that_cannot_be_compiled_stay_as_they_are(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    torch._dynamo.reset()
    network, pixels = stack(Block), pictures(2, 2)
    assert not compile_blocks(network, pixels)
    assert {type(block) for block in network[2]} == {Block}
    assert "runs without torch.compile" in caplog.text
