"""Pairs of images whose hashes differ in few bits, by buckets of their substrings, on the workers.

See `nemo_image_curate.dedup.hamming`: a bucket holds the hashes of which the highest bits of one
substring are the same; those near to them are in it, or in buckets whose numbers differ in few
bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from nemo_image_curate.dedup.equals import codes, first_of_equals, send_partners
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.hamming import Search, plan_search
from nemo_image_curate.dedup.pairs import no_pairs, pair_table, send_pairs
from nemo_image_curate.dedup.staged import StagedRows, block_count

_BITS = 64


def find_pairs(
    values: Exchange, staged: StagedRows, columns: list[str], radius: int, progress: bool | None
) -> tuple[Exchange, Exchange]:
    """All pairs of images that are near and not equal, and which rows are equal to others.

    Parameters
    ----------
    values : Exchange
        As `equals.send_values` gives it.
    staged : StagedRows
    columns : list of str
        The hash, and that of the mirror image when mirrored ones count.
    radius : int
    progress : bool or None

    Returns
    -------
    pairs : Exchange
        To buckets of later rows; see `pairs.pair_table`. Similarity is 1 - distance /
        64, of the nearest of their hashes.
    followers : Exchange
        To the blocks of the rows that come first of equal ones, as ``partner``.
    """
    blocks, folder = len(staged.blocks), values.folder
    # Mirrored ones are looked for as images of their own.
    hashes = len(staged) * len(columns)
    search = plan_search(hashes, radius, block_count(hashes))
    followers = Exchange(folder, "followers", values.receivers, blocks)
    places = [
        (part, bucket)
        for part in range(len(search.parts))
        for bucket in range(1 << search.width(part))
    ]
    images = Exchange(folder, "images", values.receivers, len(places))
    arguments = [(values, columns, search, followers, staged.starts)] * values.receivers
    images.fill(_send_images, arguments, "group", progress)
    pairs = Exchange(folder, "pairs", len(places), blocks)
    compared = [(images, columns, search, *place) for place in places]
    pairs.fill(_compare, compared, "compare", progress)
    return pairs, followers


def _send_images(
    images: Exchange,
    sender: int,
    values: Exchange,
    columns: list[str],
    search: Search,
    followers: Exchange,
    starts: np.ndarray,
) -> None:
    """Send the first image of each hash to the buckets of all its substrings; runs on a worker."""
    table = values.read(sender)
    rows = table["row"].to_numpy()
    hashes = [codes(table[name]).astype(np.uint64) for name in columns]
    first = first_of_equals(hashes, table["rank"].to_numpy())
    later = np.flatnonzero(first != np.arange(len(first)))
    similarity = np.ones(len(later), dtype=np.float32)
    send_partners(followers, sender, rows[later], rows[first[later]], similarity, starts)
    firsts = np.flatnonzero(first == np.arange(len(first)))
    table = table.take(firsts)
    tables, receivers, offset = [], [], 0
    for part in range(len(search.parts)):
        for mirrored, column in enumerate(hashes):
            flags = pa.array(np.full(len(firsts), bool(mirrored)))
            tables.append(table.append_column("mirrored", flags))
            receivers.append(offset + search.buckets(part, column[firsts]))
        offset += 1 << search.width(part)
    images.write(sender, pa.concat_tables(tables), np.concatenate(receivers))


def _compare(
    pairs: Exchange,
    sender: int,
    images: Exchange,
    columns: list[str],
    search: Search,
    part: int,
    bucket: int,
) -> None:
    """Find the pairs of a bucket with itself and with later ones; runs on a worker."""
    left = _Images(images.read(sender), columns)
    tables = [no_pairs()]
    for other_bucket in search.partners(part, bucket):
        right = left
        if other_bucket != bucket:
            right = _Images(images.read(sender + other_bucket - bucket), columns)
        head = bucket ^ other_bucket
        for lefts, rights in search.pairs(part, left.looked_for, right.looked_for, head):
            tables.append(_pairs_of(left, lefts, right, rights))
    send_pairs(pairs, sender, pa.concat_tables(tables))


class _Images:
    """Images of one bucket, each as itself or as its mirror image.

    Attributes
    ----------
    looked_for : numpy.ndarray of uint64, shape (n,)
    """

    def __init__(self, table: pa.Table, columns: list[str]):
        self.rows = table["row"].to_numpy()
        self.ranks = table["rank"].to_numpy()
        self.mirrored = table["mirrored"].to_numpy(zero_copy_only=False)
        self.hashes = [codes(table[name]).astype(np.uint64) for name in columns]
        self.looked_for = np.where(self.mirrored, self.hashes[-1], self.hashes[0])


def _pairs_of(left: _Images, lefts: np.ndarray, right: _Images, rights: np.ndarray) -> pa.Table:
    # Two mirror images tell nothing new: they are compared as two images already.
    is_new = ~(left.mirrored[lefts] & right.mirrored[rights])
    is_new &= left.rows[lefts] != right.rows[rights]
    lefts, rights = lefts[is_new], rights[is_new]
    distance = np.minimum.reduce(list(_distances(left, lefts, right, rights)))
    similarity = (1 - distance / np.float32(_BITS)).astype(np.float32)
    return pair_table(
        left.rows[lefts], left.ranks[lefts], right.rows[rights], right.ranks[rights], similarity
    )


def _distances(
    left: _Images, lefts: np.ndarray, right: _Images, rights: np.ndarray
) -> Iterator[np.ndarray]:
    """Of two images, and of one with the other's mirror image."""
    plain, others = left.hashes[0][lefts], right.hashes[0][rights]
    yield np.bitwise_count(plain ^ others)
    if len(left.hashes) > 1:
        yield np.bitwise_count(plain ^ right.hashes[1][rights])
        yield np.bitwise_count(left.hashes[1][lefts] ^ others)
