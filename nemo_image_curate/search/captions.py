"""`CaptionIndex`: full-text search of captions, in one SQLite file beside the dataset's indexes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import partitions, saving
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.index.format import local_folder
from nemo_image_curate.shards.columns import content_digest

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

FORMAT = 1
# Porter's stemmer finds "dogs" by "dog". Measured on Flickr8k, 1,500 captions each looked for by
# another caption of its image: among the first ten in 62 %; without stemming in 57 %, with the
# trigram tokenizer in 58 %, in three times the space and without words of two letters.
_TOKENIZER = "porter unicode61 remove_diacritics 2"
# Scripts that write no spaces between words (Thai, Lao, Myanmar, Khmer, kana, Chinese): each
# letter is indexed as a word, and looked for in pairs.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
_LETTER = re.compile(f"[{_UNSPACED}]")
_RUN = re.compile(f"([{_UNSPACED}]+)")
# Control characters too: SQLite reads no further than the first NUL.
_BETWEEN_WORDS = re.compile(r'[\s\x00-\x1f,;:!?()/|"]+')
# Words in more captions than this share change nothing in the measurement above, and take most of
# the time: of 300,000 captions 0.33 s with them, 0.16 s without.
_COMMON = 0.25
_FEW = 1000
_MOST_WORDS = 64


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
    location = storage.normalise(captions_path(dataset) if path is None else path)
    local_folder(location)
    source = _Source(dataset, column)
    parts = f"{location}.parts"
    with storage.exclusive(location), contextlib.ExitStack() as cleaning:
        # Of a run that was killed, too.
        storage.remove_tree(parts)
        cleaning.callback(storage.remove_tree, parts)
        storage.make_dirs(parts)
        names = [storage.join(parts, f"{number}.arrow") for number in range(len(source))]
        digests = source.read(names, progress)
        about = {"column": column, "fingerprints": source.fingerprints, "digests": digests}
        built = storage.join(parts, "captions.db")
        _fill(built, names, about)
        os.replace(built, location)
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
            about: dict[str, Any] = json.loads(
                *database.execute("SELECT about FROM info").fetchone()
            )
        if about["format"] != FORMAT:
            raise DatasetError(
                f"{self.path} has format {about['format']!r}; this version reads {FORMAT}. Build "
                "it again: build_captions(dataset)."
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
        phrases = _phrases(text)
        with self._opened() as database:
            (last,) = database.execute("SELECT max(id) FROM samples").fetchone()
            limit = max(_FEW, int(_COMMON * (last or 0)))
            counts = [_count(database, phrase, limit) for phrase in phrases]
            present = [one for one, count in zip(phrases, counts, strict=True) if count]
            rare = [one for one, count in zip(phrases, counts, strict=True) if 0 < count < limit]
            found = _best(database, rare or present, n)
            if len(found) < n and 0 < len(rare) < len(present):
                # No more have a rare word: the rest has only common ones.
                found = list(dict.fromkeys(found + _best(database, present, n)))[:n]
            return found

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
        except sqlite3.DatabaseError as error:
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
        places = [f"partition {number}" for number in range(self.frame.npartitions)]
        targets = saving.plan(self.frame, dataset.source()[1], places, False, "captions")
        self.labels = [target.label for target in targets]
        # From what is known of a partition without reading it.
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


def _fill(path: str, parts: list[str], about: dict[str, Any]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        # Nobody sees the file before it is whole.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE info (about TEXT)")
        database.execute("CREATE TABLE samples (id INTEGER PRIMARY KEY, shard TEXT, key TEXT)")
        # The texts themselves are in the dataset: only their words are kept.
        database.execute(
            f"CREATE VIRTUAL TABLE captions USING fts5(text, content='', tokenize='{_TOKENIZER}')"
        )
        samples = 0
        for part in parts:
            for batch in _batches(part):
                rows = batch.to_pydict()
                ids = range(samples, samples + len(batch))
                samples += len(batch)
                database.executemany(
                    "INSERT INTO samples VALUES (?, ?, ?)",
                    zip(ids, rows["shard"], rows["key"], strict=True),
                )
                texts = (_LETTER.sub(r" \g<0> ", text) for text in rows["caption"])
                database.executemany(
                    "INSERT INTO captions (rowid, text) VALUES (?, ?)", zip(ids, texts, strict=True)
                )
        whole = {**about, "format": FORMAT, "samples": samples}
        database.execute("INSERT INTO info VALUES (?)", (json.dumps(whole),))
        database.commit()


def _batches(part: str) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(part) as file, pa.ipc.open_file(file) as opened:
        for number in range(opened.num_record_batches):
            yield opened.get_batch(number)


def _phrases(text: str) -> list[str]:
    """The words of a text as FTS5 phrases, quoted so that nothing in them is an operator."""
    # A lone surrogate is no character; SQLite would refuse it.
    words = _BETWEEN_WORDS.split(text.encode("utf-8", "ignore").decode())
    runs = [run for word in words for run in _RUN.split(word) if run]
    phrases: dict[str, None] = {}
    for run in runs:
        if _LETTER.match(run):
            starts = range(max(1, len(run) - 1))
            phrases |= {f'"{" ".join(run[start : start + 2])}"': None for start in starts}
        else:
            phrases[f'"{run}"'] = None
    return list(phrases)[:_MOST_WORDS]


def _best(database: sqlite3.Connection, phrases: list[str], n: int) -> list[tuple[str, str]]:
    """The samples with one of some phrases, the best first."""
    return database.execute(
        "SELECT shard, key FROM (SELECT rowid AS id, rank FROM captions WHERE captions "
        "MATCH ? ORDER BY rank, id LIMIT ?) JOIN samples USING (id) ORDER BY rank, id",
        (" OR ".join(phrases) or '""', n),
    ).fetchall()


def _count(database: sqlite3.Connection, phrase: str, limit: int) -> int:
    """In how many captions a phrase is, counted up to a limit."""
    (count,) = database.execute(
        "SELECT count(*) FROM (SELECT 1 FROM captions WHERE captions MATCH ? LIMIT ?)",
        (phrase, limit),
    ).fetchone()
    return int(count)
