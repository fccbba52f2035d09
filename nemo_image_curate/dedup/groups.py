"""Rows that are the same to a comparison, taken together: one decision for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_image_curate.dedup.rules import Decisions


@dataclass(frozen=True)
class Groups:
    """Rows with equal values; a group is named by the place of its first row in the keep order.

    Attributes
    ----------
    values : tuple of numpy.ndarray, each of shape (g,)
        What the rows of each group have in common.
    first : numpy.ndarray of int64, shape (g,)
        Rank of each group's first row; rising.
    ranks : numpy.ndarray of int64, shape (c,)
        The ranks of all compared rows; rising.
    group : numpy.ndarray of int64, shape (c,)
        Which group each of them is of.
    n : int
        How many rows there are, those that are not compared included.
    """

    values: tuple[np.ndarray, ...]
    first: np.ndarray
    ranks: np.ndarray
    group: np.ndarray
    n: int

    @classmethod
    def of(cls, columns: Sequence[np.ndarray], rank: np.ndarray, compared: np.ndarray) -> Groups:
        """Group rows that agree in all columns.

        Parameters
        ----------
        columns : sequence of numpy.ndarray, shape (n,)
            Of integers.
        rank : numpy.ndarray of int64, shape (n,)
        compared : numpy.ndarray of bool, shape (n,)
            Rows to leave out are False.
        """
        order = np.argsort(rank, kind="stable")
        order = order[compared[order]]
        ranked = [column[order] for column in columns]
        # Stable: of equal rows the first in keep order comes first.
        by_value = np.lexsort(ranked)
        new = np.ones(len(order), dtype=bool)
        if len(order):
            same = [column[by_value][1:] == column[by_value][:-1] for column in ranked]
            new[1:] = ~np.logical_and.reduce(same)
        firsts = by_value[new]
        name = np.empty(len(firsts), dtype=np.int64)
        name[np.argsort(firsts)] = np.arange(len(firsts))
        group = np.empty(len(order), dtype=np.int64)
        group[by_value] = name[np.cumsum(new) - 1]
        firsts = np.sort(firsts)
        values = tuple(column[firsts] for column in ranked)
        ranks = rank[order]
        return cls(values, ranks[firsts], ranks, group, len(rank))

    def expand(self, decisions: Decisions) -> Decisions:
        """From decisions about groups to decisions about rows.

        Rows of a group have the same neighbours and are near each other. So under each rule its
        later rows go: for the same row as its first, or where that one stays, for that one.
        """
        stands = decisions.duplicate_of[self.group]
        similarity = decisions.similarity[self.group]
        stays = stands < 0
        to = np.where(stays, self.first[self.group], self.first[stands])
        similarity = np.where(stays, np.float32(1), similarity)
        alone = to == self.ranks
        duplicate_of = np.full(self.n, -1, dtype=np.int64)
        all_similarity = np.full(self.n, np.nan, dtype=np.float32)
        duplicate_of[self.ranks] = np.where(alone, -1, to)
        all_similarity[self.ranks] = np.where(alone, np.float32(np.nan), similarity)
        return Decisions(duplicate_of, all_similarity)
