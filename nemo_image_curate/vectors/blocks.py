"""Vectors in files of a size that is worth a task of their own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

_BLOCK_ROWS = 8192


def write_blocks(arrays: Iterable[np.ndarray], folder: Path) -> list[Path]:
    """Join arrays of vectors, in their order, to ``.npy`` files of at least 8,192 rows.

    Parameters
    ----------
    arrays : iterable of numpy.ndarray, shape (m, d)
    folder : Path

    Returns
    -------
    list of Path
        ``block-00000.npy`` and so on; only the last one may be smaller.
    """
    blocks = list[Path]()
    waiting = list[np.ndarray]()

    def write() -> None:
        blocks.append(folder / f"block-{len(blocks):05d}.npy")
        np.save(blocks[-1], np.concatenate(waiting))
        waiting.clear()

    for array in arrays:
        waiting.append(array)
        if sum(map(len, waiting)) >= _BLOCK_ROWS:
            write()
    if waiting:
        write()
    return blocks
