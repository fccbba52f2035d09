"""The nearest of many unit vectors in files: exact, by blocks of products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_image_curate.vectors.nearest import COARSE_MARGIN, GRAIN, coarse
from nemo_image_curate.vectors.upload import joined

if TYPE_CHECKING:
    import torch

# Vectors of the files, and queries, whose products are held at once: on a CPU 32 MB in float32. A
# GPU multiplies in a millisecond what the host has as much work with whatever its size; 1 GB in
# bfloat16, and two to four times as much while candidates are chosen.
_COLUMNS = {"cpu": 4096, "cuda": 65_536}
_ROWS = {"cpu": 2048, "cuda": 8192}
# Pairs whose cosines are told in float64 at once: 64 MB of vectors with 512 values on a CPU.
_PAIRS = {"cpu": 8192, "cuda": 131_072}


def top_k(
    queries: torch.Tensor,
    files: Sequence[Path],
    k: int,
    device: str,
    exclude: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest vectors of each query by cosine, the nearest first.

    Candidates are found by products in bfloat16 where the device multiplies it natively, else in
    float32, with a margin for their rounding errors, and told in float64. So the result does not
    depend on how queries, or vectors, are divided.

    Parameters
    ----------
    queries : torch.Tensor, shape (m, d), float32
        Of length 1.
    files : sequence of Path
        ``.npy``, shape (n_i, d), float32, of length 1; a row is called by its number through all.
    k : int
    device : {"cpu", "cuda"}
    exclude : numpy.ndarray of int64, shape (m,), optional
        A row that is no neighbour of the query, such as itself; -1 for none.

    Returns
    -------
    row_numbers : numpy.ndarray of int64, shape (m, k)
        Of equally near ones the lowest number first; -1 where there are fewer than `k`.
    cosines : numpy.ndarray of float32, shape (m, k)
        Rounded to multiples of `GRAIN`; NaN where there is no row.
    """
    best_rows = np.full((len(queries), k), -1, dtype=np.int64)
    best_cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
    queries = queries.to(device)
    coarse_queries = coarse(queries)
    for first, block in blocks_of(files, device):
        columns = coarse(block).T
        for start in range(0, len(queries), _ROWS[device]):
            chunk = slice(start, start + _ROWS[device])
            left_out = None if exclude is None else exclude[chunk] - first
            worst = best_cosines[chunk, -1]
            rows, places = _candidates(coarse_queries[chunk] @ columns, worst, k, left_out)
            if len(rows):
                cosines = _cosines(queries[chunk], rows, block, places)
                _merge(best_rows[chunk], best_cosines[chunk], rows, first + places, cosines)
    best_cosines[best_rows < 0] = np.nan
    return best_rows, best_cosines


def blocks_of(
    files: Sequence[Path], device: str, rows: int | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """The vectors of all files in blocks of some `rows`, each with the number of its first row.

    Parameters
    ----------
    files : sequence of Path
        ``.npy``, shape (n_i, d), float32.
    device : {"cpu", "cuda"}
    rows : int, optional
        At least so many in each block but the last, and less than twice as many. Default: what a
        device multiplies at once.
    """
    rows = rows or _COLUMNS[device]
    first, waiting = 0, list[np.ndarray]()
    for file in files:
        vectors = np.load(file, mmap_mode="r")
        for start in range(0, len(vectors), rows):
            waiting.append(vectors[start : start + rows])
            if sum(map(len, waiting)) >= rows:
                block = joined(waiting, device)
                yield first, block
                first += len(block)
                waiting.clear()
    if waiting:
        yield first, joined(waiting, device)


def _candidates(
    products: torch.Tensor, worst: np.ndarray, k: int, left_out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of all products that may be one of the `k` best of their row.

    Parameters
    ----------
    products : torch.Tensor, shape (m, n)
    worst : numpy.ndarray of float32, shape (m,)
        The last of the `k` best cosines so far; -inf while there are fewer. Rows before come first
        among equals: what is not more than the worst is none of the best.
    k : int
    left_out : numpy.ndarray of int64, shape (m,), optional
        Columns that do not count; those outside are none.
    """
    import torch

    margin = _margin(products)
    # Nothing is nearer than a copy.
    alive = np.flatnonzero((_row_maxima(products) >= worst - margin) & (worst < 1))
    if not len(alive):
        return alive, alive
    bound = worst[alive] - margin
    of_rows = products if len(alive) == len(products) else products[torch.from_numpy(alive)]
    new = np.flatnonzero(np.isneginf(worst[alive]))
    kth = k + (left_out is not None)
    if len(new) and kth <= of_rows.shape[1]:
        # Both this product and that of a candidate may be off.
        bound[new] = _largest(of_rows[torch.from_numpy(new)], kth) - 2 * margin
    bounds = torch.from_numpy(bound).to(products.device)[:, None]
    # Compared in float32.
    rows, columns = (of_rows >= bounds).nonzero().cpu().numpy().T
    rows = alive[rows]
    if left_out is not None:
        counts = columns != left_out[rows]
        rows, columns = rows[counts], columns[counts]
    return rows, columns


def _largest(products: torch.Tensor, k: int) -> np.ndarray:
    """The `k`-th largest value of each row, in float32."""
    if products.is_cuda:
        return np.asarray(products.topk(k, dim=1).values[:, -1].float().cpu())
    values = products.float().numpy()
    kth: np.ndarray = np.partition(values, -k, axis=1)[:, -k] if k > 1 else values.max(axis=1)
    return kth


def _margin(products: torch.Tensor) -> float:
    """How far a product may be from the cosine: its rounding, and that of the result."""
    import torch

    # In float32 a sum of d products, |x| |y| = 1, is off by at most d 2^-24 (Higham, "Accuracy and
    # stability of numerical algorithms", 2002, section 3.1); here for up to 8,192 values.
    error = COARSE_MARGIN if products.dtype == torch.bfloat16 else 8192 * 2.0**-24
    return error + GRAIN


def _row_maxima(products: torch.Tensor) -> np.ndarray:
    """The largest value of each row, in float32."""
    import torch

    if products.is_cuda:
        return np.asarray(products.amax(dim=1).float().cpu())
    if products.dtype != torch.bfloat16:
        return np.asarray(products.numpy().max(axis=1))
    # As integers, positive floats have the same order, and maxima of integers are found many times
    # as fast on a CPU (measured).
    integers = products.view(torch.int16).amax(dim=1)
    maxima: np.ndarray = integers.view(torch.bfloat16).float().numpy()
    negative = np.flatnonzero(integers.numpy() < 0)
    if len(negative):
        maxima[negative] = products[torch.from_numpy(negative)].float().numpy().max(axis=1)
    return maxima


def _cosines(
    queries: torch.Tensor, rows: np.ndarray, vectors: torch.Tensor, columns: np.ndarray
) -> np.ndarray:
    """Cosines of pairs in float64, rounded to multiples of `GRAIN`."""
    import torch

    parts = []
    step = _PAIRS[queries.device.type]
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        x, y = queries[torch.from_numpy(rows[pairs])], vectors[torch.from_numpy(columns[pairs])]
        parts.append(torch.linalg.vecdot(x.double(), y.double()))
    cosines = ((torch.cat(parts) / GRAIN).round() * GRAIN).clamp(-1, 1)
    rounded: np.ndarray = cosines.float().cpu().numpy()
    return rounded


def _merge(
    best_rows: np.ndarray,
    best_cosines: np.ndarray,
    rows: np.ndarray,
    numbers: np.ndarray,
    cosines: np.ndarray,
) -> None:
    """Put what is better into the `k` best of each row, in place.

    Numbers ascend within each row, and are higher than those that are there.

    Parameters
    ----------
    best_rows, best_cosines : numpy.ndarray, shape (m, k)
    rows, numbers, cosines : numpy.ndarray, shape (p,)
        For a row of these, a neighbour's number and its cosine.
    """
    k = best_rows.shape[1]
    touched = np.unique(rows)
    rows = np.concatenate([np.repeat(touched, k), rows])
    numbers = np.concatenate([best_rows[touched].reshape(-1), numbers])
    cosines = np.concatenate([best_cosines[touched].reshape(-1), cosines])
    # Cosines are multiples of GRAIN, so that one integer tells the row, then which are nearest;
    # empty places, of -inf, come last. Equal ones stay in order: the lowest number first. Sorting
    # by two or three keys takes nine times as long (measured).
    farness = np.where(np.isneginf(cosines), 2 / GRAIN + 1, (1 - cosines) / GRAIN)
    order = np.argsort(rows * int(4 / GRAIN) + farness.astype(np.int64), kind="stable")
    starts = np.searchsorted(rows[order], touched)
    places = order[starts[:, None] + np.arange(k)]
    best_rows[touched], best_cosines[touched] = numbers[places], cosines[places]
