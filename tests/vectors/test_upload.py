from __future__ import annotations

import numpy as np
import pytest
import torch

from nemo_image_curate.vectors import upload


@pytest.mark.parametrize("sizes", [[5], [0], [3, 0, 8, 1], [20, 21]])
def test_arrays_are_joined_in_their_order(tmp_path, sizes, device, monkeypatch):
    monkeypatch.setattr(upload, "_ROWS", 4)
    values = np.arange(3 * sum(sizes), dtype=np.float32).reshape(-1, 3)
    arrays = np.split(values, np.cumsum(sizes)[:-1])
    np.save(tmp_path / "first.npy", arrays[0])
    arrays[0] = np.load(tmp_path / "first.npy", mmap_mode="r" if sizes[0] else None)
    rows = upload.joined(arrays, device)
    assert rows.device.type == device
    assert rows.dtype == torch.float32
    np.testing.assert_array_equal(rows.cpu().numpy(), values)
