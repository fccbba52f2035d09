"""Arrays of vectors to a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Rows that are copied at once: 32 MB with 1,024 values. torch keeps pinned memory for good.
_ROWS = 8192


def joined(arrays: Sequence[np.ndarray], device: str) -> torch.Tensor:
    """The rows of all arrays in their order.

    Parameters
    ----------
    arrays : sequence of numpy.ndarray, shape (m_i, d), float32
        At least one; they may be mapped from files.
    device : {"cpu", "cuda"}
    """
    import torch

    if device == "cpu":
        # A copy: what is mapped may not be written to, of which torch warns.
        return torch.from_numpy(np.concatenate(arrays))
    rows = torch.empty(sum(map(len, arrays)), arrays[0].shape[1], device=device)
    start = 0
    for array in arrays:
        for first in range(0, len(array), _ROWS):
            part = array[first : first + _ROWS]
            # From pinned memory the device copies by itself, while the next rows are read. torch
            # gives that memory to nobody else before this is done.
            pinned = torch.empty(part.shape, pin_memory=True)
            pinned.numpy()[:] = part
            rows[start : start + len(part)].copy_(pinned, non_blocking=True)
            start += len(part)
    return rows
