"""Losses against open_clip's own, in float64."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.learning import losses
from nemo_image_curate.learning.losses import clamp_log_scale, info_nce, siglip
from nemo_image_curate.models.torchvision_compat import import_timm

BIAS = -3.0


def _vectors(n: int, d: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return [one.clone().requires_grad_() for one in torch.nn.functional.normalize(both, dim=-1)]


def _learned() -> list[torch.Tensor]:
    return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (12.0, BIAS)]


def _ours(name: str, images, texts, scale, bias, group=None) -> torch.Tensor:
    if name == "infonce":
        return info_nce(images, texts, scale, group)
    return siglip(images, texts, scale, bias, group)


def _theirs(name: str, images, texts, scale, bias, **options) -> torch.Tensor:
    import_timm()  # what open_clip imports meets the same torchvision
    from open_clip.loss import ClipLoss, SigLipLoss

    if name == "infonce":
        return ClipLoss(local_loss=True, gather_with_grad=True, **options)(images, texts, scale)
    return SigLipLoss(**options)(images, texts, scale, bias)


def _value_and_gradients(loss, name: str, n: int, d: int, seed: int) -> list[torch.Tensor]:
    leaves = [*_vectors(n, d, seed), *_learned()]
    value = loss(name, *leaves)
    used = leaves if name == "siglip" else leaves[:3]
    return [value.detach(), *torch.autograd.grad(value, used)]


@pytest.mark.parametrize("name", ["infonce", "siglip"])
@given(n=st.integers(1, 40), d=st.integers(1, 9), seed=st.integers(0, 9), rows=st.integers(1, 50))
def test_values_and_gradients_are_open_clips(name, n, d, seed, rows):
    with pytest.MonkeyPatch.context() as patch:
        # So many rows at a time.
        patch.setattr(losses, "_MOST_AT_ONCE", rows * n)
        ours = _value_and_gradients(_ours, name, n, d, seed)
    theirs = _value_and_gradients(_theirs, name, n, d, seed)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["infonce", "siglip"])
def test_a_device_changes_nothing(name, device):
    def on_it(name, *leaves):
        return _ours(name, *(leaf.to(device) for leaf in leaves)).cpu()

    expected, found = (_value_and_gradients(loss, name, 300, 9, 0) for loss in (_ours, on_it))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def _in_process(rank: int, meeting: str, out: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    results = []
    for name in ("infonce", "siglip"):
        for loss, options in (
            (_ours, {"group": dist.group.WORLD}),
            (_theirs, {"rank": rank, "world_size": 2}),
        ):
            whole, learned = _vectors(10, 6, 3), _learned()
            own = [one.detach()[rank * 5 : rank * 5 + 5].requires_grad_() for one in whole]
            value = loss(name, *own, *learned, **options)
            value.backward()
            results.append([value.detach(), *(one.grad for one in own)])
    torch.save(results, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_the_whole_batch(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_in_process, args=(rank, str(tmp_path / "meet"), str(tmp_path)))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for index, name in enumerate(("infonce", "siglip")):
        whole = _value_and_gradients(_ours, name, 10, 6, 3)
        for rank in range(2):
            ours, theirs = results[rank][2 * index : 2 * index + 2]
            for our, their in zip(ours, theirs, strict=True):
                torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9)
            for gradient, of_all in zip(ours[1:], whole[1:3], strict=True):
                # The mean over processes, as DistributedDataParallel takes it.
                torch.testing.assert_close(gradient / 2, of_all[rank * 5 : rank * 5 + 5])
        mean = sum(result[2 * index][0] for result in results) / 2
        torch.testing.assert_close(mean, whole[0])


def test_no_more_similarities_are_held_than_said():
    held = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                held.append(result.numel())
            return result

    images, texts = (torch.randn(600, 8, requires_grad=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr(losses, "_MOST_AT_ONCE", 50 * 600)
        info_nce(images, texts, torch.tensor(10.0)).backward()
    assert max(held) == 50 * 600


def test_the_scale_is_clamped_as_clip_does():
    for start, end in ((9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        log_scale = torch.nn.Parameter(torch.tensor(start))
        clamp_log_scale(log_scale)
        assert log_scale.item() == pytest.approx(end)
