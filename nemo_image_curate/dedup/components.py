"""Connected components of more pairs than one machine holds.

The alternating algorithm of Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii, "Connected
components in MapReduce and beyond" (SoCC 2014): each row links its larger neighbours, then its
smaller ones, to the smallest row that it knows of, until components are stars around their
smallest rows. That takes a few rounds; each hands as many links around as there are rows in pairs,
or fewer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.pairs import bucket_of


def by_component(pairs: Exchange, progress: bool | None) -> Exchange:
    """The same pairs, all of a connected component in one bucket.

    Parameters
    ----------
    pairs : Exchange
        To buckets of later rows.
    progress : bool or None

    Returns
    -------
    Exchange
        To as many buckets.
    """
    count = pairs.receivers
    grouped = Exchange(pairs.folder, f"{pairs.name}-components", count, count)
    if all(grouped.path(sender).exists() for sender in range(count)):
        return grouped
    folder = pairs.folder / "links"
    # From an earlier run that was stopped; all of this takes less time than to find the pairs.
    shutil.rmtree(folder, ignore_errors=True)
    storage.make_dirs(str(folder))
    links = _step(folder, 0, count, _link_pairs, pairs, progress)[0]
    number, changed = 1, True
    while changed:
        low, raised = _step(folder, number, count, _link_larger, links, progress)
        links, lowered = _step(folder, number + 1, count, _link_smaller, low, progress)
        number, changed = number + 2, raised or lowered
    grouped.fill(_group, [(pairs, links)] * count, "group", progress)
    shutil.rmtree(folder)
    return grouped


def _step(
    folder: Path,
    number: int,
    count: int,
    function: Callable[..., bool],
    previous: Exchange,
    progress: bool | None,
) -> tuple[Exchange, bool]:
    """One step on all buckets: what they send, and whether anything is new."""
    links = Exchange(folder, f"step-{number}", count, count)
    call = dask.delayed(function, pure=False)
    tasks = [call(links, bucket, previous) for bucket in range(count)]
    labels = [f"bucket {bucket}" for bucket in range(count)]
    return links, any(jobs.compute_all(tasks, labels, "group", progress))


def _send(links: Exchange, sender: int, rows: np.ndarray, others: np.ndarray) -> None:
    table = pa.table({"row": rows, "other": others})
    links.write(sender, table, bucket_of(rows, links.receivers))


def _send_both_ways(links: Exchange, sender: int, rows: np.ndarray, others: np.ndarray) -> None:
    _send(links, sender, np.concatenate([rows, others]), np.concatenate([others, rows]))


def _link_pairs(links: Exchange, sender: int, pairs: Exchange) -> bool:
    """Begin with the pairs themselves; runs on a worker."""
    table = pairs.read(sender)
    _send_both_ways(links, sender, table["later"].to_numpy(), table["earlier"].to_numpy())
    return True


class _Neighbours:
    """The links of some rows, each once.

    Attributes
    ----------
    rows, others : numpy.ndarray of int64, shape (m,)
        By row, then other.
    smallest : numpy.ndarray of int64, shape (m,)
        The smallest other of each row.
    """

    def __init__(self, links: Exchange, receiver: int):
        table = links.read(receiver)
        rows, others = table["row"].to_numpy(), table["other"].to_numpy()
        order = np.lexsort((others, rows))
        rows, others = rows[order], others[order]
        new_row = np.ones(len(rows), dtype=bool)
        new_row[1:] = rows[1:] != rows[:-1]
        new = new_row.copy()
        new[1:] |= others[1:] != others[:-1]
        smallest = others[new_row][np.cumsum(new_row) - 1]
        self.rows, self.others, self.smallest = rows[new], others[new], smallest[new]


def _link_larger(links: Exchange, sender: int, previous: Exchange) -> bool:
    """Link each larger neighbour to the smallest row that is known; runs on a worker.

    Returns
    -------
    bool
        Whether a link is new.
    """
    near = _Neighbours(previous, sender)
    larger = near.others > near.rows
    rows, others = near.rows[larger], near.others[larger]
    smallest = np.minimum(near.smallest[larger], rows)
    _send(links, sender, others, smallest)
    return bool((smallest != rows).any())


def _link_smaller(links: Exchange, sender: int, previous: Exchange) -> bool:
    """Link a row and its neighbours, all of them smaller, to the smallest; runs on a worker.

    Returns
    -------
    bool
        Whether a link is new.
    """
    near = _Neighbours(previous, sender)
    others = near.others != near.smallest
    firsts = ~others
    _send_both_ways(
        links,
        sender,
        np.concatenate([near.rows[firsts], near.others[others]]),
        np.concatenate([near.smallest[firsts], near.smallest[others]]),
    )
    return bool(others.any())


def _group(grouped: Exchange, sender: int, pairs: Exchange, links: Exchange) -> None:
    """Send pairs to the bucket of their component; runs on a worker."""
    table, near = pairs.read(sender), _Neighbours(links, sender)
    rows, place = np.unique(near.rows, return_index=True)
    component = np.minimum(near.smallest[place], rows)
    of_pair = component[np.searchsorted(rows, table["later"].to_numpy())]
    grouped.write(sender, table, bucket_of(of_pair, grouped.receivers))
