"""What a decontamination found, counted: by reference and signal, and some rows to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.leaks import leak_columns
from nemo_image_curate.tables import small_texts
from nemo_image_curate.vectors.sampling import random_score

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Of the histogram, from a similarity of 0 to 1.
BINS = 100


@dataclass
class LeakSummary:
    """What was found.

    Attributes
    ----------
    rows : int
    leaks : dict of (str, str) to int
        By reference, and by what makes rows leaks.
    not_compared : dict of str to int
        By reason.
    histogram : dict of str to numpy.ndarray of int64, shape (100,)
        Similarities of ``leak`` and ``clean`` rows, as far as there are any, in hundredths; those
        below 0 with the first.
    sample : list of dict
        Leaks, chosen at random by their keys.
    nearest : list of dict
        The clean rows that are most similar to a reference.
    """

    rows: int = 0
    leaks: Counter[tuple[str, str]] = field(default_factory=Counter)
    not_compared: Counter[str] = field(default_factory=Counter)
    histogram: dict[str, np.ndarray] = field(
        default_factory=lambda: {kind: np.zeros(BINS, dtype=np.int64) for kind in ("leak", "clean")}
    )
    sample: list[dict[str, Any]] = field(default_factory=list)
    nearest: list[dict[str, Any]] = field(default_factory=list)

    @property
    def clean(self) -> int:
        """Rows that were compared and are no leaks."""
        return self.rows - self.leaks.total() - self.not_compared.total()

    def counts(self) -> dict[str, Any]:
        """For a record: leaks by what makes them, by reference, clean ones, and the others."""
        by, references = Counter[str](), Counter[str]()
        for (reference, how), count in self.leaks.items():
            by[how] += count
            references[reference] += count
        return {
            "leaks": self.leaks.total(),
            "leaks_by": dict(sorted(by.items())),
            "leaks_of": dict(sorted(references.items())),
            "clean": self.clean,
            "not_compared": self.not_compared.total(),
            "not_compared_why": dict(sorted(self.not_compared.items())),
        }


def summarise(
    dataset: ImageTextPairDataset,
    prefix: str = "",
    pairs: int = 0,
    seed: int = 0,
    caption_column: str = "caption",
    clean_list: str | None = None,
    progress: bool | None = None,
) -> LeakSummary:
    """Count what `Decontaminate` found.

    Parameters
    ----------
    dataset : ImageTextPairDataset
        With its columns.
    prefix : str
        Of these columns.
    pairs : int
        How many rows to show of leaks, and a quarter as many of the nearest clean ones.
    seed : int
        For which leaks.
    caption_column : str
        Shown with rows, when there is one.
    clean_list : str, optional
        A Parquet file to write: ``key`` and ``shard`` of the rows that are clean. A folder beside
        it, which workers must see, holds its parts while it is made.
    progress : bool, optional

    Raises
    ------
    ColumnNotFoundError
        When the dataset lacks the columns.
    """
    names = [prefix + name for name in leak_columns("")]
    frames.require_columns(dataset.metadata, *names)
    columns = [dataset.id_col, SHARD_COLUMN, *names]
    if caption_column in dataset.metadata.columns:
        columns.append(caption_column)
    parts = None if clean_list is None else f"{clean_list}.parts"
    if parts:
        storage.make_dirs(parts)
    frame = dataset.metadata[columns]
    reader = _Reader(dataset.id_col, prefix, pairs, seed, caption_column, parts)
    arguments = [(reader, number) for number in range(frame.npartitions)]
    summaries = partitions.run(frame, _count_partition, arguments, what="count", progress=progress)
    if clean_list and parts:
        _join([storage.join(parts, _part(number)) for number in range(len(summaries))], clean_list)
        storage.remove_tree(parts)
    return _total(summaries, pairs)


class _Reader:
    """How a partition is counted."""

    def __init__(
        self,
        id_col: str,
        prefix: str,
        pairs: int,
        seed: int,
        caption_column: str,
        parts: str | None,
    ):
        self.id_col = id_col
        self.prefix = prefix
        self.pairs = pairs
        self.seed = seed
        self.caption_column = caption_column
        self.parts = parts


def _part(number: int) -> str:
    return f"{number:05d}.arrow"


def _count_partition(frame: Any, reader: _Reader, number: int) -> LeakSummary:
    """Count one partition, and write its part of the clean list; runs on a worker."""
    table = frames.to_arrow(frame)
    named = {reader.id_col: "key", reader.caption_column: "caption"}
    named |= {reader.prefix + name: name for name in leak_columns("")}
    table = table.rename_columns([named.get(name, name) for name in table.column_names])
    is_leak = table["is_leak"].fill_null(False).to_numpy()
    is_clean = ~is_leak & table["leak_error"].is_null().to_numpy()
    summary = LeakSummary(rows=len(table))
    leaks = table.filter(pa.array(is_leak))
    summary.leaks.update(
        zip(leaks["leak_of_dataset"].to_pylist(), leaks["leak_by"].to_pylist(), strict=True)
    )
    summary.not_compared.update(table["leak_error"].drop_null().to_pylist())
    similarity = table["leak_similarity"].to_numpy().astype(np.float64)
    for kind, mask in (("leak", is_leak), ("clean", is_clean)):
        known = similarity[mask & ~np.isnan(similarity)]
        places = np.clip((known * BINS).astype(np.int64), 0, BINS - 1)
        summary.histogram[kind] += np.bincount(places, minlength=BINS)
    clean = table.filter(pa.array(is_clean))
    summary.sample = _lowest(leaks, random_score(leaks["key"], reader.seed), reader.pairs)
    named_clean = clean.filter(clean["leak_similarity"].is_valid())
    distance = 1 - named_clean["leak_similarity"].to_numpy().astype(np.float64)
    summary.nearest = _lowest(named_clean, distance, reader.pairs // 4)
    if reader.parts:
        rows = small_texts(clean.select(["key", SHARD_COLUMN]))
        with (
            storage.atomic_write(storage.join(reader.parts, _part(number))) as file,
            pa.ipc.new_file(file, _CLEAN) as writer,
        ):
            writer.write_table(rows.cast(_CLEAN))
    return summary


_CLEAN = pa.schema([("key", pa.string()), ("shard", pa.string())])


def _lowest(table: pa.Table, score: np.ndarray, count: int) -> list[dict[str, Any]]:
    """So many rows with the lowest scores, which they carry, of equals by key and shard."""
    scored = table.append_column("score", pa.array(score))
    order = pc.select_k_unstable(
        scored, min(count, len(scored)), [("score", "ascending"), ("key", "ascending")]
    )
    rows: list[dict[str, Any]] = scored.take(order).to_pylist()
    return rows


def _join(parts: Sequence[str], file: str) -> None:
    """Write a Parquet file with the rows of others, of which one is in memory at a time."""
    with (
        storage.atomic_write(file) as opened,
        pq.ParquetWriter(opened, _CLEAN, compression="zstd") as writer,
    ):
        for part in parts:
            with storage.open_read(part) as read:
                writer.write_table(pa.ipc.open_file(read).read_all())


def _total(summaries: Iterable[LeakSummary], pairs: int) -> LeakSummary:
    whole = LeakSummary()
    for summary in summaries:
        whole.rows += summary.rows
        whole.leaks += summary.leaks
        whole.not_compared += summary.not_compared
        for kind, counts in summary.histogram.items():
            whole.histogram[kind] += counts
        whole.sample += summary.sample
        whole.nearest += summary.nearest

    def by_score(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["score"], row["key"], row[SHARD_COLUMN]

    whole.sample = sorted(whole.sample, key=by_score)[:pairs]
    whole.nearest = sorted(whole.nearest, key=by_score)[: pairs // 4]
    return whole
