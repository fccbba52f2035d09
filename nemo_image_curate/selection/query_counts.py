"""How many rows each query matches, and whom a cap lets in, of any number of rows.

A partition's matches go into a file; files are summed by groups on the workers, so that the
client holds some arrays with a number for each query.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.selection.matching import MatcherFiles
from nemo_image_curate.tables import content_digest, serialised
from nemo_image_curate.vectors.sampling import random_score

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Rows that may come under a cap, with their hashes, that one task sorts.
_SORTED = 1 << 22
# How many standard deviations more of them are looked at than are let in, and some.
_DEVIATIONS = 10


class QueryCounts:
    """How many rows of a dataset each query matches, and with a cap whom it lets in.

    Parameters
    ----------
    files : MatcherFiles
    folder : Path
        For files, which all workers share.
    caption_column, id_col : str
    cap : int or None
        How many rows a query lets in; None for no cap.
    seed : int
        Of the rows' hashes.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(
        self,
        files: MatcherFiles,
        folder: Path,
        caption_column: str,
        id_col: str,
        cap: int | None,
        seed: int,
    ):
        self.files = files
        self.folder = folder / ("counts" if cap is None else f"cap-{cap}-{seed}")
        self.caption_column = caption_column
        self.id_col = id_col
        self.cap = cap
        self.seed = seed

    def compute(
        self, dataset: ImageTextPairDataset, query_count: int, progress: bool | None
    ) -> Path:
        """Count, as far as that was not done before.

        Returns
        -------
        Path
            A NumPy file of float64, shape (2, query_count): how many rows each query matches; and
            the highest hash that it lets in, which is infinite where it lets all in.
        """
        storage.make_dirs(str(self.folder))
        noted = self.folder / "digests.json"
        known = json.loads(noted.read_bytes()) if noted.exists() else []
        digests = self._match(dataset, known, progress)
        result = self._result(digests)
        if known and not result.exists():
            # Other rows changed, so that those which did not are needed, too.
            digests = self._match(dataset, [], progress)
            result = self._result(digests)
        if not result.exists():
            groups = _groups([self.path(number, digest) for number, digest in enumerate(digests)])
            counts = self._sum(groups, query_count, progress)
            thresholds = np.full(query_count, np.inf)
            if self.cap is not None:
                thresholds = _cap(groups, result.with_suffix(""), counts, self.cap, progress)
            with storage.atomic_write(str(result)) as file:
                np.save(file, np.array([counts, thresholds]))
            storage.write_bytes(str(noted), json.dumps(digests).encode())
        for path in self.folder.glob("matches-*"):
            path.unlink()
        return result

    def path(self, number: int, digest: str) -> Path:
        """What a partition's rows match."""
        return self.folder / f"matches-{number:05d}-{digest[:16]}.arrow"

    def _result(self, digests: list[str]) -> Path:
        return self.folder / f"result-{fingerprint(digests)[:24]}.npy"

    def _match(
        self, dataset: ImageTextPairDataset, known: list[str], progress: bool | None
    ) -> list[str]:
        """Match the captions of all partitions that are not known; a digest of each."""
        names = {self.caption_column} if self.cap is None else {self.caption_column, self.id_col}
        count = dataset.metadata.npartitions
        if len(known) != count:
            known = [""] * count
        arguments = [(self, number, digest) for number, digest in enumerate(known)]
        frame = dataset.metadata[sorted(names)]
        return partitions.run(frame, _match_partition, arguments, what="match", progress=progress)

    def _sum(self, groups: list[list[Path]], query_count: int, progress: bool | None) -> np.ndarray:
        sums = [self.folder / f"sum-{number:05d}.npy" for number in range(len(groups))]
        call = dask.delayed(_sum_group, pure=False)
        tasks = [call(group, path, query_count) for group, path in zip(groups, sums, strict=True)]
        jobs.compute_all(tasks, [f"group {n}" for n in range(len(sums))], "count", progress)
        counts = np.zeros(query_count, dtype=np.int64)
        for path in sums:
            counts += np.load(path)
            path.unlink()
        return counts


def _groups(paths: list[Path]) -> list[list[Path]]:
    """Files by tasks, as many of either."""
    size = max(1, math.isqrt(len(paths)))
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def _match_partition(frame: Any, counts: QueryCounts, number: int, known: str) -> str:
    """Write what the captions of a partition match, and tell what they are; runs on a worker."""
    columns = {name: frames.column_to_arrow(frame[name]) for name in frame.columns}
    digest = content_digest(pa.table(columns))
    path = counts.path(number, digest)
    if digest == known or path.exists():
        return digest
    rows, queries = counts.files.matcher().match(columns[counts.caption_column])
    if counts.cap is None:
        numbers, matched = np.unique(queries, return_counts=True)
        table = {"query": numbers.astype(np.int32), "count": matched.astype(np.int32)}
    else:
        scores = random_score(columns[counts.id_col], counts.seed)[rows]
        table = {"query": queries.astype(np.int32), "score": scores}
    storage.write_bytes(str(path), serialised(pa.table(table)))
    return digest


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _sum_group(paths: list[Path], total: Path, query_count: int) -> None:
    """Write how many rows of some partitions each query matches; runs on a worker."""
    counts = np.zeros(query_count, dtype=np.int64)
    for path in paths:
        table = _read(path)
        queries = table["query"].to_numpy()
        if "count" in table.column_names:
            counts[queries] += table["count"].to_numpy()
        else:
            counts += np.bincount(queries, minlength=query_count)
    with storage.atomic_write(str(total)) as file:
        np.save(file, counts)


def _cap(
    groups: list[list[Path]],
    folder: Path,
    counts: np.ndarray,
    cap: int,
    progress: bool | None,
) -> np.ndarray:
    """The highest hash that each query lets in, so that it lets in at most `cap` rows.

    Rows are let in from the lowest hash on. Those with equal hashes, which have equal keys, are
    let in together or not at all.
    """
    thresholds = np.full(len(counts), np.inf)
    undecided = np.flatnonzero(counts > cap)
    wanted = cap + _DEVIATIONS * (1 + math.sqrt(cap))
    while len(undecided):
        # Of hashes, which are even in [0, 1), so many are expected below.
        bounds = np.zeros(len(counts))
        bounds[undecided] = wanted / counts[undecided]
        expected = np.where(bounds > 0, np.minimum(counts, wanted), 0)
        receivers = (np.cumsum(expected) // _SORTED).astype(np.int64)
        name = f"below-{int(wanted)}"
        storage.make_dirs(str(folder))
        with storage.atomic_write(str(folder / f"{name}.npy")) as file:
            np.save(file, np.array([bounds, receivers]))
        candidates = Exchange(folder, name, len(groups), int(receivers[-1]) + 1)
        arguments = [(group,) for group in groups]
        candidates.fill(_send_candidates, arguments, "cap", progress)
        call = dask.delayed(_thresholds, pure=False)
        tasks = [call(candidates, number, cap) for number in range(candidates.receivers)]
        labels = [f"range {number}" for number in range(candidates.receivers)]
        for queries, highest in jobs.compute_all(tasks, labels, "cap", progress):
            thresholds[queries] = highest
        shutil.rmtree(folder)
        # With keys that occur many times fewer may lie below than expected.
        undecided = undecided[np.isinf(thresholds[undecided])]
        wanted *= 4
    return thresholds


def _send_candidates(candidates: Exchange, sender: int, paths: list[Path]) -> None:
    """Send the low hashes of a group to those that sort them; runs on a worker."""
    bounds, receivers = np.load(candidates.folder / f"{candidates.name}.npy")
    pieces = []
    for path in paths:
        table = _read(path)
        is_low = table["score"].to_numpy() < bounds[table["query"].to_numpy()]
        pieces.append(table.filter(pa.array(is_low)))
    table = pa.concat_tables(pieces)
    candidates.write(sender, table, receivers[table["query"].to_numpy()].astype(np.int64))


def _thresholds(candidates: Exchange, receiver: int, cap: int) -> tuple[np.ndarray, np.ndarray]:
    """The thresholds of a range of queries, where there are enough rows; runs on a worker."""
    frame = candidates.read(receiver).to_pandas().sort_values(["query", "score"])
    queries, first, counts = np.unique(
        frame["query"].to_numpy(), return_index=True, return_counts=True
    )
    is_enough = counts > cap
    queries, first = queries[is_enough], first[is_enough]
    scores = frame["score"].to_numpy()
    highest = scores[first + cap - 1]
    for place in np.flatnonzero(highest == scores[first + cap]):
        query_scores = scores[first[place] : first[place] + cap]
        lower = query_scores[query_scores < highest[place]]
        highest[place] = lower[-1] if len(lower) else -1
    return queries, highest
