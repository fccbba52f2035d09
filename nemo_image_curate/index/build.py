"""Put together the files of an index: all of them, or those that change."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_image_curate.index import building, format, reconcile
from nemo_image_curate.index.kinds.base import Plan
from nemo_image_curate.index.kinds.engines import open_engine, read_faiss
from nemo_image_curate.index.recall import Recall
from nemo_image_curate.index.rescoring import approximate
from nemo_image_curate.index.rows import RowTable
from nemo_image_curate.index.staging import Parts, one_dim

logger = logging.getLogger(__name__)


def make(
    folder: str, recipe: dict[str, Any], plan: Plan, parts: Parts, records: list[dict[str, Any]]
) -> None:
    """Make the files of an index as planned, from parts that were read.

    Parameters
    ----------
    folder : str
    recipe : dict
        What is known of it so far; the rest is filled in.
    plan : Plan
    parts : Parts
    records : list of dict
        From `Parts.read`, of all partitions.
    """
    import faiss

    numbers = [number for number, record in enumerate(records) if record["indexed"]]
    made = {"rows": parts.folder / "rows"}
    building.write_row_table(made["rows"], parts, numbers)
    if plan.kind == "flat":
        index = faiss.IndexFlatIP(plan.dim)
        building.fill_flat(index, parts, numbers)
        recipe |= {"factory": "Flat", "lists": 0}
    else:
        made["vectors"] = parts.folder / "vectors"
        building.write_vectors(made["vectors"], parts, numbers, plan.dim)
        recipe |= {"factory": "CAGRA", "lists": 0}
    if plan.kind == "ivf":
        trained = building.train(plan, parts, records)
        building.encode(parts, numbers, plan.dim, trained)
        index = read_faiss(str(trained))
        building.fill_lists(index, parts, numbers, trained)
        lists = faiss.downcast_index(index.index)
        factory = f"PCAR{lists.d},IVF{lists.nlist},SQ8_direct_signed"
        recipe |= {"factory": factory, "lists": lists.nlist, "width": lists.d}
    if plan.kind != "cuvs":
        made["index"] = parts.folder / "index"
        building.write_index(index, made["index"])
    _finish(folder, recipe, records, made, parts)


def _finish(
    folder: str,
    recipe: dict[str, Any],
    records: list[dict[str, Any]],
    made: dict[str, Path],
    parts: Parts,
) -> None:
    """Measure, and put everything in its place; `made` may lack what stays as it is."""
    recipe["count"] = sum(one["indexed"] for one in records)
    recipe["left_out"] = sum(one["rows"] for one in records) - recipe["count"]
    if recipe["kind"] == "flat":
        recipe["recall"] = 1.0
    elif "vectors" in made:
        _tune(recipe, made, parts)
        if not recipe["options"]["rerank"]:
            made.pop("vectors")
    kind, rerank = recipe["kind"], recipe["options"]["rerank"]
    width = recipe.get("width", recipe["dim"])
    plan = Plan(kind, recipe["count"], recipe["dim"], recipe["lists"], width, rerank)
    recipe["bytes"] = {"memory": plan.memory_bytes, "disk": plan.disk_bytes}
    known = ("shard", "fingerprint", "changed", "digest", "rows", "indexed")
    partitions = [{name: one[name] for name in known} for one in records]
    kept = {} if {"index", "vectors"} & made.keys() else format.read(folder)["files"]
    format.commit(folder, recipe, partitions, made, kept)


def _tune(recipe: dict[str, Any], made: Mapping[str, Path], parts: Parts) -> None:
    target = recipe["options"]["target_recall"]
    rows = RowTable(str(made["rows"]), parts.id_col)
    measured = Recall(str(made["vectors"]), recipe["dim"], rows, parts.folder, parts.progress)
    hidden = () if recipe["options"]["rerank"] else ("vectors",)
    engine = open_engine(recipe, {role: made[role] for role in made if role not in hidden})

    def search(queries: np.ndarray, k: int, probe: int, candidates: int) -> np.ndarray:
        return approximate(engine, queries, k, len(rows), probe, candidates)[1]

    probe, candidates, recall = measured.settings(search, engine.lists, target)
    recipe |= {"nprobe": probe, "candidates": candidates}
    recipe["recall"] = round(recall, 4)
    if recall < target:
        logger.warning(
            "recall@10 of the index is %.3f, below target_recall=%s; kind='flat' is exact",
            recall,
            target,
        )


def row_table(folder: str, saved: Mapping[str, Any]) -> RowTable:
    """The rows of a saved index."""
    name = saved["files"]["rows"]["name"]
    return RowTable(os.path.join(folder, name), saved["recipe"]["id_col"])


def update(
    folder: str,
    saved: Mapping[str, Any],
    parts: Parts,
    found: reconcile.Match,
    new: Mapping[int, dict[str, Any]],
) -> None:
    """Write the files of an index with new partitions, or with other columns."""
    recipe: dict[str, Any] = dict(saved["recipe"])
    partitions = []
    for own, record in enumerate(saved["partitions"]):
        partitions.append({**record, **parts.known[found.place[own]]})
    numbers = [number for number in new if new[number]["indexed"]]
    made = {"rows": parts.folder / "rows"}
    old = row_table(folder, saved)
    if found.records:
        # All columns anew, in the order of the index.
        again = [found.place[own] for own, one in enumerate(partitions) if one["indexed"]]
        parts.read(again, with_vectors=False)
        building.write_row_table(made["rows"], parts, again + numbers)
    else:
        building.write_row_table(made["rows"], parts, numbers, old.batches())
    if numbers:
        one_dim(recipe["column"], [{"dim": recipe["dim"], "shard": folder}, *new.values()])
        where = {role: Path(folder, record["name"]) for role, record in saved["files"].items()}
        made |= building.extend(recipe["kind"], recipe["dim"], where, parts, numbers)
        count = len(old) + sum(new[number]["indexed"] for number in numbers)
        if count > 4 * recipe["trained_on"]:
            logger.warning(
                "the index at %s was made for %s vectors and has %s now: build it again",
                folder,
                f"{recipe['trained_on']:,}",
                f"{count:,}",
            )
    _finish(folder, recipe, partitions + list(new.values()), made, parts)
