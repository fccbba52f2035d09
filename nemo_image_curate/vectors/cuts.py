"""The lowest values of each of many groups, found by counting: no value leaves its file.

A radix selection: the bits of the value that ends each group's share are decided some at a time,
by how many values begin with them (Alabi et al., "Fast k-selection algorithms for graphics
processing units", 2012). What one machine holds is a number for each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dask
import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.errors import DatasetError

# Bits of a value.
_BITS = 64
_ALL = np.uint64(2**64 - 1)
# Counters at most at once, 8 bytes each, as far as groups have 16; and bits decided at most.
_COUNTERS = 2**20
_STEP_BITS = (4, 16)
# Tasks of a step, each of which adds up the counts of its files.
_TASKS = 32


def ordered(values: np.ndarray) -> np.ndarray:
    """Floating-point numbers as unsigned integers in the same order; NaN last.

    Parameters
    ----------
    values : numpy.ndarray, shape (m,)

    Returns
    -------
    numpy.ndarray of uint64, shape (m,)
    """
    # Zero has two signs, and one value.
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.uint64)
    negative = bits >> np.uint64(63) == 1
    sortable = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    unsigned: np.ndarray = np.where(np.isnan(values), _ALL, sortable)
    return unsigned


class Cuts:
    """Where each group's share ends.

    Parameters
    ----------
    last : numpy.ndarray of uint64, shape (k, c)
        A value between the last of the share and the first after it, in c columns, of which the
        first counts most; the share includes it.
    empty : numpy.ndarray of bool, shape (k,)
        The share has none.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, last: np.ndarray, empty: np.ndarray):
        self.last = last
        self.empty = empty

    def includes(self, groups: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Whether rows belong to the share of their group.

        Parameters
        ----------
        groups : numpy.ndarray of int, shape (m,)
            Negative: none.
        values : numpy.ndarray of uint64, shape (c, m)

        Returns
        -------
        numpy.ndarray of bool, shape (m,)
        """
        if not len(self.last):
            return np.zeros(len(groups), dtype=bool)
        included = np.ones(len(groups), dtype=bool)
        # From the column that counts least.
        for column, last in zip(values[::-1], self.last.T[::-1], strict=True):
            cut = last[groups]
            included = (column < cut) | ((column == cut) & included)
        included &= (groups >= 0) & ~self.empty[groups]
        return included

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        with storage.atomic_write(str(path)) as file:
            np.savez(file, last=self.last, empty=self.empty)

    @classmethod
    def load(cls, path: Path) -> Cuts:
        """What was saved."""
        with np.load(path) as arrays:
            return cls(arrays["last"], arrays["empty"])


def write_values(path: Path, groups: np.ndarray, values: np.ndarray) -> None:
    """Write what `lowest` reads.

    Parameters
    ----------
    path : Path
    groups : numpy.ndarray of int, shape (m,)
        Below 0: of no group.
    values : numpy.ndarray of uint64, shape (c, m)
    """
    with storage.atomic_write(str(path)) as file:
        np.savez(file, groups=groups.astype(np.int64), values=values)


def lowest(
    paths: Sequence[Path], quotas: np.ndarray, folder: Path, what: str, progress: bool | None
) -> Cuts:
    """The cuts below which each group has as many values as its quota.

    Parameters
    ----------
    paths : sequence of path
        Files of `write_values`, which all workers see.
    quotas : numpy.ndarray of int64, shape (k,)
        At most as many as the group has.
    folder : path
        For what workers are told; on a file system that they share.
    what : str
        What is being done, for the progress bar and messages.
    progress : bool or None

    Returns
    -------
    Cuts

    Raises
    ------
    DatasetError
        When values on both sides of a cut are equal in all columns.
    """
    with np.load(paths[0]) as first:
        columns = len(first["values"])
    last = np.zeros((len(quotas), columns), dtype=np.uint64)
    missing = np.array(quotas, dtype=np.int64)
    search = _Search(folder / "cuts.npz", last, missing > 0)
    tasks = [paths[start::_TASKS] for start in range(min(_TASKS, len(paths)))]
    for column in range(columns):
        shift = _BITS
        while shift and len(groups := np.flatnonzero(search.open)):
            bits = min(shift, search.step_bits())
            shift -= bits
            counts = search.counts(tasks, column, shift, bits, what, progress)
            _decide(search, groups, counts, missing, column, shift)
    search.path.unlink(missing_ok=True)
    if search.open.any():
        raise DatasetError(
            f"{what}: rows with the same key and shard are there more than once, so that one of "
            "them cannot be chosen without the other. Have each sample once in the dataset."
        )
    return Cuts(last, np.asarray(quotas) <= 0)


class _Search:
    """Groups whose cut is not decided yet, and the bits of it that are."""

    def __init__(self, path: Path, last: np.ndarray, is_open: np.ndarray):
        self.path = path
        self.last = last
        self.open = is_open

    def step_bits(self) -> int:
        """How many bits to decide next."""
        least, most = _STEP_BITS
        return int(np.clip(int(_COUNTERS // self.open.sum()).bit_length() - 1, least, most))

    def counts(
        self,
        tasks: Sequence[Sequence[Path]],
        column: int,
        shift: int,
        bits: int,
        what: str,
        progress: bool | None,
    ) -> np.ndarray:
        """How many values begin with the bits decided, by open group and the next bits."""
        with storage.atomic_write(str(self.path)) as file:
            np.savez(file, last=self.last, open=self.open)
        call = dask.delayed(_count, pure=False)
        labels = [f"files {number}" for number in range(len(tasks))]
        calls = [call(paths, self.path, column, shift, bits) for paths in tasks]
        counts = np.zeros(int(self.open.sum()) << bits, dtype=np.int64)
        for places, numbers in jobs.compute_all(calls, labels, what, progress):
            counts[places] += numbers
        return counts.reshape(-1, 1 << bits)


def _decide(
    search: _Search,
    groups: np.ndarray,
    counts: np.ndarray,
    missing: np.ndarray,
    column: int,
    shift: int,
) -> None:
    """Decide the next bits of open groups, and close those whose share ends with them."""
    sums = counts.cumsum(axis=1)
    digit = (sums < missing[groups, None]).sum(axis=1)
    rows = np.arange(len(groups))
    among = counts[rows, digit]
    missing[groups] -= sums[rows, digit] - among
    search.last[groups, column] |= digit.astype(np.uint64) << np.uint64(shift)
    ended = groups[among == missing[groups]]
    search.open[ended] = False
    # All values that begin with these bits belong to the share.
    search.last[ended, column] |= np.uint64((1 << shift) - 1)
    search.last[ended, column + 1 :] = _ALL


def _count(
    paths: Sequence[Path], search: Path, column: int, shift: int, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count the values of some files by open group and next bits; runs on a worker.

    Returns
    -------
    places : numpy.ndarray of int64
        Counters that are not zero.
    counts : numpy.ndarray of int64
        What they are.
    """
    with np.load(search) as arrays:
        last, is_open = arrays["last"], arrays["open"]
    counter_row = np.cumsum(is_open) - 1
    counts = np.zeros(int(is_open.sum()) << bits, dtype=np.int64)
    for path in paths:
        with np.load(path) as arrays:
            groups, values = arrays["groups"], arrays["values"]
        rows = np.flatnonzero((groups >= 0) & is_open[groups])
        groups, values = groups[rows], values[: column + 1, rows]
        same = (values[:column] == last[groups, :column].T).all(axis=0)
        if shift + bits < _BITS:
            above = np.uint64(shift + bits)
            same &= values[column] >> above == last[groups, column] >> above
        digits = (values[column, same] >> np.uint64(shift)) & np.uint64((1 << bits) - 1)
        places = (counter_row[groups[same]] << bits) + digits.astype(np.int64)
        counts += np.bincount(places, minlength=len(counts))
    places = np.flatnonzero(counts)
    return places, counts[places]
