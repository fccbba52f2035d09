"""How a model runs fastest on a device while its embeddings stay what float32 gives."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nemo_image_curate.compute import _torch, devices

if TYPE_CHECKING:
    import torch

# QuickGELU's factor: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
_QUICK_GELU = 1.702

# The least cosine similarity of embeddings that count as the same: that of bfloat16 with float32.
_SAME = 0.999

# Pictures of the batch that blocks are compiled with.
_EXAMPLES = 32

logger = logging.getLogger(__name__)

Forward = Callable[["torch.Tensor"], "torch.Tensor"]

# cuDNN's settings are those of the process.
_PLAIN = threading.Lock()


def optimise(model: Any, device: str, autocast: bool, side: int = 224) -> Forward:
    """A forward pass of `model` on `device`: float32 pixels in, float32 embeddings out.

    Models made of matrix products run with bfloat16 weights and activations where the device
    multiplies them natively: ViT-B/32 keeps a cosine of at least 0.9999 with float32 and runs
    twice as fast on a CPU with AVX512-BF16. Convolutional models stay in float32: rounding adds
    up over their layers (EfficientNet-Lite0 falls to a cosine of 0.997 in bfloat16, measured);
    on a CPU their batch normalisation is folded into the convolutions instead. On a GPU they
    convolve in TF32, as is torch's default: float32 whose factors have 11 significant bits, where
    bfloat16 has 8. There the blocks that a transformer repeats are compiled, too.

    Parameters
    ----------
    model : torch.nn.Module
        (B, 3, H, W) to (B, d).
    device : str
    autocast : bool
        False: plain float32, without TF32, too; a transformer as it is.
    side : int
        S, where H = W = S: the pictures that the model is made for.
    """
    import torch

    model = model.eval().requires_grad_(False)
    if _convolutional(model):
        model = model.to(device=device, memory_format=torch.channels_last)
        layers = _frozen(model, side) if device == "cpu" else model
        if device != "cpu" and not autocast:
            layers = _without_tf32(layers)
        return lambda pixels: layers(pixels.contiguous(memory_format=torch.channels_last)).float()
    if autocast:
        _fuse_quick_gelu(model)
    if autocast and devices.has_bfloat16(device):
        model = model.to(device=device, dtype=torch.bfloat16)
        if device != "cpu":
            # The same in each worker: it decides whether blocks stay compiled.
            same = torch.Generator(device).manual_seed(0)
            example = torch.rand(_EXAMPLES, 3, side, side, device=device, generator=same)
            if compile_blocks(model, example.bfloat16()):
                model = _never_alone(model)
        return lambda pixels: model(pixels.to(torch.bfloat16)).float()
    model = model.to(device)
    if device != "cpu" and not autocast:
        model = _without_tf32(model)
    return lambda pixels: model(pixels).float()


def _without_tf32(model: Any) -> Forward:
    """The model, whose convolutions are in float32 on a GPU, too."""
    import torch

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        # Another thread that put the settings back would change them for this one.
        with _PLAIN, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            embeddings: torch.Tensor = model(pixels)
            return embeddings

    return forward


def _never_alone(model: Any) -> Forward:
    """The model, given a single picture twice: torch would compile it as a case of its own."""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        n = len(pixels)
        embeddings: torch.Tensor = model(pixels.expand(2, -1, -1, -1) if n == 1 else pixels)
        return embeddings[:n]

    return forward


def _fuse_quick_gelu(model: Any) -> None:
    """Make QuickGELU one operation instead of three: 12 % of ViT-B/32's time on a CPU (measured).

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702, and the two factors go into the weights of the
    linear layers before and after.
    """
    import torch

    # timm's names of the three, and OpenCLIP's.
    names = (("fc1", "act", "fc2"), ("c_fc", "gelu", "c_proj"))
    blocks = [
        (block, trio) for block in model.modules() for trio in names if hasattr(block, trio[1])
    ]
    for block, trio in blocks:
        before, activation, after = (getattr(block, name, None) for name in trio)
        if type(activation).__name__ != "QuickGELU" or not (
            isinstance(before, torch.nn.Linear) and isinstance(after, torch.nn.Linear)
        ):
            continue
        # Something between the two that is not linear would see scaled values.
        if not isinstance(getattr(block, "norm", torch.nn.Identity()), torch.nn.Identity):
            continue
        before.weight.mul_(_QUICK_GELU)
        if before.bias is not None:
            before.bias.mul_(_QUICK_GELU)
        after.weight.div_(_QUICK_GELU)
        setattr(block, trio[1], torch.nn.SiLU(inplace=True))


def _convolutional(model: torch.nn.Module) -> bool:
    """Whether most weights are convolutions'."""
    import torch

    total = sum(weight.numel() for weight in model.parameters())
    inside = sum(
        module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Conv2d)
    )
    return 2 * inside > total


def compile_blocks(model: torch.nn.Module, example: torch.Tensor) -> bool:
    """Compile the blocks that a model repeats, if that works here and keeps the embeddings.

    Blocks of one kind share what is compiled, so that it takes seconds where the whole model takes
    a minute. Models of several stages share little, and stay as they are: a Swin Transformer takes
    minutes. Not specialised to a batch size: which code ran for a batch, and with it the last
    bits of its embeddings, would depend on what the worker had seen before. Nor is anything that
    decides how sums are taken chosen by measuring, as each worker might choose something else.

    Parameters
    ----------
    model : torch.nn.Module
        Its blocks are replaced.
    example : torch.Tensor, shape (B, 3, H, W)
        What it takes: a batch like those to come, as kernels are laid out for its size; more than
        one, as torch treats a single one as a case of its own.

    Returns
    -------
    bool
        Whether the blocks are compiled now.
    """
    import torch

    lists: list[Any] = [module for module in model.modules() if _repeats(module)]
    if len(lists) != 1:
        return False
    blocks = lists[0]
    plain = list(blocks)
    problem = "it changes the embeddings"
    options: dict[str, Any] = {"deterministic": True}
    # Else each float, such as the eps of a normalisation, is an input, of which each call of each
    # block makes a tensor: a quarter to a half of the time of 24 small blocks (on a CPU, measured).
    # Blocks whose floats differ would each be compiled, and most of them not at all.
    with _torch.constant_floats(_have_equal_floats(plain)), torch.inference_mode():
        expected = model(example).float()
        try:
            for place, block in enumerate(plain):
                blocks[place] = torch.compile(block, dynamic=True, options=options)
            compiled = model(example).float()
            cosine = torch.nn.functional.cosine_similarity(compiled, expected, dim=1)
            if bool((cosine > _SAME).all()):
                return True
        # Compilers fail in many ways: no Triton, no C compiler, a folder that is read-only.
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:200]}"
    for place, block in enumerate(plain):
        blocks[place] = block
    logger.warning("the model runs without torch.compile: %s", problem)
    return False


def _have_equal_floats(blocks: list[torch.nn.Module]) -> bool:
    """Whether the modules of all blocks have equal floats: rates of dropout may grow with depth."""
    floats = [
        [
            number
            for module in block.modules()
            for number in vars(module).values()
            if isinstance(number, float)
        ]
        for block in blocks
    ]
    return all(of_block == floats[0] for of_block in floats)


def _repeats(module: torch.nn.Module) -> bool:
    """Whether a module is a list of equal blocks, which are no mere layers of torch."""
    import torch

    if not isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList)) or len(module) < 2:
        return False
    shapes = [[weight.shape for weight in block.parameters()] for block in module]
    kinds = {type(block) for block in module}
    equal = len(kinds) == 1 and all(of_block == shapes[0] for of_block in shapes)
    return equal and not kinds.pop().__module__.startswith("torch.")


def _frozen(model: Any, side: int) -> Any:
    """The model with batch normalisation folded into convolutions, if that gives equal results.

    Freezing traces the model; one whose graph depends on its input is left as it is.
    """
    import torch

    example = torch.rand(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    # More and brighter pictures than were traced, to find what was taken for a constant.
    brighter = 2 * torch.rand(3, 3, side, side).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = torch.jit.freeze(torch.jit.trace(model, example))
            expected, result = model(brighter), frozen(brighter)
    except Exception as error:
        logger.info("model is not frozen: %s", error)
        return model
    close = torch.allclose(expected, result, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    return frozen if close else model
