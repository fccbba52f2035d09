"""From query vectors to what is shown: fetched from all that is searched, fused and collapsed."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from nemo_image_curate.index.hits import Hit, Searchable
from nemo_image_curate.search.captions import CaptionIndex
from nemo_image_curate.search.fusion import collapse, reciprocal_rank_fusion
from nemo_image_curate.search.query import Query

# How deep rankings are fused: what is further down would add less than 1 / 160 to a score.
_FUSED_DEPTH = 100
# More are fetched than shown when near-duplicates are to be hidden, and so many times more again
# when too many were.
_MORE = 4


class Job:
    """A query on its way to its answer.

    Parameters
    ----------
    query : Query
    searchables : sequence of Searchable
        What to search.
    captions : CaptionIndex or None
        For queries with ``fuse_captions``.

    Attributes
    ----------
    vector : numpy.ndarray of float32, shape (d,)
        To be set.
    example : Hit or None
        The stored image that others should be like; to be set.
    """

    vector: np.ndarray
    example: Hit | None = None

    def __init__(
        self, query: Query, searchables: Sequence[Searchable], captions: CaptionIndex | None
    ):
        self.query = query
        self.searchables = searchables
        self.captions = captions
        self.total = sum(map(len, searchables))

    def depth(self) -> int:
        """How many hits to fetch at first."""
        depth = self.query.k
        if self.query.collapse is not None:
            depth *= _MORE
        if self.query.like is not None:
            depth += 1
        if self.query.fuse_captions:
            depth = max(depth, _FUSED_DEPTH)
        return min(depth, self.total)

    def answer(self, nearest: list[Hit], depth: int) -> list[Hit]:
        """What to show, as far as it can be told from the `depth` nearest."""
        query, hits = self.query, nearest
        if query.fuse_captions:
            hits = self._fuse(hits, self._caption_hits(depth))
        if self.example is not None and query.over == "images":
            hits = [hit for hit in hits if hit.sample != self.example.sample]
        if query.collapse is not None:
            hits = collapse(hits, query.collapse, query.k)
        return [replace(hit, vector=None) for hit in hits[: query.k]]

    def _fuse(self, nearest: list[Hit], by_caption: list[Hit]) -> list[Hit]:
        hits = {hit.sample: hit for hit in [*by_caption, *nearest]}
        # Once each, also where a shard has a key twice.
        rankings = [
            list(dict.fromkeys(hit.sample for hit in ranked)) for ranked in (nearest, by_caption)
        ]
        scores = reciprocal_rank_fusion(rankings)
        fused = [replace(hits[sample], score=score) for sample, score in scores.items()]
        return sorted(fused, key=_best_first)

    def _caption_hits(self, depth: int) -> list[Hit]:
        """What the words of captions find, as far as it is searched and fulfils the condition."""
        assert self.captions is not None
        assert self.query.text is not None
        n = depth
        while True:
            samples = self.captions.search(self.query.text, n)
            rows = lookup(self.searchables, samples, self.query.where)
            hits = [hit for hit in rows if hit is not None]
            if len(hits) >= depth or len(samples) < n:
                return hits[:depth]
            n *= _MORE


def answers(jobs: Sequence[Job]) -> list[list[Hit]]:
    """What each job's query is answered, searched together where that changes nothing."""
    answered: list[list[Hit]] = [[] for _ in jobs]
    depths = {number: job.depth() for number, job in enumerate(jobs) if job.total}
    while depths:
        # What a query gets must not depend on those beside it: only queries that want as many
        # hits under the same condition are searched together.
        groups: dict[Hashable, list[int]] = {}
        for number, depth in depths.items():
            query = jobs[number].query
            same = (depth, query.over, query.where, query.collapse is None)
            groups.setdefault(same, []).append(number)
        for numbers in groups.values():
            depth = depths[numbers[0]]
            nearest = _nearest([jobs[number] for number in numbers], depth)
            for number, hits in zip(numbers, nearest, strict=True):
                job = jobs[number]
                answered[number] = job.answer(hits, depth)
                depths[number] = min(_MORE * depth, job.total)
                all_seen = len(hits) < depth or depth == job.total
                if all_seen or len(answered[number]) == job.query.k:
                    del depths[number]
    return answered


def _nearest(jobs: Sequence[Job], depth: int) -> list[list[Hit]]:
    """The `depth` nearest of jobs that search the same in the same way, from all they search."""
    vectors, query = np.stack([job.vector for job in jobs]), jobs[0].query
    lists = [
        searchable.nearest(vectors, depth, query.where, with_vectors=query.collapse is not None)
        for searchable in jobs[0].searchables
        if len(searchable)
    ]
    merged = (itertools.chain(*parts) for parts in zip(*lists, strict=True))
    return [sorted(hits, key=_best_first)[:depth] for hits in merged]


def _best_first(hit: Hit) -> float:
    """To sort by: equal hits stay in the order of what was searched first."""
    return -hit.score


def lookup(
    searchables: Sequence[Searchable],
    samples: Sequence[tuple[str | None, str]],
    where: str | None = None,
) -> list[Hit | None]:
    """Rows by shard and key, from the last that has one: that is a live store, if there is one.

    A sample whose shard is open is its image before it is the dataset's, whose hits have shards.
    """
    hits: list[Hit | None] = [None] * len(samples)
    for searchable in reversed(searchables):
        missing = [number for number, hit in enumerate(hits) if hit is None]
        rows = searchable.lookup([samples[number] for number in missing], where)
        for number, hit in zip(missing, rows, strict=True):
            hits[number] = hit
    return hits
