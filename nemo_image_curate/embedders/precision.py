"""How a model runs fastest on a device while its embeddings stay what float32 gives."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nemo_image_curate import cluster

if TYPE_CHECKING:
    import torch

# QuickGELU's factor: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
_QUICK_GELU = 1.702

logger = logging.getLogger(__name__)

Forward = Callable[["torch.Tensor"], "torch.Tensor"]


def optimise(model: Any, device: str, autocast: bool) -> Forward:
    """A forward pass of `model` on `device`: float32 pixels in, float32 embeddings out.

    Models made of matrix products run with bfloat16 weights and activations where the device
    multiplies them natively: ViT-B/32 keeps a cosine of at least 0.9999 with float32 and runs
    twice as fast on a CPU with AVX512-BF16. Convolutional models stay in float32: rounding adds
    up over their layers (EfficientNet-Lite0 falls to a cosine of 0.997 in bfloat16, measured);
    on a CPU their batch normalisation is folded into the convolutions instead.

    Parameters
    ----------
    model : torch.nn.Module
        (B, 3, H, W) to (B, d).
    device : str
    autocast : bool
        False: plain float32, the model as it is.
    """
    import torch

    model = model.eval().requires_grad_(False)
    if _convolutional(model):
        model = model.to(device=device, memory_format=torch.channels_last)
        layers = _frozen(model) if device == "cpu" else model
        return lambda pixels: layers(pixels.contiguous(memory_format=torch.channels_last)).float()
    if autocast:
        _fuse_quick_gelu(model)
    if autocast and cluster.has_bfloat16(device):
        model = model.to(device=device, dtype=torch.bfloat16)
        return lambda pixels: model(pixels.to(torch.bfloat16)).float()
    model = model.to(device)
    return lambda pixels: model(pixels).float()


def _fuse_quick_gelu(model: Any) -> None:
    """Make QuickGELU one operation instead of three: 12 % of ViT-B/32's time on a CPU (measured).

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702, and the two factors go into the weights of the
    linear layers before and after.
    """
    import torch

    # timm's names of the three, and OpenCLIP's.
    names = (("fc1", "act", "fc2"), ("c_fc", "gelu", "c_proj"))
    found = [
        (block, trio) for block in model.modules() for trio in names if hasattr(block, trio[1])
    ]
    for block, trio in found:
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


def _frozen(model: Any) -> Any:
    """The model with batch normalisation folded into convolutions, if that gives equal results.

    Freezing traces the model; one whose graph depends on its input is left as it is.
    """
    import torch

    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    example = torch.rand(2, *size).contiguous(memory_format=torch.channels_last)
    # Another batch size than the one traced, to find sizes that were taken for constants.
    other = torch.rand(3, *size).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = torch.jit.freeze(torch.jit.trace(model, example))
            expected, got = model(other), frozen(other)
    except Exception as error:
        logger.info("model is not frozen: %s", error)
        return model
    close = torch.allclose(expected, got, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    return frozen if close else model
