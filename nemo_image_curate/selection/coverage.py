"""What a choice has of each concept, beside what a random one of the same size would have."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.vectors.sampling import random_score

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Tasks that concepts are dealt out to.
_MOST_RECEIVERS = 256


@dataclass(frozen=True)
class ConceptCoverage:
    """What `concept_coverage` measures.

    Attributes
    ----------
    rows, selected : int
    expected, deviation : float
        How many rows are expected to be selected, and the standard deviation of that: the sum of
        their probabilities q, and the root of the sum of q (1 - q).
    without_caption, without_concept : int
        Rows; they are told apart.
    concepts, selected_concepts : int
        How many concepts any row has, and any selected row.
    random_concepts : float
        How many a random choice of as many rows is expected to have.
    evenness, random_evenness : float
        Entropy of the concepts' numbers of rows, as a part of the highest that it could be with
        all concepts: among the selected, and among random rows. 1 is even; NaN without concepts.
    """

    rows: int
    selected: int
    expected: float
    deviation: float
    without_caption: int
    without_concept: int
    concepts: int
    selected_concepts: int
    random_concepts: float
    evenness: float
    random_evenness: float


def concept_coverage(
    dataset: ImageTextPairDataset,
    prefix: str = "",
    work_dir: Any = None,
    progress: bool | None = None,
) -> ConceptCoverage:
    """Measure what `ConceptBalance` chose.

    Memory: on a worker a partition's concepts, and a part of all; on the client some numbers.

    Parameters
    ----------
    dataset : ImageTextPairDataset
        With the columns of `ConceptBalance`; best saved, or all is matched once more.
    prefix : str, default ""
        Of the columns.
    work_dir : str or path, optional
        A folder that all workers share. Default: the system's temporary folder.
    progress : bool, optional
        Show progress bars. Default: on a terminal.

    Raises
    ------
    ColumnNotFoundError
        When they are not there.
    """
    names = [prefix + name for name in ("concepts", "keep_probability", "selected")]
    frames.require_columns(dataset.metadata, *names)
    frame = dataset.metadata[names]
    if work_dir is not None:
        work_dir = storage.local_path(work_dir, "work_dir", "all workers share it")
        storage.make_dirs(work_dir)
    folder = Path(tempfile.mkdtemp(prefix="concepts-", dir=work_dir))
    try:
        count = min(frame.npartitions, _MOST_RECEIVERS)
        sent = Exchange(folder, "concepts", frame.npartitions, count)
        arguments = [(sent, number) for number in range(frame.npartitions)]
        options: dict[str, Any] = {"what": "count concepts", "progress": progress}
        totals = np.sum(partitions.run(frame, _send_concepts, arguments, **options), axis=0)
        rows, selected, expected, variance, without_caption, without_concept = totals
        call = dask.delayed(_cover, pure=False)
        tasks = [call(sent, number, selected / max(1, rows)) for number in range(count)]
        labels = [f"range {number}" for number in range(count)]
        sums = np.sum(jobs.compute_all(tasks, labels, "count concepts", progress), axis=0)
    finally:
        shutil.rmtree(folder)
    concepts, selected_concepts, random_concepts = sums[:3]
    return ConceptCoverage(
        rows=int(rows),
        selected=int(selected),
        expected=float(expected),
        deviation=math.sqrt(variance),
        without_caption=int(without_caption),
        without_concept=int(without_concept),
        concepts=int(concepts),
        selected_concepts=int(selected_concepts),
        random_concepts=float(random_concepts),
        evenness=_evenness(sums[3], sums[4], concepts),
        random_evenness=_evenness(sums[5], sums[6], concepts),
    )


def _evenness(pairs: float, log_sum: float, concepts: float) -> float:
    """Of counts, by their sum and that of count * log(count); 1 where there is one concept."""
    if not pairs:
        return math.nan
    return 1.0 if concepts == 1 else (math.log(pairs) - log_sum / pairs) / math.log(concepts)


def _send_concepts(frame: Any, sent: Exchange, number: int) -> list[float]:
    """Send how many rows have each concept, and tell of the rows; runs on a worker.

    Returns
    -------
    list of float
        Rows, selected ones, expected ones and their variance; without caption, without concept.
    """
    concepts, probability, selected = (
        frames.column_to_arrow(frame[name]) for name in frame.columns
    )
    is_selected = selected.fill_null(False).to_numpy(zero_copy_only=False)
    chance = probability.fill_null(0).to_numpy(zero_copy_only=False)
    of_selected = is_selected[pc.list_parent_indices(concepts).to_numpy()]
    pairs = pa.table({"concept": concepts.flatten(), "selected": pa.array(of_selected, pa.int64())})
    counted = pairs.group_by("concept").aggregate([([], "count_all"), ("selected", "sum")])
    counted = counted.rename_columns(["concept", "rows", "selected"])
    receivers = (random_score(counted["concept"], 0) * sent.receivers).astype(np.int64)
    sent.write(number, counted, receivers)
    lengths = pc.list_value_length(concepts)
    return [
        *(len(frame), is_selected.sum(), chance.sum(), (chance * (1 - chance)).sum()),
        *(concepts.null_count, pc.sum(pc.equal(lengths, 0)).as_py() or 0),
    ]


def _cover(sent: Exchange, receiver: int, fraction: float) -> list[float]:
    """Sums over the concepts that were sent to this task; runs on a worker.

    Returns
    -------
    list of float
        Concepts, selected ones, those expected of a random choice; then of the selected, and of
        all rows, the sum of each concept's count, and of count * log(count).
    """
    counted = sent.read(receiver).group_by("concept")
    table = counted.aggregate([("rows", "sum"), ("selected", "sum")])
    rows, selected = (table[f"{name}_sum"].to_numpy() for name in ("rows", "selected"))
    chosen = selected[selected > 0]
    return [
        *(len(rows), len(chosen), (1 - (1 - fraction) ** rows).sum()),
        *(chosen.sum(), (chosen * np.log(chosen)).sum()),
        *(rows.sum(), (rows * np.log(rows)).sum()),
    ]
