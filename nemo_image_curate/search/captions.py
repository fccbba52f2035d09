"""`CaptionIndex`: full-text search of captions, in one SQLite file beside the dataset's indexes."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.dataset import partitions, saving
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.search import fulltext
from nemo_image_curate.tables import content_digest

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


def captions_path(dataset: ImageTextPairDataset) -> str:
    """Where a dataset's caption index is by default: ``<metadata_path>/index/captions.db``."""
    return storage.join(dataset.metadata_path, "index", "captions.db")


def build_captions(
    dataset: ImageTextPairDataset,
    column: str = "caption",
    path: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> CaptionIndex:
    """Index the captions of a dataset for full-text search.

    Memory: the captions of one partition on each worker, and of one here.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str, default "caption"
    path : str or path, optional
        The file, on a local or mounted file system that all workers share; it appears only when
        it is complete. Default: `captions_path`.
    progress : bool, optional
        Show a progress bar. Default: on a terminal.

    Raises
    ------
    ColumnNotFoundError
        When there is no such column.
    ConfigError
        When `path` is remote, or the column holds no texts of its own.
    JobError
        When partitions failed.
    """
    place = captions_path(dataset) if path is None else path
    location = storage.local_path(place, "path", "SQLite reads the file there")
    source = _Source(dataset, column)
    parts = f"{location}.parts"
    with locks.exclusive(*os.path.split(location)), contextlib.ExitStack() as cleaning:
        # Of a run that was killed, too.
        storage.remove_tree(parts)
        cleaning.callback(storage.remove_tree, parts)
        storage.make_dirs(parts)
        names = [storage.join(parts, f"{number}.arrow") for number in range(len(source))]
        digests = source.read(names, progress)
        about = {"column": column, "fingerprints": source.fingerprints, "digests": digests}
        complete = storage.join(parts, "captions.db")
        fulltext.write(complete, itertools.chain.from_iterable(map(_batches, names)), about)
        os.replace(complete, location)
    return CaptionIndex(location)


class CaptionIndex:
    """Full-text search of captions; made by `build_captions`, opened by `load`.

    Threads may share one: each search opens the file anew, which takes 0.3 ms.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str):
        self.path = path

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], dataset: ImageTextPairDataset | None = None
    ) -> CaptionIndex:
        """Open an index.

        Parameters
        ----------
        path : str or path
        dataset : ImageTextPairDataset, optional
            What it should belong to; partitions that were written anew since are read to see
            whether their captions are the same.

        Raises
        ------
        DatasetError
            When there is no index, it is damaged, or it is of other captions.
        """
        index = cls(storage.normalise(path))
        about = index.about()
        if dataset is not None:
            source = _Source(dataset, about["column"])
            if (
                source.fingerprints != about["fingerprints"]
                and source.read(None, None) != about["digests"]
            ):
                raise DatasetError(
                    f"{index.path} is of other captions than the dataset "
                    f"{dataset.metadata_path} has. Build it again: build_captions(dataset)."
                )
        return index

    def about(self) -> dict[str, Any]:
        """What was indexed: ``column``, ``samples``, and the marks of the partitions."""
        with self._opened() as database:
            about = fulltext.about(database)
        if about["format"] != fulltext.FORMAT:
            raise DatasetError(
                f"{self.path} has format {about['format']!r}; this version reads "
                f"{fulltext.FORMAT}. Build it again: build_captions(dataset)."
            )
        return about

    def __len__(self) -> int:
        return int(self.about()["samples"])

    def search(self, text: str, n: int) -> list[tuple[str, str]]:
        """The samples whose captions fit best to some words, by BM25.

        Parameters
        ----------
        text : str
            Words alone: quotes, operators and wildcards mean nothing. One of them is enough to be
            found; endings, accents and capitals do not matter.
        n : int

        Returns
        -------
        list of (shard, key), at most n
            Those with rarer words first, and the best first; equal ones in the order of the
            dataset.

        Raises
        ------
        ConfigError
            When `n` is below 0.
        """
        if n < 0:
            raise ConfigError(f"n={n} should not be below 0.")
        with self._opened() as database:
            return fulltext.ranked(database, text, n)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        again = "Make one: build_captions(dataset)."
        if storage.stat(self.path) is None:
            raise DatasetError(f"there is no caption index {self.path}. {again}")
        try:
            # Never changed in place: SQLite need not look for other writers.
            where = f"file:{quote(self.path)}?mode=ro&immutable=1"
            with contextlib.closing(sqlite3.connect(where, uri=True)) as database:
                yield database
        except (sqlite3.DatabaseError, ValueError) as error:
            raise DatasetError(f"{self.path} is damaged: {error}. {again}") from error


class _Source:
    """The captions of a dataset, partition by partition."""

    def __init__(self, dataset: ImageTextPairDataset, column: str):
        frames.require_columns(dataset.metadata, dataset.id_col, SHARD_COLUMN, column)
        if column in (dataset.id_col, SHARD_COLUMN):
            raise ConfigError(f"column={column!r} names the samples: captions are another column.")
        kind = frames.schema(dataset.metadata).field(column).type
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        if pa.types.is_nested(kind) or any(is_kind(kind) for is_kind in binary):
            raise ConfigError(f"column={column!r} holds {kind}, not texts.")
        self.frame = dataset.metadata[[SHARD_COLUMN, dataset.id_col, column]]
        targets = saving.plan_partitions(dataset, self.frame, "captions")
        self.labels = [target.label for target in targets]
        self.fingerprints = [target.fingerprint for target in targets]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, names: list[str] | None, progress: bool | None) -> list[str]:
        """The hash of each partition's captions; they are kept in files, where these are named."""
        files: Sequence[str | None] = names or [None] * len(self)
        return partitions.run(
            self.frame,
            _read_part,
            [(name,) for name in files],
            what="read captions",
            labels=self.labels,
            progress=progress,
        )


def _read_part(frame: Any, name: str | None) -> str:
    """Hash (shard, key, caption) of one partition's rows that have one; runs on a worker."""
    table = frames.to_arrow(frame).rename_columns(["shard", "key", "caption"])
    table = table.cast(pa.schema([(column, pa.large_string()) for column in table.column_names]))
    table = table.filter(table["caption"].is_valid())
    if name is not None:
        with storage.atomic_write(name) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=8192)
    return content_digest(table)


def _batches(part: str) -> Iterator[dict[str, list[str]]]:
    with pa.memory_map(part) as file, pa.ipc.open_file(file) as opened:
        for number in range(opened.num_record_batches):
            yield opened.get_batch(number).to_pydict()
