"""Several selectors together: what all of them leave, and a sample of that; the command select."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions import evaluate
from nemo_image_curate.selection.balanced import BalancedSample, cluster_levels
from nemo_image_curate.selection.cluster_budget import ClusterBudget
from nemo_image_curate.selection.datacomp import DataCompFilter
from nemo_image_curate.selection.hierarchical import HierarchicalClusters
from nemo_image_curate.selection.retrieval import Retrieve
from nemo_image_curate.selection.soft_cap import SoftCapSample
from nemo_image_curate.selection.target_similarity import TargetSimilarity
from nemo_image_curate.selection.top_fraction import TopFraction
from nemo_image_curate.stages.base import Stage, no_effect

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

SELECTED = "selected"
MULTIPLICITY = "multiplicity"
# Columns in which a sampler does not see rows that are out already.
_AMONG = "__among__"


@dataclass(eq=False)
class Criteria(Stage):
    """What rows have to fulfil, each of them among all rows, and how a sample is drawn of the rest.

    Adds ``selected``, and ``multiplicity`` with `soft_cap`; for each criterion ``NAME_selected``.
    Rows stay.

    Parameters
    ----------
    where : str, optional
        An expression that is true.
    top : mapping of str to float
        The highest share of each column's values.
    recipe : str, optional
        A filter of DataComp's.
    target : path, optional
        What rows should be like; the target of `recipe`, where that has one.
    top_target : float, default 0.2
        The share of all rows that are most like it.
    seeds : path, optional
        The `k` nearest rows of each of these, of those for which `where` is true.
    k : int, default 4
    balanced : int, optional
        So many rows, spread evenly over clusters.
    budget : float, optional
        A share of the rows, more of clusters that are wide and far from others.
    soft_cap : (str, int), optional
        So many draws by a column of scores, with repeats.
    embedding_column : str, default "image_embedding"
    seed : int, default 0
    work_dir : str or path, optional
    """

    where: str | None = None
    top: Mapping[str, float] = field(default_factory=dict)
    recipe: str | None = None
    target: str | None = None
    top_target: float = 0.2
    seeds: str | None = None
    k: int = 4
    balanced: int | None = None
    budget: float | None = None
    soft_cap: tuple[str, int] | None = None
    embedding_column: str = "image_embedding"
    seed: int = 0
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    def columns(self) -> dict[str, pa.DataType]:
        """The choice; those of the stages that are called are not among them."""
        return {SELECTED: pa.bool_()}

    def config(self) -> dict[str, Any]:
        """All that is asked for."""
        return self.parameters()

    @property
    def names(self) -> list[str]:
        """What criteria are called; ``NAME_selected`` says which rows fulfil one."""
        target = None if self._recipe_has_target else self.target
        criteria = {"where": self.where, "recipe": self.recipe, "target": target}
        criteria["retrieved"] = self.seeds
        return [*(name for name, value in criteria.items() if value), *self.top]

    @property
    def _recipe_has_target(self) -> bool:
        return bool(self.recipe and self.recipe.startswith("image-based"))

    def check(self) -> None:
        """Refuse criteria that say nothing, or contradict each other.

        Raises
        ------
        ConfigError
        """
        samplers: list[Any] = [self.balanced, self.budget, self.soft_cap]
        if sum(sampler is not None for sampler in samplers) > 1:
            raise ConfigError("give one of balanced, budget and soft_cap: each draws the sample.")
        if not (self.top or any((self.where, self.recipe, self.target, self.seeds, *samplers))):
            raise ConfigError(
                "say which rows to select: by where, top, recipe, target, seeds, balanced, budget "
                "or soft_cap."
            )
        if twice := {name for name in self.names if self.names.count(name) > 1}:
            raise ConfigError(
                f"the column {twice.pop()!r} of top is called like another criterion: rename it."
            )

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns; what needs to know all rows is found now.

        Raises
        ------
        ConfigError, ColumnNotFoundError
        """
        self.check()
        dataset, masks = self._among_all(dataset)
        named = {f"{name}_{SELECTED}": mask(dataset.metadata) for name, mask in masks.items()}
        dataset = _with(dataset, named)
        passing = [dataset.metadata[name].fillna(False) for name in named]
        candidates = functools.reduce(operator.and_, passing) if passing else None
        if self.balanced is not None or self.budget is not None:
            chosen = self._by_clusters(dataset, candidates)
        elif self.soft_cap is not None:
            chosen = self._by_draws(dataset, candidates, *self.soft_cap)
        else:
            chosen = _with(dataset, {SELECTED: candidates})
        return chosen.replace(chosen.metadata, self.provenance())

    def _among_all(
        self, dataset: ImageTextPairDataset
    ) -> tuple[ImageTextPairDataset, dict[str, Any]]:
        """The dataset with what criteria look at, and a function of its frame for each of them."""
        masks: dict[str, Any] = {}
        column, work_dir = self.embedding_column, self.work_dir
        if self.where:
            masks["where"] = functools.partial(evaluate.mask, expression=self.where)
        if self.recipe:
            target = self.target if self._recipe_has_target else None
            stage = DataCompFilter(
                self.recipe,
                target=target,
                embedding_column=column,
                prefix="recipe_",
                work_dir=work_dir,
            )
            dataset = stage(dataset)
            masks["recipe"] = operator.itemgetter(f"recipe_{SELECTED}")
        for name, fraction in self.top.items():
            dataset = TopFraction(name, fraction, prefix=f"{name}_")(dataset)
            masks[name] = operator.itemgetter(f"{name}_{SELECTED}")
        if self.target and not self._recipe_has_target:
            similar = TargetSimilarity(self.target, embedding_column=column, work_dir=work_dir)
            dataset = similar(dataset)
            top = TopFraction(similar.pred_column, self.top_target, prefix="target_")
            dataset = top(dataset)
            masks["target"] = operator.itemgetter(f"target_{SELECTED}")
        if self.seeds:
            nearest = Retrieve(
                self.seeds, self.k, self.where, embedding_column=column, work_dir=work_dir
            )
            dataset = nearest(dataset)
            masks["retrieved"] = lambda frame: frame["retrieved_rank"].notnull()
        return dataset, masks

    def _by_clusters(self, dataset: ImageTextPairDataset, candidates: Any) -> ImageTextPairDataset:
        """A sample of the candidates over clusters: those that are there, else new ones."""
        if self.budget is not None and "cluster" in dataset.metadata.columns:
            clusters = ["cluster"]
        else:
            if not cluster_levels(dataset):
                clustering = HierarchicalClusters(
                    embedding_column=self.embedding_column,
                    random_state=self.seed,
                    work_dir=self.work_dir,
                )
                dataset = clustering(dataset)
            clusters = cluster_levels(dataset)
        dataset, seen = _hidden(dataset, clusters, candidates)
        common: dict[str, Any] = {"random_state": self.seed, "work_dir": self.work_dir}
        stage: BalancedSample | ClusterBudget
        if self.balanced is not None:
            stage = BalancedSample(self.balanced, seen, **common)
        else:
            stage = ClusterBudget(
                self.budget or 0,
                cluster_column=seen[0],
                embedding_column=self.embedding_column,
                **common,
            )
        return _without(stage(dataset), seen)

    def _by_draws(
        self, dataset: ImageTextPairDataset, candidates: Any, scores: str, n: int
    ) -> ImageTextPairDataset:
        """Draws of the candidates by a score."""
        frames.require_columns(dataset.metadata, scores)
        dataset, seen = _hidden(dataset, [scores], candidates)
        stage = SoftCapSample(seen[0], n, random_state=self.seed, work_dir=self.work_dir)
        drawn = _without(stage(dataset), seen)
        return _with(drawn, {SELECTED: drawn.metadata[MULTIPLICITY] > 0})


def _with(dataset: ImageTextPairDataset, columns: Mapping[str, Any]) -> ImageTextPairDataset:
    return dataset.replace(dataset.metadata.assign(**columns)) if columns else dataset


def _hidden(
    dataset: ImageTextPairDataset, columns: list[str], candidates: Any
) -> tuple[ImageTextPairDataset, list[str]]:
    """Copies of columns that are null for rows which are no candidates; the columns where all are.

    Samplers leave out rows whose value is null.
    """
    if candidates is None:
        return dataset, columns
    copies = {f"{_AMONG}{name}": dataset.metadata[name].where(candidates, None) for name in columns}
    return _with(dataset, copies), list(copies)


def _without(dataset: ImageTextPairDataset, columns: list[str]) -> ImageTextPairDataset:
    copies = [name for name in columns if name.startswith(_AMONG)]
    return dataset.replace(dataset.metadata.drop(columns=copies)) if copies else dataset
