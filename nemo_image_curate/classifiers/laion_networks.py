"""The networks of the published classifier heads, built from their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from nemo_image_curate.errors import WeightsError

if TYPE_CHECKING:
    import torch

# The Linear layers of the V2 network; dropout lies between them, no activation. The variants that
# were trained with ReLU have other numbers, so that they cannot be folded by mistake.
_AESTHETIC_V2_LAYERS = (0, 2, 4, 6, 7)
# keras.backend.epsilon(): Normalization divides by maximum(sqrt(variance), epsilon).
_KERAS_EPSILON = 1e-7


def fold_aesthetic(
    state_dict: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """LAION's aesthetic predictor V2 as one affine map.

    Its five Linear layers (768-1024-128-64-16-1) have no activation between them, so that
    W5(W4(...(W1 x + b1)...) + b4) + b5 = w.x + b; the product is taken in float64.

    Parameters
    ----------
    state_dict
        ``layers.{0,2,4,6,7}.{weight,bias}``, any widths that fit together and end in 1.

    Returns
    -------
    weight : torch.Tensor
        (d,), float64.
    bias : torch.Tensor
        (), float64.

    Raises
    ------
    WeightsError
        When names or shapes are others.
    """
    layers = _layers(state_dict, [f"layers.{i}" for i in _AESTHETIC_V2_LAYERS], "aesthetic V2")
    weight, bias = layers[-1]
    for below, offset in reversed(layers[:-1]):
        weight, bias = weight @ below, weight @ offset + bias
    return weight[0], bias[0]


def aesthetic_head(state_dict: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """An aesthetic predictor, V1 (one Linear) or V2 (folded to one).

    Parameters
    ----------
    state_dict
        V1: ``weight`` (1, d), ``bias`` (1,). V2: see :func:`fold_aesthetic`.

    Returns
    -------
    torch.nn.Module
        (B, d) float32 L2-normalised CLIP embeddings to (B,) float32, about 1 to 10 but
        unbounded. In eval mode, on the CPU.

    Raises
    ------
    WeightsError
        When names or shapes are neither.
    """
    import torch

    if "weight" in state_dict:
        [(matrix, vector)] = _layers(state_dict, [""], "aesthetic V1")
        weight, bias = matrix[0], vector[0]
    else:
        weight, bias = fold_aesthetic(state_dict)
    linear = _linear(weight[None], bias[None])
    return torch.nn.Sequential(linear, torch.nn.Flatten(0)).eval()


def nsfw_head(state_dict: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """LAION's NSFW head: normalise, Linear and ReLU in turn, sigmoid.

    The normalisation (x - mean) / max(sqrt(variance), 1e-7), Keras' formula, is folded into the
    first Linear in float64. Widths are those of the tensors: 768-64-512-256-1 for ViT-L/14,
    512-32-32-1 for ViT-B/32.

    Parameters
    ----------
    state_dict
        ``norm.mean``, ``norm.variance`` (d,), ``linear_<i>.{weight,bias}`` for i = 1, 2, ...

    Returns
    -------
    torch.nn.Module
        (B, d) float32 L2-normalised CLIP embeddings to (B,) float32 in 0..1, the probability
        of "not safe for work". In eval mode, on the CPU.

    Raises
    ------
    WeightsError
        When names or shapes are others.

    Notes
    -----
    In LAION's Keras model, five of the 768 columns (three of 512: those of variance > 1) go through
    a table of the strings of its float16 training data first, and become the number of their
    entry, or 0 when there is none. The table is not among the weights; like the PyTorch
    conversions in use, this head takes the number itself, which after the division by their
    standard deviation (102 to 1417) is within 0.01 of what 0 gives.
    """
    import torch

    count = sum(name.startswith("linear_") and name.endswith(".weight") for name in state_dict)
    names = [f"linear_{i}" for i in range(1, max(count, 1) + 1)]
    layers = _layers(state_dict, names, "NSFW", extra=("norm.mean", "norm.variance"))
    mean, variance = (state_dict[f"norm.{name}"].double() for name in ("mean", "variance"))
    weight, bias = layers[0]
    if not mean.shape == variance.shape == weight.shape[1:] or bool((variance < 0).any()):
        raise WeightsError(
            f"NSFW head: expected norm.mean and norm.variance of shape {tuple(weight.shape[1:])}, "
            f"none negative; found {tuple(mean.shape)} and {tuple(variance.shape)}"
        )
    weight = weight / variance.sqrt().clamp_min(_KERAS_EPSILON)
    layers[0] = (weight, bias - weight @ mean)
    steps: list[torch.nn.Module] = []
    for weight, bias in layers:
        steps += [_linear(weight, bias), torch.nn.ReLU()]
    steps[-1] = torch.nn.Sigmoid()
    return torch.nn.Sequential(*steps, torch.nn.Flatten(0)).eval()


def _layers(
    state_dict: Mapping[str, torch.Tensor],
    names: list[str],
    head: str,
    extra: tuple[str, ...] = (),
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The (weight, bias) pairs of Linear layers in float64, checked to fit and to end in 1."""
    expected = [f"{name}.{part}" if name else part for name in names for part in ("weight", "bias")]
    if set(state_dict) != {*expected, *extra}:
        raise WeightsError(
            f"{head} head: expected the tensors {[*extra, *expected]}, found {list(state_dict)}"
        )
    layers = []
    for weight_name, bias_name in zip(expected[::2], expected[1::2], strict=True):
        layers.append((state_dict[weight_name].double(), state_dict[bias_name].double()))
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    fits = all(w.ndim == 2 and b.shape == w.shape[:1] for w, b in layers)
    fits = fits and all(
        above.shape[1] == below.shape[0] for (below, _), (above, _) in pairwise(layers)
    )
    if not fits or layers[-1][0].shape[0] != 1:
        raise WeightsError(
            f"{head} head: expected weights (out, in) and biases (out,) that follow on each other "
            f"and end in one output, found {shapes}"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in state_dict.values()):
        raise WeightsError(f"{head} head: some of its numbers are not finite")
    return layers


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> torch.nn.Module:
    import torch

    # skip_init: drawing initial values would move the caller's random number generator.
    linear: torch.nn.Module
    linear = torch.nn.utils.skip_init(torch.nn.Linear, weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    linear.requires_grad_(False)
    return linear
