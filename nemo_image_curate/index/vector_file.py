"""`VectorFile`: unit vectors in float16, in a file that is mapped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError

# Rows that are converted at once.
_ROWS = 8192


class VectorFile:
    """Vectors in float16, in a file that is mapped: only what is looked at is read.

    Parameters
    ----------
    path : Path
    dim : int
    count : int, optional
        How many there should be.

    Attributes
    ----------
    half : torch.Tensor, shape (n, d), float16
        The mapped file.

    Raises
    ------
    DatasetError
        When it holds another number of vectors.
    """

    def __init__(self, path: Path, dim: int, count: int | None = None):
        import torch

        size = os.stat(path).st_size
        if count is not None and size != 2 * dim * count:
            raise DatasetError(
                f"{path} is damaged: it has {size:,} bytes, which are not {count:,} vectors of "
                f"{dim} values. Build the index again."
            )
        rows = size // (2 * dim)
        # Copy-on-write, as torch wants memory that could be written to.
        mapped = np.memmap(path, dtype=np.float16, mode="c", shape=(rows, dim))
        # torch converts float16 ten times as fast as NumPy (measured).
        self.half = torch.from_numpy(mapped)

    def __len__(self) -> int:
        return len(self.half)

    def read(self, rows: np.ndarray | slice) -> np.ndarray:
        """Some vectors, shape (m, d), float32."""
        import torch

        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        vectors: np.ndarray = self.half[chosen].float().numpy()
        return vectors


def write_vectors(path: Path, arrays: Iterable[np.ndarray], before: Path | None = None) -> None:
    """Write vectors as float16, after those of another such file.

    Parameters
    ----------
    path : Path
    arrays : iterable of numpy.ndarray, shape (m, d), float32
    before : Path, optional
    """
    import torch

    with storage.atomic_write(str(path)) as file:
        if before is not None:
            with before.open("rb") as first:
                shutil.copyfileobj(first, file, 2**24)
        for vectors in arrays:
            for start in range(0, len(vectors), _ROWS):
                block = torch.tensor(vectors[start : start + _ROWS])
                file.write(block.half().numpy().data)
