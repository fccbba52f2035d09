"""`BalancedSample`: as many rows of each cluster as the smallest allow."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.checks import check_integer, check_one_of
from nemo_image_curate.selection.groups import Groups
from nemo_image_curate.selection.shares import ORDER, GroupShares, Order
from nemo_image_curate.stages.base import no_effect
from nemo_image_curate.vectors.cuts import ordered

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class BalancedSample(GroupShares):
    """Selects n rows that are spread as evenly over clusters as these allow.

    After Vo et al., "Automatic data curation for self-supervised learning: a clustering-based
    approach", 2024, section 3.3: from the top down, each cluster's part is divided among the
    clusters inside it, as many rows for each as the smaller ones have, and the rest evenly.

    Parameters
    ----------
    n : int
        Rows to select; all that have clusters, if there are fewer.
    clusters : sequence of str, optional
        The columns that name the clusters, the finest first; numbers or texts. Default: all of
        ``cluster_1``, ``cluster_2``, ..., which `HierarchicalClusters` adds. A single column, such
        as a label, balances by itself.
    which : {"random", "closest"}
        The rows of a finest cluster: those whose keys have the lowest hashes, or those with the
        lowest `distance_column`, ties by hash.
    distance_column : str, default "centroid_distance"
        For ``closest``; null comes last.
    random_state : int, default 0
    prefix : str, default ""
        Put before the name of the column.
    work_dir : str or path, optional
        A folder for intermediate files, some 50 bytes a row, that all workers share; a number for
        each cluster stays in it. Default: in the system's temporary folder.

    Columns
    -------
    selected : bool
        Null where a cluster is null.

    Notes
    -----
    Exactly `n` rows are selected, whatever partitions there are. Memory: a worker holds a block of
    rows, the client what grows with clusters.

    Examples
    --------
    >>> ds = BalancedSample(1_000_000)(HierarchicalClusters()(ds))
    >>> ds = ds.filter("selected")
    """

    n: int
    clusters: Sequence[str] | None = None
    which: str = "random"
    distance_column: str = "centroid_distance"
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        check_integer("n", self.n, 0)
        check_integer("random_state", self.random_state, 0)
        check_one_of("which", self.which, ("random", "closest"))
        if isinstance(self.clusters, str) or (self.clusters is not None and not self.clusters):
            raise ConfigError(
                f"clusters={self.clusters!r} should be a list of columns, the finest first."
            )

    def group_columns(self, dataset: ImageTextPairDataset) -> list[str]:
        """The columns of clusters, the coarsest first."""
        if self.clusters is not None:
            return list(dict.fromkeys(self.clusters))[::-1]
        # Without any, the first is missed by name.
        return cluster_levels(dataset)[::-1] or ["cluster_1"]

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The columns of clusters, and of distances where the closest are chosen."""
        distances = [] if self.which == "random" else [self.distance_column]
        return [*self.group_columns(dataset), *distances]

    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> Order | None:
        """The order by distance."""
        if self.which == "random":
            return None
        return _ByColumn(self.distance_column)

    def quotas(self, groups: Groups, order: Any) -> np.ndarray:
        """As many rows of each cluster as the smaller ones allow."""
        available = int(groups.sizes.sum())
        if available < self.n:
            logger.warning(
                "BalancedSample: only %s rows have clusters, of n=%s; all of them are selected.",
                f"{available:,}",
                f"{self.n:,}",
            )
        return groups.even_quotas(min(int(self.n), available), self.random_state)


def cluster_levels(dataset: ImageTextPairDataset) -> list[str]:
    """``cluster_1``, ``cluster_2``, ..., as far as they are of one hierarchy; the finest first."""
    how = dataset.provenance.get("cluster_1")
    names = (f"cluster_{level}" for level in itertools.count(1))
    # Coarser ones may be left of another run, which had more levels.
    return list(
        itertools.takewhile(
            lambda name: name in dataset.metadata.columns and dataset.provenance.get(name) == how,
            names,
        )
    )


class _ByColumn:
    """Orders rows by a column of numbers, null last."""

    def __init__(self, column: str):
        self.column = column

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self.content_token()

    def content_token(self) -> tuple[Any, ...]:
        return ("ByColumn", self.column)

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        column = frames.column_to_arrow(frame[self.column]).cast(pa.float64())
        return {ORDER: pa.array(ordered(column.to_numpy(zero_copy_only=False)))}
