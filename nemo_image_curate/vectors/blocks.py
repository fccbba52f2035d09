"""Vectors in files, and Dask tasks that each work on one of the files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.vectors.upload import joined

if TYPE_CHECKING:
    import torch

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


class Block:
    """One file of vectors, as a task sees it.

    Parameters
    ----------
    path : Path
        ``.npy``, shape (m, d), float32.
    device : {"cpu", "cuda"}
    origin : numpy.ndarray of float32, shape (d,), optional
        Subtracted from each vector, as products in float32 do not tell vectors apart that are far
        from zero. None: the vectors are of length 1, and taken as they are.
    scale : float
        What they are divided by then: a power of two, so that no digit is lost, and no value
        exceeds 1.
    start : int, default 0
        How many vectors the files before it have.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(
        self,
        path: Path,
        device: str,
        origin: np.ndarray | None,
        scale: float,
        start: int = 0,
    ):
        self.path = path
        self.device = device
        self.origin = origin
        self.scale = scale
        self.start = start

    @property
    def spherical(self) -> bool:
        """Whether the vectors are of length 1."""
        return self.origin is None

    def rows(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Some of the vectors, shifted and scaled."""
        vectors = np.load(self.path, mmap_mode="r")[numbers]
        return np.array(vectors) if self.origin is None else (vectors - self.origin) / self.scale

    def vectors(self) -> torch.Tensor:
        """All of them, shifted and scaled, on the device."""
        mapped = self.origin is None
        rows = np.load(self.path, mmap_mode="r") if mapped else self.rows(slice(None))
        return joined([rows], self.device)


class Blocks:
    """All of the files, as the client sees them.

    Parameters
    ----------
    paths : sequence of path
    folder : Path
        Where tasks find the centroids that they work with.
    device : {"cpu", "cuda"}
    progress : bool or None
    spherical : bool
        Vectors are of length 1. If not, their mean and extent are found first.

    Attributes
    ----------
    sizes : list of int
        How many vectors each file has.
    dim : int
        Their length.
    variance : float
        Mean squared distance of the vectors from their mean, scaled; 1 when `spherical`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        folder: Path,
        device: str,
        progress: bool | None,
        spherical: bool,
    ):
        self._labels = [str(path) for path in paths]
        self._progress = progress
        self._step = folder / "step.npy"
        shapes = [np.load(path, mmap_mode="r").shape for path in paths]
        self.sizes, self.dim = [rows for rows, _ in shapes], shapes[0][1]
        origin, scale, self.variance = None, 1.0, 1.0
        if not spherical:
            origin, scale, self.variance = self._extent(paths)
        starts = np.cumsum([0, *self.sizes[:-1]]).tolist()
        self._blocks = [
            Block(path, device, origin, scale, start)
            for path, start in zip(paths, starts, strict=True)
        ]

    def _extent(self, paths: Sequence[Path]) -> tuple[np.ndarray, float, float]:
        sums, squares, least, most = zip(*self._map(_moments, paths), strict=True)
        mean = np.sum(sums, axis=0) / sum(self.sizes)
        reach = max((mean - np.min(least, axis=0)).max(), (np.max(most, axis=0) - mean).max())
        scale = 2.0 ** math.ceil(math.log2(reach)) if reach else 1.0
        variance = np.sum(squares) / sum(self.sizes) - mean @ mean
        return mean.astype(np.float32), scale, float(variance) / scale**2

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Vectors by their number, counted through all files; in the order of the files."""
        rows = []
        for block, size in zip(self, self.sizes, strict=True):
            start = block.start
            within = numbers[(numbers >= start) & (numbers < start + size)] - start
            rows.append(block.rows(np.sort(within)))
        return np.concatenate(rows)

    def original(self, rows: np.ndarray) -> np.ndarray:
        """Rows as they would be without shift and scale."""
        first = self._blocks[0]
        return rows if first.origin is None else rows * first.scale + first.origin

    def shifted(self, rows: np.ndarray) -> np.ndarray:
        """Rows with shift and scale, as blocks have them; undoes `original`."""
        first = self._blocks[0]
        return rows if first.origin is None else (rows - first.origin) / first.scale

    def close(self) -> None:
        """Remove the file of the centroids."""
        self._step.unlink(missing_ok=True)

    def map(self, function: Callable[..., Any], centroids: np.ndarray, *args: Any) -> list[Any]:
        """``function(block, file of the centroids, *args)`` for each block."""
        with storage.atomic_write(str(self._step)) as file:
            np.save(file, centroids)
        return self._map(function, self._blocks, self._step, *args)

    def _map(self, function: Callable[..., Any], inputs: Sequence[Any], *args: Any) -> list[Any]:
        task = dask.delayed(function, pure=False)
        tasks = [task(argument, *args) for argument in inputs]
        return jobs.compute_all(tasks, self._labels, "k-means", self._progress)


def _moments(path: Path) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """A file's sum, sum of squares, and each column's least and most; runs on a worker."""
    vectors = np.load(path)
    least, most = vectors.min(axis=0, initial=np.inf), vectors.max(axis=0, initial=-np.inf)
    squares = float(np.square(vectors, dtype=np.float64).sum())
    return vectors.sum(axis=0, dtype=np.float64), squares, least, most
