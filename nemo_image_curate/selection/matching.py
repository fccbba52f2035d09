"""Which of many queries occur in captions: MetaCLIP's matching, by an Aho-Corasick automaton.

A caption gets a space on either side of each of ``, . ; : ? ! ```, spaces for tabs and line ends,
and a space at both ends; a query gets a space at both ends, unless a character there is
punctuation or of a script that is written without spaces. The query is matched where it occurs in
the caption, be it inside another match (MetaCLIP, ``metaclip/curation/substr_matching.py``; Xu et
al., "Demystifying CLIP Data", 2023). Kana are of such a script here, which they are not there.

Of the libraries daachorse was the fastest and smallest: with 430,750 queries 208,000 captions of
ten words a second on one core, where ahocorasick-rs does 150,000 and pyahocorasick 140,000; and
29 MB in each process, read in 10 ms, where theirs take 45 and 93 MB and are built in 1 s.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import storage
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.tables import content_digest, serialised

if TYPE_CHECKING:
    import daachorse

# As what stands in a regular expression's brackets.
PUNCTUATION = re.escape(string.punctuation) + (
    "\u2014\u2018\u2019\u201c\u201d"  # dash, quotes
    "\u3001\u3002\u3008-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\uff5e"  # East Asian
)
_UNSPACED_SCRIPTS = (
    # CJK with radicals and kana.
    "\u2e80-\u2fff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U000323af"
    # Thai, Lao, Tibetan, Burmese, Khmer.
    "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
)
_SPACE_BESIDE = f"[^{PUNCTUATION}{_UNSPACED_SCRIPTS}]"
# Between captions that are searched as one text; none has a line end of its own then.
_BORDER = b" \n "
# Captions that are searched at once: their matches are Python objects for a moment.
_SEARCHED_ROWS = 2048
_HIT = np.dtype([("start", np.int64), ("end", np.int64), ("query", np.int64)])


def spaced(texts: pa.Array) -> pa.Array:
    """Texts with spaces beside punctuation, and in place of tabs and line ends."""
    apart = pc.replace_substring_regex(texts, "[,.;:?!`]", r" \0 ")
    return pc.replace_substring_regex(apart, r"[\t\n\r]", " ")


def patterns(queries: Sequence[str], ignore_case: bool, wrap: bool) -> pa.Array:
    """What is looked for in captions to find queries, as an Arrow array of their length.

    Parameters
    ----------
    queries : sequence of str
        None empty, or with space at its ends.
    ignore_case : bool
    wrap : bool
        Whether the punctuation within them gets the spaces that it has in captions.
    """
    texts = pa.array(queries, pa.large_string())
    texts = pc.utf8_lower(texts) if ignore_case else texts
    texts = pc.utf8_trim_whitespace(spaced(texts)) if wrap else texts
    texts = pc.replace_substring_regex(texts, r"[\t\n\r]", " ")
    texts = pc.replace_substring_regex(texts, f"^{_SPACE_BESIDE}", r" \0")
    return pc.replace_substring_regex(texts, f"{_SPACE_BESIDE}$", r"\0 ")


class MatcherFiles:
    """A matcher on disk, which each process that needs it reads once.

    Attributes
    ----------
    token : str
        What tells it from others.
    queries : Path
        An Arrow file of those that differ, in the column ``query``.
    automaton : Path
    ignore_case : bool
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, folder: Path, token: str, ignore_case: bool):
        self.token = token
        self.queries = folder / f"queries-{token[:24]}.arrow"
        self.automaton = folder / f"automaton-{token[:24]}.bin"
        self.ignore_case = ignore_case

    @classmethod
    def write(
        cls, folder: Path, queries: Sequence[str], ignore_case: bool, wrap: bool
    ) -> MatcherFiles:
        """Build a matcher, unless it is there already.

        Memory: some 300 bytes for each query while it is built.

        Parameters
        ----------
        folder : Path
        queries, ignore_case, wrap
            As `patterns` takes them.
        """
        from daachorse import DoubleArrayAhoCorasick

        token = fingerprint(content_digest(pa.table({"query": queries})), ignore_case, wrap)
        files = cls(folder, token, ignore_case)
        if not files.automaton.exists():
            texts = patterns(queries, ignore_case, wrap).cast(pa.large_binary()).to_pylist()
            # Of those that are looked for alike the first stands for all.
            query_of = dict(zip(reversed(texts), reversed(queries), strict=True))
            texts = list(dict.fromkeys(texts))
            table = pa.table({"query": [query_of[text] for text in texts]})
            storage.write_bytes(str(files.queries), serialised(table))
            automaton = DoubleArrayAhoCorasick(texts)
            storage.write_bytes(str(files.automaton), automaton.serialize())
        return files

    def names(self) -> pa.Array:
        """The queries, read from disk as they are needed."""
        with pa.memory_map(str(self.queries)) as file:
            return pa.ipc.open_file(file).read_all()["query"].combine_chunks()

    def matcher(self) -> Matcher:
        """The matcher, which a process reads once."""
        return worker_cache.get_or_build(f"matcher {self.token}", self._load)

    def _load(self) -> Matcher:
        from daachorse import DoubleArrayAhoCorasick

        content = storage.read_bytes(str(self.automaton))
        return Matcher(DoubleArrayAhoCorasick.deserialize(content), self.ignore_case)


class Matcher:
    """Tells which queries occur in captions.

    Parameters
    ----------
    automaton : daachorse.DoubleArrayAhoCorasick
    ignore_case : bool
    """

    def __init__(self, automaton: daachorse.DoubleArrayAhoCorasick, ignore_case: bool):
        self.automaton = automaton
        self.ignore_case = ignore_case

    def match(self, captions: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The queries in each caption, each once.

        Parameters
        ----------
        captions : pyarrow.Array of string, length n
            None matches null.

        Returns
        -------
        row_numbers : numpy.ndarray of int64, shape (m,)
            Ascending.
        query_numbers : numpy.ndarray of int64, shape (m,)
            Ascending within a row.
        """
        captions = captions.cast(pa.large_string()).fill_null("")
        captions = spaced(pc.utf8_lower(captions) if self.ignore_case else captions)
        pieces = [
            self._match_some(captions.slice(start, _SEARCHED_ROWS), start)
            for start in range(0, len(captions), _SEARCHED_ROWS)
        ]
        matches = np.concatenate([np.empty((2, 0), dtype=np.int64), *pieces], axis=1)
        return matches[0], matches[1]

    def _match_some(self, captions: pa.Array, first_row: int) -> np.ndarray:
        """Row and query numbers, shape (2, m), found in a single search."""
        rows = pa.ListArray.from_arrays([0, len(captions)], captions.cast(pa.binary()))
        text: bytes = b" " + pc.binary_join(rows, _BORDER)[0].as_py() + b" "
        hits = self.automaton.find_overlapping(text)
        places = np.fromiter(hits, dtype=_HIT, count=len(hits))
        borders = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        row_numbers = first_row + np.searchsorted(borders, places["start"])
        pairs = np.unique(row_numbers << 32 | places["query"])
        return np.stack([pairs >> 32, pairs & 0xFFFFFFFF])
