"""How many clusters to make, and what the work will take."""

from __future__ import annotations

import dataclasses
import math
import time

from nemo_image_curate.compute.client import parallelism
from nemo_image_curate.vectors.kmeans import MAX_ITER
from nemo_image_curate.vectors.nearest import coarse

# Vectors in the sample for each centroid: 40 find no more pairs (measured).
_SAMPLE = 25
_MIN_SAMPLE, _MAX_SAMPLE = 16384, 2_000_000
# Up to here all pairs are compared: it takes a second.
_BRUTE = 10_000


def choose_clusters(n: int) -> int:
    """How many clusters make the work least: assignment costs n k, comparison about n^2 / k."""
    return 1 if n <= _BRUTE else math.ceil(2 * math.sqrt(n))


def sample_size(n_clusters: int) -> int:
    """How many vectors to find so many clusters on."""
    return min(max(_SAMPLE * n_clusters, _MIN_SAMPLE), _MAX_SAMPLE)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a semantic deduplication is about to take, as far as it can be told before.

    Attributes
    ----------
    rows, dim, n_clusters : int
    multiply_adds : float
        Of clustering and comparing, when clusters are of equal size.
    disk_bytes : float
        Of the intermediate files, at most.
    seconds : float
        At the rate that this process multiplies matrices now, with all workers; reading and
        writing not included.
    """

    rows: int
    dim: int
    n_clusters: int
    multiply_adds: float
    disk_bytes: float
    seconds: float

    @classmethod
    def of(cls, rows: int, dim: int, n_clusters: int, n_probe: int, device: str) -> Cost:
        """The estimate, which measures the machine for some 50 ms."""
        probe = min(n_probe, n_clusters)
        compared = rows * rows * probe**2 / 2 / max(1, n_clusters)
        looked_at = rows + MAX_ITER * min(rows, sample_size(n_clusters))
        work = float(dim * (compared + looked_at * n_clusters))
        rate = _multiply_rate(device) * parallelism()
        return cls(rows, dim, n_clusters, work, 4.0 * rows * dim * probe, work / rate)

    def __str__(self) -> str:
        if not self.dim:
            return f"{self.rows:,} rows, the first of which have no embedding: cost not known"
        return (
            f"{self.rows:,} embeddings of {self.dim} values in {self.n_clusters:,} clusters: about "
            f"{self.multiply_adds / 1e12:.2f} T multiply-adds, {self.seconds:.0f} s here, and up "
            f"to {self.disk_bytes / 1e9:.1f} GB on disk"
        )


def _multiply_rate(device: str) -> float:
    """Multiply-adds per second of one thread of a CPU, or of a GPU, for matrices as we use them."""
    import torch

    matrix = coarse(torch.ones(1024, 1024, device=device))
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        (matrix @ matrix).sum().item()
        began = time.perf_counter()
        for _ in range(4):
            product = matrix @ matrix
        product[0, 0].item()
        return 4 * 1024**3 / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
