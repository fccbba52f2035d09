from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models.state_dicts import load_state_dict

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def assert_state(found):
    assert sorted(found) == sorted(STATE)
    for name, tensor in STATE.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".PTH"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_files(tmp_path, ending, wrapped):
    path = tmp_path / f"head{ending}"
    torch.save({"state_dict": STATE, "epoch": 3} if wrapped else STATE, path)
    assert_state(load_state_dict(path))


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "head.safetensors")
    assert_state(load_state_dict(str(tmp_path / "head.safetensors")))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_is_never_executed(tmp_path, legacy):
    victim = tmp_path / "executed"
    path = tmp_path / "head.pth"
    torch.save({"x": Malicious(str(victim))}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"head\.pth .*never unpickled") as caught:
        load_state_dict(path)
    assert "weights_only" not in str(caught.value)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(str(victim))))
    with pytest.raises(WeightsError):
        load_state_dict(tmp_path / "plain.pt")
    assert not victim.exists()
    # The attack itself works, or this test would show nothing.
    pickle.loads(pickle.dumps(Malicious(str(victim))))
    assert victim.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.zip", "a.bin"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(40)])
def test_broken_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_state_dict(tmp_path / name)


def test_truncated_files(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    save_file(STATE, tmp_path / "a.safetensors")
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        for keep in range(0, len(whole), 97):
            path.write_bytes(whole[:keep])
            with pytest.raises(WeightsError):
                load_state_dict(path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {1: torch.ones(1)}, {"state_dict": {"a": [1]}}, torch.ones(2)]
)
def test_what_holds_more_or_less_than_tensors(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth"):
        load_state_dict(tmp_path / "a.pth")


def test_other_endings_and_absent_files(tmp_path):
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        load_state_dict(tmp_path / "a.h5")
    with pytest.raises(WeightsError, match="is not a file"):
        load_state_dict(tmp_path / "a.pth")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"a\.zip is neither of the two"):
        load_state_dict(tmp_path / "a.zip")
