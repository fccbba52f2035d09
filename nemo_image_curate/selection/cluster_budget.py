"""`ClusterBudget`: of each cluster as many rows as its variety deserves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, storage
from nemo_image_curate.selection.centroid_sums import centroid_sums
from nemo_image_curate.selection.checks import check_integer, check_one_of, check_positive
from nemo_image_curate.selection.groups import Groups
from nemo_image_curate.selection.hash_order import usable_vectors
from nemo_image_curate.selection.kept import MadeOfKept, read_once
from nemo_image_curate.selection.shares import ORDER, GroupShares
from nemo_image_curate.stages.base import no_effect
from nemo_image_curate.tables import content_digest, serialised
from nemo_image_curate.vectors.homes import cosines
from nemo_image_curate.vectors.water_filling import bounded_shares, whole_shares

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Of Abbas et al. 2024, section 3: how many centroids around one say how far apart clusters are
# there, and which share of an even budget every cluster gets.
_NEIGHBOURS = 20
_LEAST_SHARE = 0.5
# Centroids whose cosines with all are held at once.
_CENTROIDS = 1024


@dataclass(eq=False)
class ClusterBudget(GroupShares):
    """Selects a share of all rows, more of clusters that are wide and far from others.

    Density-based pruning, after Abbas et al., "Effective pruning of web-scale datasets based on
    complexity of concept clusters", 2024 (arXiv 2401.04578). A cluster's part goes by the softmax
    of ``d_inter * d_intra / temperature``: the mean cosine distance of its centroid from the 20
    nearest others, and of its rows from it. Each gets half of an even part at least, and all it
    has at most; parts are the nearest to those wanted under these bounds. Meant for clusters
    without near-duplicates (`SemanticDedup` names clusters and duplicates at once).

    Parameters
    ----------
    ratio : float
        Which share of the rows that have a cluster and an embedding to select; above 0, at most 1.
    temperature : float, default 0.1
        Lower ones favour few clusters.
    which : {"hard", "easy", "random"}
        The rows of a cluster: those farthest from the centroid, which is best where data are
        plenty (Sorscher et al., "Beyond neural scaling laws", 2022), the nearest, or any, by a
        hash of their keys.
    cluster_column : str, default "cluster"
        As `SemanticDedup` adds it; numbers or texts.
    embedding_column : str, default "image_embedding"
    random_state : int, default 0
    prefix : str, default ""
        Put before the name of the column.
    work_dir : str or path, optional
        A folder for intermediate files that all workers share: some 50 bytes a row, and each
        partition's sums of its clusters; centroids and a number for each cluster stay in it.
        Default: in the system's temporary folder.

    Columns
    -------
    selected : bool
        Null without a cluster or an embedding.

    Notes
    -----
    ``round(ratio * n)`` rows are selected exactly, whatever partitions there are. Memory: a worker
    holds a partition, a block of rows and the centroids, the client the centroids. Time: three
    passes over the embeddings, and the products of all pairs of centroids.

    Examples
    --------
    >>> ds = SemanticDedup()(ds).filter("not is_duplicate")
    >>> ds = ClusterBudget(0.3)(ds).filter("selected")
    """

    ratio: float
    temperature: float = 0.1
    which: str = "hard"
    cluster_column: str = "cluster"
    embedding_column: str = "image_embedding"
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        check_positive("ratio", self.ratio, 1)
        check_positive("temperature", self.temperature)
        check_one_of("which", self.which, ("hard", "easy", "random"))
        check_integer("random_state", self.random_state, 0)

    def group_columns(self, dataset: ImageTextPairDataset) -> list[str]:
        """The column of clusters."""
        return [self.cluster_column]

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The columns of clusters and of embeddings."""
        return [self.cluster_column, self.embedding_column]

    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> _ByCentroid:
        """Find the centroids, by which rows are ordered."""
        clusters, counts, sums = centroid_sums(
            dataset, self.cluster_column, self.embedding_column, folder / "sums"
        )
        lengths = np.linalg.norm(sums, axis=1)
        # Vectors that cancel out have no direction: all are as far from it.
        unit = (sums / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), max(1, unit.shape[1]))
        # The mean of 1 - cosine is 1 less the length of the mean.
        table = pa.table({"cluster": clusters, "centroid": lists, "spread": 1 - lengths / counts})
        digest = content_digest(table)
        path = folder / f"centroids-{digest[:24]}.arrow"
        storage.write_bytes(str(path), serialised(table))
        return _ByCentroid(path, digest, self.cluster_column, self.embedding_column, self.which)

    def quotas(self, groups: Groups, order: Any) -> np.ndarray:
        """The budget of each cluster."""
        clusters, centroids, spread = order.centroids()
        numbers = groups.numbers(pa.table({self.cluster_column: clusters}))
        complexity = np.zeros(len(groups.sizes))
        complexity[numbers] = _distances_between(centroids) * spread
        sizes = groups.sizes
        total = round(float(self.ratio) * int(sizes.sum()))
        weights = np.exp((complexity - complexity.max(initial=0)) / self.temperature)
        least = np.minimum(int(_LEAST_SHARE * total / max(1, len(sizes))), sizes - 1)
        shares = bounded_shares(total * weights / weights.sum(), total, least, sizes)
        return whole_shares(shares, total)


def _distances_between(centroids: np.ndarray) -> np.ndarray:
    """The mean cosine distance of each centroid from the nearest others, float64, shape (k,)."""
    import torch

    unit = torch.from_numpy(centroids).double()
    nearest = min(_NEIGHBOURS, len(unit) - 1)
    means = np.zeros(len(unit))
    for start in range(0, len(unit) if nearest > 0 else 0, _CENTROIDS):
        products = unit[start : start + _CENTROIDS] @ unit.T
        rows = torch.arange(len(products))
        products[rows, rows + start] = -torch.inf
        means[start : start + _CENTROIDS] = 1 - products.topk(nearest, dim=1)[0].mean(dim=1)
    return means


class _ByCentroid(MadeOfKept):
    """Orders rows by their cosine with the centroid of their cluster."""

    def __init__(self, path: Path, digest: str, cluster: str, embedding: str, which: str):
        super().__init__(path)
        self.digest = digest
        self.cluster = cluster
        self.embedding = embedding
        self.which = which

    def content_token(self) -> tuple[Any, ...]:
        return ("ByCentroid", self.digest, self.cluster, self.embedding, self.which)

    def centroids(self) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Clusters, their centroids (float32, of length 1 or 0), and mean distance from these."""
        return read_once(self.path, _read_centroids, "ClusterBudget")

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        import torch

        clusters, centroids, _ = self.centroids()
        vectors, rows = usable_vectors(frame, self.embedding, normalize=True)
        named = frames.column_to_arrow(frame[self.cluster]).take(rows).cast(clusters.type)
        places = pc.fill_null(pc.index_in(named, value_set=clusters), -1)
        known = np.flatnonzero(np.asarray(places) >= 0)
        values = np.zeros(len(known), dtype=np.uint64)
        if self.which != "random" and len(known):
            centres = torch.from_numpy(centroids[np.asarray(places)[known]]).to(vectors.device)
            cosine = cosines(vectors[torch.from_numpy(known).to(vectors.device)], centres)
            signed = cosine if self.which == "hard" else -cosine
            values = (signed.cpu().numpy() + (1 << 62)).astype(np.uint64)
        order = np.zeros(len(frame), dtype=np.uint64)
        order[rows[known]] = values
        missing = np.ones(len(frame), dtype=bool)
        missing[rows[known]] = False
        return {ORDER: pa.array(order, mask=missing)}


def _read_centroids(path: Path) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all().combine_chunks()
    lists = table["centroid"].combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    centroids = flat.reshape(len(lists), -1 if len(lists) else 0)
    return table["cluster"].combine_chunks(), centroids, table["spread"].to_numpy()
