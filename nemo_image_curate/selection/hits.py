"""The rows of a dataset that are nearest to each of some seeds: found by workers, in files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemo_image_curate import frames, storage, tables
from nemo_image_curate.dataset import partitions, saving
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.expressions.check import check
from nemo_image_curate.expressions.evaluate import condition
from nemo_image_curate.stages.gathered import Gathered
from nemo_image_curate.vectors.neighbours import top_k
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Partitions that are searched before what they gave bounds what others have to give; and how many
# times as many each further time. Of so many times as many rows about so many times k are nearer.
_FIRST_WAVE = 32
_GROWTH = 4
# Rows that wait to be merged.
_WAITING = 1 << 20
# Rows of a group of the result, of which readers take those that may have their shard.
_GROUP_ROWS = 1 << 16
_HIT = pa.schema(
    [
        ("seed", pa.int64()),
        ("similarity", pa.float32()),
        ("key", pa.large_string()),
        ("shard", pa.large_string()),
    ]
)
# The nearest first; of equally near ones, whichever partition they are in, the first by name.
_ORDER = [
    ("seed", "ascending"),
    ("similarity", "descending"),
    ("key", "ascending"),
    ("shard", "ascending"),
]


class Search:
    """The search of a dataset for the rows that are nearest to some seeds.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    seeds : Gathered
    column : str
        Of embeddings.
    where : str or None
        Only rows for which this is true are looked at.
    k : int
        Rows of a seed at most.
    least_similarity : float or None
        The least cosine.
    may_be_seed : bool
        Whether rows may be seeds, which are not their own neighbours.
    folder : Path
        On a file system that all workers share.

    Attributes
    ----------
    digest : str
        A hash of all that decides the result.
    """

    def __init__(
        self,
        dataset: ImageTextPairDataset,
        seeds: Gathered,
        column: str,
        where: str | None,
        k: int,
        least_similarity: float | None,
        may_be_seed: bool,
        folder: Path,
    ):
        looked_at = check(where, list(dataset.metadata.columns)) if where else []
        names = [dataset.id_col, SHARD_COLUMN, column, *looked_at]
        self._frame = dataset.metadata[list(dict.fromkeys(names))]
        self._seeds, self._k, self._folder = seeds, k, folder
        self._least = -2.0 if least_similarity is None else least_similarity
        self._options = (seeds, may_be_seed, dataset.id_col, column, where, k)
        config = (where, k, least_similarity, may_be_seed, seeds.digest)
        self._targets = saving.plan_partitions(dataset, self._frame, "retrieve", *config)
        self.digest = fingerprint([target.fingerprint for target in self._targets])

    def result(self, columns: Sequence[str]) -> Path:
        """The file that lists the rows that were found; searched for, when it is not there.

        Parameters
        ----------
        columns : sequence of str
            What key and shard of the seed, the rank, and the cosine are called.
        """
        name = fingerprint(self.digest, columns)[:24]
        result = self._folder / f"retrieved-{name}.parquet"
        newest = max((target.newest_input for target in self._targets), default=0.0)
        if not _is_done(result, newest):
            listed = self._of_rows(self._hits(), columns)
            with storage.atomic_write(str(result)) as file:
                pq.write_table(listed, file, row_group_size=_GROUP_ROWS)
            for number in range(len(self._targets)):
                self._file(number).unlink(missing_ok=True)
        return result

    def _file(self, number: int) -> Path:
        return self._folder / f"hits-{self._targets[number].fingerprint[:24]}.arrow"

    def _hits(self) -> pa.Table:
        """The `k` nearest rows of each seed."""
        nearest, start, size = _HIT.empty_table(), 0, _FIRST_WAVE
        while start < len(self._targets):
            numbers = range(start, min(start + size, len(self._targets)))
            self._search(numbers, self._bound(nearest))
            for table in self._tables(numbers):
                nearest = _nearest(pa.concat_tables([nearest, table]), self._k)
            start, size = numbers.stop, (_GROWTH - 1) * numbers.stop
        return nearest

    def _bound(self, nearest: pa.Table) -> Path:
        """A file with the least cosine that a seed's neighbours may have, by those so far."""
        bound = np.full(len(self._seeds), self._least, dtype=np.float32)
        seeds = nearest["seed"].to_numpy()
        last = _places(seeds) == self._k - 1
        bound[seeds[last]] = nearest["similarity"].to_numpy()[last]
        path = self._folder / "bound.npy"
        with storage.atomic_write(str(path)) as file:
            np.save(file, bound)
        return path

    def _search(self, numbers: Sequence[int], bound: Path) -> None:
        """Have workers search some partitions, as far as that was not done before."""
        todo = [
            number
            for number in numbers
            if not _is_done(self._file(number), self._targets[number].newest_input)
        ]
        partitions.run(
            self._frame,
            _search_partition,
            [(self._file(number), bound, *self._options) for number in todo],
            what="retrieve",
            numbers=todo,
            labels=[self._targets[number].label for number in todo],
        )

    def _tables(self, numbers: Sequence[int]) -> Iterator[pa.Table]:
        """What partitions have, in pieces that are not small."""
        waiting = list[pa.Table]()
        for number in numbers:
            with pa.OSFile(str(self._file(number))) as file:
                waiting.append(pa.ipc.open_file(file).read_all())
            if sum(map(len, waiting)) >= _WAITING:
                yield pa.concat_tables(waiting)
                waiting.clear()
        yield pa.concat_tables([_HIT.empty_table(), *waiting])

    def _of_rows(self, hits: pa.Table, columns: Sequence[str]) -> pa.Table:
        """For each row that was found the seed that ranks it best, by shard and key."""
        seeds = hits["seed"].to_numpy()
        ranks = _places(seeds) + 1
        hits = hits.append_column("rank", pa.array(ranks.astype(np.int32)))
        by = [(name, "ascending") for name in ("shard", "key", "rank", "seed")]
        hits = hits.take(pc.sort_indices(hits, sort_keys=by)).combine_chunks()
        before, after = hits.slice(0, max(0, len(hits) - 1)), hits.slice(1)
        same = [pc.equal(before[name], after[name]) for name in ("shard", "key")]
        is_repeat = np.append(np.zeros(min(1, len(hits)), dtype=bool), pc.and_(*same).to_numpy())
        hits = hits.filter(pa.array(~is_repeat))
        by_names = self._seeds.names(hits["seed"].to_numpy())
        values = [by_names["key"], by_names["shard"], hits["rank"], hits["similarity"]]
        table = {"key": hits["key"], "shard": hits["shard"]}
        return tables.small_texts(pa.table(table | dict(zip(columns, values, strict=True))))


def _is_done(path: Path, newest_input: float) -> bool:
    info = storage.stat(str(path))
    return info is not None and info.changed >= newest_input


def _places(groups: np.ndarray) -> np.ndarray:
    """The place of each row in its group, of rows that are sorted by groups."""
    starts = np.searchsorted(groups, groups)
    return np.asarray(np.arange(len(groups)) - starts)


def _nearest(hits: pa.Table, k: int) -> pa.Table:
    """The `k` nearest of each seed, in `_ORDER`."""
    hits = hits.take(pc.sort_indices(hits, sort_keys=_ORDER))
    return hits.filter(pa.array(_places(hits["seed"].to_numpy()) < k)).combine_chunks()


def _search_partition(
    frame: Any,
    file: Path,
    bound: Path,
    seeds: Gathered,
    may_be_seed: bool,
    id_col: str,
    column: str,
    where: str | None,
    k: int,
) -> None:
    """Write the rows of a computed partition that are near enough; runs on a worker.

    Raises
    ------
    DatasetError
        When embeddings are not as long as those of the seeds.
    """
    import torch

    values, embedded_rows = frames.embedding_array(frame[column])
    device = frames.device_of(frame)
    vectors, with_direction = unit_vectors(values, device)
    row_numbers = embedded_rows[with_direction]
    if len(row_numbers) and vectors.shape[1] != seeds.dim:
        raise DatasetError(
            f"embeddings of {vectors.shape[1]} values in column {column!r}, and seeds of "
            f"{seeds.dim}: they are of different models."
        )
    plain = frames.to_arrow(frame[[name for name in frame.columns if name != column]])
    names = pa.table({"key": plain[id_col], "shard": plain[SHARD_COLUMN]}).take(row_numbers)
    # Without a name nobody could find the row; by name, so that of equally near ones the first is
    # the same in any partition.
    chosen = pc.and_(pc.is_valid(names["key"]), pc.is_valid(names["shard"])).to_numpy()
    if where is not None:
        mask = pc.fill_null(condition(plain, where), False)
        chosen = chosen & np.asarray(mask.take(pa.array(row_numbers)))
    by_name = pc.sort_indices(names, sort_keys=[("key", "ascending"), ("shard", "ascending")])
    order = by_name.to_numpy().astype(np.int64)
    order = order[chosen[order]]
    with tempfile.TemporaryDirectory(prefix="retrieve-") as scratch:
        pool = Path(scratch) / "pool.npy"
        np.save(pool, vectors[torch.from_numpy(order)].cpu().numpy())
        queries = np.concatenate([np.load(path) for path in seeds.files()])
        # One more, which may be the seed itself.
        places, cosines = top_k(torch.from_numpy(queries), [pool], k + may_be_seed, device)
    wanted = (places >= 0) & (cosines >= np.load(bound)[:, None])
    seed_numbers, _ = np.nonzero(wanted)
    hits = names.take(order[places[wanted]])
    table = pa.table({"seed": seed_numbers, "similarity": cosines[wanted]})
    table = table.append_column("key", hits["key"]).append_column("shard", hits["shard"]).cast(_HIT)
    if may_be_seed:
        seed_names = seeds.names(seed_numbers)
        itself = pc.and_(
            *(
                pc.equal(seed_names[name], table[name].cast(pa.large_string()))
                for name in hits.column_names
            )
        )
        table = table.filter(pc.invert(itself))
    storage.write_bytes(str(file), tables.serialised(table))
