"""Steps without images: what the GPU can do at most, and what the models make of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from results import known, record
from setting import DEVICE, LARGE, SMALL, full, rate

PEAK = "bf16 matmul"
BARE = "ViT-L/14 forward"
BARE_SMALL = "ViT-B/32 forward"


def limits() -> None:
    """Matrix products, and copies within the device and to it."""
    import torch

    side = full(8192, 256)
    # Random numbers: the clock, hence the rate, is higher on zeros.
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    record(PEAK, rate(lambda: [a @ b for _ in range(10)], 10) * 2 * side**3 / 1e12, "TFLOP/s")
    size = full(1 << 32, 1 << 20)
    x = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    y = torch.empty_like(x)
    record("copy on the device", rate(lambda: y.copy_(x), 2 * size) / 1e9, "GB/s read + written")
    host = torch.empty(size // 4, dtype=torch.uint8, pin_memory=DEVICE != "cpu")
    record("copy to the device", rate(lambda: y[: len(host)].copy_(host), len(host)) / 1e9, "GB/s")


def flop(model: str, side: int = 224) -> int:
    """Floating point operations of one image, attention included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from nemo_image_curate import TimmImageEmbedder

    network = TimmImageEmbedder(model).build_model().eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.empty(1, 3, side, side, device="meta"))
    total: int = counter.get_total_flops()
    return total


def forward() -> None:
    """Both encoders as they ship, alone, on pixels that are there already."""
    _forward(LARGE, BARE, full((256, 512, 1024, 128), (4,)))
    _forward(SMALL, BARE_SMALL, full((256, 1024, 2048), (4,)))


def _forward(model: str, name: str, batches: tuple[int, ...]) -> None:
    import torch
    from torch._dynamo.utils import counters

    from nemo_image_curate import TimmImageEmbedder

    peak, operations = known(PEAK), flop(model) / 1e12
    counters.clear()
    run = TimmImageEmbedder(model).load_embedding_model(DEVICE)
    for batch in batches:
        pixels = torch.randn(batch, 3, 224, 224, device=DEVICE)
        label = name if batch == batches[0] else f"{name}, batches of {batch}"
        with torch.inference_mode():
            speed = rate(partial(run, pixels), batch)
        record(label, speed, "images/s", peak and peak / operations, PEAK)
    # None: something failed, and the model runs as it is; more: not for all sizes.
    graphs = counters["stats"]["unique_graphs"]
    record(f"{name}, compiled", graphs, "graphs (1 = blocks are compiled)")


def eager() -> None:
    """What compiling the blocks brings, and what CUDA graphs and other kernels might add."""
    _eager(LARGE, BARE)
    _eager(SMALL, BARE_SMALL)
    _patches(LARGE, BARE)
    _patches(SMALL, BARE_SMALL)


def _eager(model: str, name: str) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from nemo_image_curate import TimmImageEmbedder

    shipped, batch = known(name), full(256, 4)
    pixels = torch.randn(batch, 3, 224, 224, device=DEVICE)
    run = TimmImageEmbedder(model).load_embedding_model(DEVICE)
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        speed = rate(lambda: run(pixels), batch)
        record(f"{name}, not compiled", speed, "images/s", shipped, name)
        # Else torch may take cuDNN's, as on Hopper.
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            flash = rate(lambda: run(pixels), batch)
        record(f"{name}, not compiled, FlashAttention", flash, "images/s", speed, "not compiled")
    if DEVICE == "cpu":
        return
    with torch.inference_mode():
        captured = pixels.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run(captured)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run(captured)

        def replay() -> None:
            captured.copy_(pixels)
            graph.replay()

        record(f"{name}, CUDA graph", rate(replay, batch), "images/s", shipped, name)


def _patches(model: str, name: str) -> None:
    """The first layer alone: as the convolution that it is, and as a matrix product."""
    import torch
    from torch.nn.functional import linear

    from nemo_image_curate import TimmImageEmbedder

    network: Any = TimmImageEmbedder(model).build_model().requires_grad_(False)
    layer = network.patch_embed.proj.to(DEVICE, torch.bfloat16)
    side = layer.stride[0]
    assert layer.kernel_size == layer.stride == (side, side), layer
    batch = full(256, 4)
    pixels = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=torch.bfloat16)
    weights = layer.weight.flatten(1)

    def convolved() -> torch.Tensor:
        patches: torch.Tensor = layer(pixels)
        return patches.flatten(2).transpose(1, 2)

    def multiplied() -> torch.Tensor:
        squares = pixels.unfold(2, side, side).unfold(3, side, side)
        return linear(
            squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2), weights, layer.bias
        )

    with torch.inference_mode():
        torch.testing.assert_close(multiplied(), convolved(), rtol=0.02, atol=0.02)
        convolution = rate(convolved, batch, 1.0)
        record(f"{name}, patches convolved", convolution, "images/s")
        product = rate(multiplied, batch, 1.0)
    record(f"{name}, patches multiplied", product, "images/s", convolution, "convolved")


def halving() -> None:
    """A batch that is too large is halved until it fits."""
    import torch

    from nemo_image_curate import TimmImageEmbedder
    from nemo_image_curate.embedders.base import _Forward

    batch = full(1024, 8)
    pixels = torch.randn(batch, 3, 224, 224, device=DEVICE)
    embedder = TimmImageEmbedder(LARGE, batch_size=batch)
    forward: Any = _Forward(embedder, embedder.load_embedding_model(DEVICE), [], DEVICE)
    with torch.inference_mode():
        expected = forward._forward(pixels)
        if DEVICE != "cpu":
            used = torch.cuda.memory_allocated() + (1 << 30)
            torch.cuda.set_per_process_memory_fraction(
                used / torch.cuda.get_device_properties(0).total_memory
            )
            torch.cuda.empty_cache()
        embeddings = forward._forward(pixels)
    record(f"batch of {batch} with 1 GB free becomes", forward._most, "images")
    cosine = torch.nn.functional.cosine_similarity(expected, embeddings).min()
    record("its embeddings against those of the whole batch, least", float(cosine), "cosine")


def tune() -> None:
    """The whole model compiled, its kernels chosen by measuring: the most that could be had."""
    import torch

    from nemo_image_curate import TimmImageEmbedder

    network = TimmImageEmbedder(LARGE).build_model().eval().to(DEVICE, torch.bfloat16)
    mode = full("max-autotune-no-cudagraphs", "default")
    whole = torch.compile(network.requires_grad_(False), mode=mode)
    batch = full(256, 2)
    pixels = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=torch.bfloat16)
    with torch.inference_mode():
        speed = rate(lambda: whole(pixels), batch)
    record(f"{BARE}, whole model tuned", speed, "images/s", known(BARE), BARE)


def texts() -> None:
    """Captions through the text tower of CLIP ViT-L/14 (random weights; the same work)."""
    import torch

    from nemo_image_curate import OpenCLIPEmbedder
    from nemo_image_curate.embedders.open_clip import _text_forward
    from nemo_image_curate.models.open_clip import OpenCLIPSource

    name = full("ViT-L-14", "ViT-B-32")
    embedder, source = OpenCLIPEmbedder(name), OpenCLIPSource(name)
    captions = [
        f"a dog runs on the beach with red ball number {n} in its mouth"
        for n in range(full(4096, 8))
    ]
    n, tokenize = len(captions), source.tokenizer()
    network = source.build()
    network.visual = None
    forward = _text_forward(network.to(DEVICE, torch.bfloat16))
    batches = tokenize(captions).to(DEVICE).split(256)
    with torch.inference_mode():
        alone = rate(lambda: [forward(tokens) for tokens in batches], n)
    record("ViT-L/14 captions, the tower alone", alone, "captions/s")
    speed = rate(lambda: tokenize(captions), n)
    record("ViT-L/14 captions, the tokenizer alone", speed, "captions/s")
    tower = embedder.text_tower(DEVICE)
    speed = rate(lambda: tower.embed([text for text in captions if tower.known(text)]), n)
    record("ViT-L/14 captions, as datasets", speed, "captions/s", alone, "the tower alone")
    speed = rate(lambda: embedder.embed_text(captions, DEVICE), n)
    record("ViT-L/14 captions, as queries", speed, "captions/s", alone, "the tower alone")
