"""From pairs of near-duplicates to decisions: which rows go, and which row stands for each.

Rows are named by their rank here, so that "earlier" is "smaller". On the chain A ~ B ~ C, where
A and C are not near enough, in the order A, B, C:

============  =======  =======================================================
rule          removed  why
============  =======  =======================================================
greedy        B        A is kept and near B; C's only neighbour B was removed
reference     B, C     each has an earlier neighbour, removed or not
components    B, C     one row of each connected component is kept
============  =======  =======================================================

In the order B, A, C all three remove A and C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nemo_image_curate.errors import ConfigError

RULES = ("greedy", "reference", "components")


def check_rule(rule: str) -> None:
    """Refuse a rule that does not exist.

    Raises
    ------
    ConfigError
    """
    if rule not in RULES:
        raise ConfigError(f"rule={rule!r} should be one of {', '.join(map(repr, RULES))}.")


@dataclass(frozen=True)
class Pairs:
    """Near-duplicates: each row with rows that come before it in the keep order.

    Attributes
    ----------
    later, earlier : numpy.ndarray of int64, shape (p,)
        Ranks, ``earlier < later``.
    similarity : numpy.ndarray of float32, shape (p,)
    """

    later: np.ndarray
    earlier: np.ndarray
    similarity: np.ndarray

    def where(self, mask: np.ndarray) -> Pairs:
        """Those pairs that a mask of bool, shape (p,), has."""
        return Pairs(self.later[mask], self.earlier[mask], self.similarity[mask])

    def sorted(self) -> Pairs:
        """Each pair once, by `later`, then `earlier`."""
        order = np.lexsort((self.earlier, self.later))
        later, earlier = self.later[order], self.earlier[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])
        return Pairs(later[first], earlier[first], self.similarity[order][first])


@dataclass(frozen=True)
class Decisions:
    """What became of each row, by rank.

    Attributes
    ----------
    duplicate_of : numpy.ndarray of int64, shape (n,)
        The rank of the row that stands for it; -1 for rows that are kept.
    similarity : numpy.ndarray of float32, shape (n,)
        With that row; NaN for rows that are kept, and where it is not known.
    """

    duplicate_of: np.ndarray
    similarity: np.ndarray


def decide(rule: str, pairs: Pairs, n: int) -> Decisions:
    """Apply a rule to all pairs there are.

    Parameters
    ----------
    rule : {"greedy", "reference", "components"}
        ``greedy``: in keep order, a row goes when a kept row is near it, and the first such row
        stands for it. ``reference`` (SemDeDup, Abbas et al. 2023): a row goes when any earlier
        row is near it; the first of them stands for it, though it may be removed itself.
        ``components``: of each connected component the first row is kept.
    pairs : Pairs
    n : int
        How many rows there are.
    """
    if rule == "greedy":
        state = GreedyState(n)
        state.settle(pairs, np.empty(0, dtype=np.int64))
        return state.decisions(pairs)
    pairs = pairs.sorted()
    if rule == "components":
        first = component_firsts(pairs.later, pairs.earlier, n)
        duplicate_of = np.where(first == np.arange(n), -1, first)
        similarity = np.full(n, np.nan, dtype=np.float32)
        direct = duplicate_of[pairs.later] == pairs.earlier
        similarity[pairs.later[direct]] = pairs.similarity[direct]
        return Decisions(duplicate_of, similarity)
    return first_of_each(pairs, n)


def first_of_each(pairs: Pairs, n: int) -> Decisions:
    """Every row that has a pair is removed, for the first of its partners; `pairs` are sorted."""
    duplicate_of = np.full(n, -1, dtype=np.int64)
    similarity = np.full(n, np.nan, dtype=np.float32)
    later, where = np.unique(pairs.later, return_index=True)
    duplicate_of[later] = pairs.earlier[where]
    similarity[later] = pairs.similarity[where]
    return Decisions(duplicate_of, similarity)


class GreedyState:
    """Which rows the greedy rule keeps, as far as it is known.

    Parameters
    ----------
    n : int

    Attributes
    ----------
    kept, removed : numpy.ndarray of bool, shape (n,)
    """

    def __init__(self, n: int):
        self.kept = np.zeros(n, dtype=bool)
        self.removed = np.zeros(n, dtype=bool)

    @property
    def open(self) -> np.ndarray:
        """Rows that nothing is decided of."""
        return ~(self.kept | self.removed)

    def settle(self, pairs: Pairs, truncated: np.ndarray) -> None:
        """Decide all that the pairs tell.

        A row is removed when a kept row is near it, and kept when all that are near it and earlier
        are removed: the lexicographically first maximal independent set, in rounds (Blelloch,
        Fineman and Shun, "Greedy sequential maximal independent set and matching are parallel on
        average", 2012).

        Parameters
        ----------
        pairs : Pairs
            For each open row the first of its earlier neighbours that are not removed.
        truncated : numpy.ndarray of int64
            Rows that have more such neighbours than `pairs` holds.
        """
        n = len(self.kept)
        incomplete = np.zeros(n, dtype=bool)
        incomplete[truncated] = True
        later, earlier = pairs.later, pairs.earlier
        while True:
            live = self.open[later] & ~self.removed[earlier]
            later, earlier = later[live], earlier[live]
            doomed = np.zeros(n, dtype=bool)
            doomed[later[self.kept[earlier]]] = True
            waiting = incomplete.copy()
            waiting[later] = True
            free = self.open & ~waiting
            if not (doomed.any() or free.any()):
                return
            self.removed |= doomed
            self.kept |= free

    def decisions(self, pairs: Pairs) -> Decisions:
        """What became of each row, when all is settled: the first kept row near it stands for it.

        Parameters
        ----------
        pairs : Pairs
            All that rows were settled by.
        """
        return first_of_each(pairs.where(self.kept[pairs.earlier]).sorted(), len(self.kept))


def component_firsts(later: np.ndarray, earlier: np.ndarray, n: int) -> np.ndarray:
    """For each row the smallest row of its connected component."""
    # Here, since SciPy takes a second and 60 MB of each process that imports it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(later), dtype=bool)
    graph = coo_array((ones, (later, earlier)), shape=(n, n))
    count, labels = connected_components(graph, directed=False)
    # Labels in rising order of row: the first row that has a label is the component's smallest.
    first = np.full(count, n, dtype=np.int64)
    np.minimum.at(first, labels, np.arange(n))
    firsts: np.ndarray = first[labels]
    return firsts
