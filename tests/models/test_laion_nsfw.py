from __future__ import annotations

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch

from nemo_image_curate.classifiers.laion_heads import HEADS
from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models import laion_nsfw
from nemo_image_curate.models.laion_nsfw import nsfw_state_dict
from tests.shared import SHARED, needs_shared

ARCHIVES = [head.weights for head in HEADS.values() if head.kind == "nsfw"]


def archive(content: bytes, name: str = "head/variables/variables.data-00000-of-00001") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("head/variables/variables.index", b"not looked at")
        members.writestr(name, content)
    return target.getvalue()


@needs_shared
@pytest.mark.parametrize(
    ("published", "converted"),
    [
        ("clip_autokeras_binary_nsfw.zip", "nsfw_vit_l_14.pth"),
        ("clip_autokeras_nsfw_b32.zip", "nsfw_vit_b_32.pth"),
    ],
)
def test_the_published_heads_convert_exactly(published, converted):
    expected = torch.load(SHARED / "weights" / converted, weights_only=True)
    state = nsfw_state_dict(SHARED / "weights" / published)
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], tensor.numpy(), strict=True)


def test_the_archives_are_those_that_the_classifiers_fetch():
    assert {weights.sha256 for weights in ARCHIVES} == set(laion_nsfw._WIDTHS)
    assert max(weights.size for weights in ARCHIVES) == laion_nsfw._LARGEST_BYTES


def test_tensors_lie_one_after_the_other(tmp_path, monkeypatch):
    """Mean, variance, a count of 8 bytes, then kernel and bias of each layer."""
    bundle = np.arange(64, dtype="<f4").tobytes()
    path = tmp_path / "a.zip"
    path.write_bytes(archive(bundle))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(laion_nsfw._WIDTHS, digest, (3, 2, 1))
    state = nsfw_state_dict(path)
    assert {name: array.tolist() for name, array in state.items()} == {
        "norm.mean": [0, 1, 2],
        "norm.variance": [3, 4, 5],
        "linear_1.weight": [[8, 10, 12], [9, 11, 13]],
        "linear_1.bias": [14, 15],
        "linear_2.weight": [[16, 17]],
        "linear_2.bias": [18],
    }
    for array in state.values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable, "torch takes no read-only memory"


@pytest.mark.parametrize("content", [b"", b"no zip", archive(bytes(862_476)), bytes(2_000_000)])
def test_any_other_file_is_refused_with_the_remedy(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"as LAION published.*\.safetensors") as caught:
        nsfw_state_dict(path)
    assert str(path) in str(caught.value)


@needs_shared
@pytest.mark.parametrize("weights", ARCHIVES, ids=lambda weights: weights.name)
def test_a_published_file_with_a_changed_byte_or_end_is_refused(tmp_path, weights):
    content = (SHARED / "weights" / weights.name).read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    path = tmp_path / weights.name
    for other in (bytes(changed), content[:-1], content + b"\0"):
        path.write_bytes(other)
        with pytest.raises(WeightsError):
            nsfw_state_dict(path)
