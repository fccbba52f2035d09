"""The kinds of index: which one fits a number of vectors, and what it takes.

``flat`` compares a query with all vectors, in float32. ``ivf`` looks only at the lists whose
centres are nearest to the query (Jégou et al., "Product quantization for nearest neighbor
search", 2011). There a vector is kept as its principal components, rotated at random so that all
carry the same weight, in one byte each; the best candidates are scored again with whole vectors
in float16, which lie in a file that is mapped.

Measured at recall 0.95 among 1,000,000 vectors of 512 values whose spectrum falls like
1 / sqrt(i), without clusters, one core: 128 components of one byte 0.9 ms and 140 MB. All 512 in
one byte (SQ8) 3.0 ms and 524 MB; RaBitQ of 1, 2, 4 and 7 bits with re-ranking 1.2, 1.2, 2.3 and
4.3 ms; product quantisation of 4 bits with FastScan does not get there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nemo_image_curate.errors import ConfigError

KINDS = ("flat", "ivf", "cuvs")
# Up to here all vectors are compared: 50,000 of 512 values take about 5 ms.
FLAT_ROWS = 50_000
# What leaving components out adds to the cosine of two vectors of the dataset: standard deviation.
# The candidates that are scored again make up for it.
TAIL_NOISE = 0.012
# Components at most and at least, in steps of what the processor takes at once.
MOST, LEAST, STEP = 256, 32, 16


@dataclass(frozen=True)
class Plan:
    """What an index will be, and what it will take.

    Attributes
    ----------
    kind : {"flat", "ivf", "cuvs"}
    count, dim : int
        Vectors and their length.
    lists : int
        0 for ``flat``.
    width : int
        Values that are kept in memory of each vector, at most.
    rerank : bool
        Whether whole vectors are kept in a file.
    """

    kind: str
    count: int
    dim: int
    lists: int
    width: int
    rerank: bool

    @property
    def memory_bytes(self) -> int:
        """Bytes of the index in memory; mapped files are not counted."""
        if self.kind == "flat":
            return self.count * self.dim * 4
        if self.kind == "cuvs":
            # On the GPU: vectors and a graph of 64 neighbours.
            return self.count * (self.dim * 2 + 64 * 4)
        # A code and a row number for each vector; without the file also where its code is.
        each = self.width + 8 + (0 if self.rerank else 8)
        return self.count * each + (self.lists + self.dim) * self.width * 4

    @property
    def disk_bytes(self) -> int:
        """Bytes of the vectors and codes on disk; the rows' columns come on top."""
        if self.kind == "flat":
            return self.memory_bytes
        whole = self.count * self.dim * 2 if self.rerank else 0
        if self.kind == "cuvs":
            return whole
        return self.count * (self.width + 8) + (self.lists + self.dim) * self.width * 4 + whole

    def __str__(self) -> str:
        how = {
            "flat": "all compared, exact",
            "ivf": f"up to {self.width} bytes each in {self.lists:,} lists"
            + (", re-ranked exactly" if self.rerank else ""),
            "cuvs": "a graph on the GPU",
        }[self.kind]
        return (
            f"{self.kind}: {self.count:,} vectors of {self.dim} values, {how}; about "
            f"{self.memory_bytes / 1e6:,.0f} MB in memory, {self.disk_bytes / 1e6:,.0f} MB on disk"
        )


def check_kind(kind: str, rerank: bool, target_recall: float, max_memory: int | None) -> None:
    """Refuse unusable settings with `ConfigError`."""
    if kind not in ("auto", *KINDS):
        raise ConfigError(f"kind={kind!r} should be one of 'auto', 'flat', 'ivf', 'cuvs'.")
    if not 0 < target_recall <= 1:
        raise ConfigError(f"target_recall={target_recall} should be above 0 and at most 1.")
    if max_memory is not None and max_memory < 1:
        raise ConfigError(f"max_memory={max_memory} should be a number of bytes, or None.")
    if kind == "cuvs" and not rerank:
        raise ConfigError("kind='cuvs' is built from the file of vectors; leave rerank=True.")


def choose(
    count: int, dim: int, kind: str = "auto", rerank: bool = True, max_memory: int | None = None
) -> Plan:
    """The index for so many vectors.

    Parameters
    ----------
    count, dim : int
    kind : {"auto", "flat", "ivf", "cuvs"}
        ``auto`` is ``flat`` up to 50,000 vectors that fit, else ``ivf``.
    rerank : bool
    max_memory : int, optional
        Bytes that the index may take in memory.

    Raises
    ------
    ConfigError
        When it would take more than `max_memory`, saying what would fit.
    """
    limit = math.inf if max_memory is None else max_memory
    flat = Plan("flat", count, dim, 0, dim, False)
    if kind == "flat" or (
        kind == "auto" and count <= FLAT_ROWS and (flat.memory_bytes <= limit or count < LEAST)
    ):
        return _fitting(flat, limit, "kind='ivf' takes less")
    if kind == "cuvs":
        return _fitting(Plan(kind, count, dim, 0, dim, True), limit, "kind='ivf' takes less")
    # Four times as many lists find no more among as many vectors looked at (measured), and their
    # centres have to be looked at, too. From 6,400 vectors on there are 40 to find each centre on.
    lists = max(1, min(round(2 * math.sqrt(count)), count // 40))
    if not rerank:
        # Nothing would make up for what is left out.
        plan = Plan("ivf", count, dim, lists, dim, False)
        return _fitting(plan, limit, "rerank=True takes less, and a file of vectors")
    widths = [width for width in range(MOST, LEAST - 1, -STEP) if width < dim]
    if dim <= MOST:
        widths.insert(0, dim)
    plans = [Plan("ivf", count, dim, lists, width, True) for width in widths or [dim]]
    fits = [plan for plan in plans if plan.memory_bytes <= limit]
    return fits[0] if fits else _fitting(plans[-1], limit, "it cannot be smaller")


def _fitting(plan: Plan, limit: float, remedy: str) -> Plan:
    if plan.memory_bytes > limit:
        raise ConfigError(
            f"max_memory={limit:,} is too little for {plan}. Allow {plan.memory_bytes:,}; {remedy}."
        )
    return plan
