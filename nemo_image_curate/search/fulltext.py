"""Full-text search in a SQLite file: how it is written, and how the words of a text find rows."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nemo_image_curate import storage

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


def write(
    path: str, batches: Iterable[Mapping[str, Sequence[str]]], about: Mapping[str, Any]
) -> None:
    """Write an index.

    Parameters
    ----------
    path : str
        A new file.
    batches : iterable of mapping
        With columns of the same length: ``shard``, ``key``, ``caption``.
    about : mapping
        What `about` gives back, with ``format`` and ``samples``.
    """
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
        for batch in batches:
            ids = range(samples, samples + len(batch["key"]))
            samples += len(ids)
            database.executemany(
                "INSERT INTO samples VALUES (?, ?, ?)",
                zip(ids, batch["shard"], batch["key"], strict=True),
            )
            texts = (_LETTER.sub(r" \g<0> ", caption) for caption in batch["caption"])
            database.executemany(
                "INSERT INTO captions (rowid, text) VALUES (?, ?)", zip(ids, texts, strict=True)
            )
        record = {**about, "format": FORMAT, "samples": samples}
        database.execute("INSERT INTO info VALUES (?)", (json.dumps(record),))
        database.commit()


def about(database: sqlite3.Connection) -> dict[str, Any]:
    """What an index says of itself.

    Raises
    ------
    ValueError
        When that is no JSON object.
    """
    (text,) = database.execute("SELECT about FROM info").fetchone()
    record = storage.parse_json(text)
    if not isinstance(record, dict):
        raise ValueError("its record is no object")
    return record


def ranked(database: sqlite3.Connection, text: str, n: int) -> list[tuple[str, str]]:
    """At most `n` samples with some word of a text, those with rarer words first."""
    phrases = _phrases(text)
    (last,) = database.execute("SELECT max(id) FROM samples").fetchone()
    limit = max(_FEW, int(_COMMON * (last or 0)))
    counts = {phrase: _count(database, phrase, limit) for phrase in phrases}
    present = [phrase for phrase, count in counts.items() if count]
    rare = [phrase for phrase in present if counts[phrase] < limit]
    samples = _best(database, rare or present, n)
    if len(samples) < n and 0 < len(rare) < len(present):
        # No more have a rare word: the rest has only common ones.
        samples = list(dict.fromkeys(samples + _best(database, present, n)))[:n]
    return samples


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
