"""Words and pairs of words that are frequent in any amount of text, counted exactly.

Each piece of text sends its counts to tasks by the hash of the word; what the client gets is what
is frequent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import infer_compression

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.matching import PUNCTUATION, spaced
from nemo_image_curate.tables import serialised
from nemo_image_curate.vectors.sampling import random_score

# Bytes of a text file that one task takes.
_BLOCK = 1 << 25
# Neither begins nor ends with punctuation.
_MARK = f"[^{PUNCTUATION}]"
_WORD = f"^{_MARK}(.*{_MARK})?$"


class Texts:
    """Texts in pieces: the captions of a dataset by partitions, or the lines of a file by blocks.

    Parameters
    ----------
    source : ImageTextPairDataset, str or path
    caption_column : str
        Of a dataset.
    ignore_case : bool

    Raises
    ------
    ColumnNotFoundError
        When there is no such column.
    NotFoundError
        When there is no such file.
    ConfigError
        When it is compressed.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, source: Any, caption_column: str, ignore_case: bool):
        self.ignore_case = ignore_case
        self.frame: Any = None
        self.blocks: list[Any] = []
        if hasattr(source, "metadata"):
            frames.require_columns(source.metadata, caption_column)
            self.frame = source.metadata[[caption_column]]
        else:
            from dask.bytes import read_bytes

            location = storage.normalise(source)
            if compression := infer_compression(location):
                raise ConfigError(
                    f"{location} is compressed ({compression}), and cannot be read in pieces. "
                    "Decompress it."
                )
            with storage.reaching(location):
                _, ((*self.blocks,),) = read_bytes(location, b"\n", blocksize=_BLOCK, sample=False)
            # Of an empty file.
            self.blocks = self.blocks or [dask.delayed(b"")]

    def __len__(self) -> int:
        return len(self.blocks) if self.frame is None else self.frame.npartitions

    def fill(
        self, function: Callable[..., Any], *arguments: Any, what: str, progress: bool | None
    ) -> list[Any]:
        """What a function makes of each piece, its number and the arguments."""
        numbered = [(self.ignore_case, number, *arguments) for number in range(len(self))]
        if self.frame is not None:
            return partitions.run(self.frame, function, numbered, what=what, progress=progress)
        call = dask.delayed(function, pure=False)
        tasks = [call(block, *args) for block, args in zip(self.blocks, numbered, strict=True)]
        return jobs.compute_all(tasks, [f"block {n}" for n in range(len(tasks))], what, progress)


def _tokens(piece: Any, ignore_case: bool) -> tuple[pa.Array, np.ndarray]:
    """What stands between spaces in a piece of text, and which text each is of."""
    if isinstance(piece, bytes):
        texts = pa.array(piece.decode("utf-8", "replace").split("\n"), pa.large_string())
    else:
        texts = frames.column_to_arrow(piece.iloc[:, 0]).cast(pa.large_string()).drop_null()
    tokens = pc.utf8_split_whitespace(spaced(pc.utf8_lower(texts) if ignore_case else texts))
    return tokens.flatten(), pc.list_parent_indices(tokens).to_numpy()


class FrequentTerms:
    """Words and pairs of them, with how often they occur.

    Attributes
    ----------
    words : list of str
        From the most frequent one on.
    counts : numpy.ndarray of int64, shape (v,)
        Of `words`.
    total : int
        Of all words, frequent or not.
    pairs : numpy.ndarray of int64, shape (p, 2)
        Places in `words` of words that follow each other, from the most frequent pair on.
    pair_counts : numpy.ndarray of int64, shape (p,)
    """

    # No dataclass: its arrays have no order or truth.
    def __init__(self, texts: Texts, min_count: int, folder: Path, progress: bool | None):
        """Count in two passes.

        Parameters
        ----------
        texts : Texts
        min_count : int
        folder : Path
            For files, which all workers share.
        progress : bool or None
        """
        receivers = max(1, min(len(texts), 256))
        words = Exchange(folder, "words", len(texts), receivers)
        self.total = sum(texts.fill(_send_words, words, what="count words", progress=progress))
        table = _frequent(words, min_count, progress).sort_by(
            [("count", "descending"), ("term", "ascending")]
        )
        self.words: list[str] = table["term"].to_pylist()
        self.counts: np.ndarray = table["count"].to_numpy()
        vocabulary = folder / "words.arrow"
        storage.write_bytes(str(vocabulary), serialised(table.select(["term"])))
        pairs = Exchange(folder, "pairs", len(texts), receivers)
        texts.fill(_send_pairs, pairs, vocabulary, what="count pairs", progress=progress)
        table = _frequent(pairs, min_count, progress).sort_by(
            [("count", "descending"), ("term", "ascending")]
        )
        terms = table["term"].to_numpy().astype(np.int64)
        self.pairs = np.stack(
            [terms // max(1, len(self.words)), terms % max(1, len(self.words))], 1
        )
        self.pair_counts: np.ndarray = table["count"].to_numpy()

    def mutual_information(self) -> np.ndarray:
        """The pointwise mutual information of the pairs in bits, float64, shape (p,).

        log2(N n_xy / (n_x n_y)) with N words in all, as NLTK defines it and MetaCLIP takes it
        (Church and Hanks, "Word association norms, mutual information, and lexicography", 1990).
        """
        singles = self.counts[self.pairs].astype(float).prod(axis=1)
        bits: np.ndarray = np.log2(self.total * self.pair_counts / singles)
        return bits


def _send_words(piece: Any, ignore_case: bool, number: int, words: Exchange) -> int:
    """Send the words of a piece of text, and tell how many there are; runs on a worker."""
    tokens, _ = _tokens(piece, ignore_case)
    tokens = tokens.filter(pc.match_substring_regex(tokens, _WORD))
    counted = tokens.value_counts()
    terms, counts = counted.field("values"), counted.field("counts")
    receivers = (random_score(terms, 0) * words.receivers).astype(np.int64)
    words.write(number, pa.table({"term": terms, "count": counts}), receivers)
    return len(tokens)


def _send_pairs(
    piece: Any, ignore_case: bool, number: int, pairs: Exchange, vocabulary: Path
) -> None:
    """Send the pairs of frequent words in a piece of text; runs on a worker."""
    with pa.memory_map(str(vocabulary)) as file:
        words = pa.ipc.open_file(file).read_all()["term"].combine_chunks()
    tokens, texts = _tokens(piece, ignore_case)
    places = pc.index_in(tokens, value_set=words).fill_null(-1).to_numpy().astype(np.int64)
    is_pair = (places[1:] >= 0) & (places[:-1] >= 0) & (texts[1:] == texts[:-1])
    terms, counts = np.unique((places[:-1] * len(words) + places[1:])[is_pair], return_counts=True)
    pairs.write(number, pa.table({"term": terms, "count": counts}), terms % pairs.receivers)


def _frequent(terms: Exchange, min_count: int, progress: bool | None) -> pa.Table:
    """The terms, each with its count, that are frequent enough."""
    call = dask.delayed(_sum, pure=False)
    tasks = [call(terms, number, min_count) for number in range(terms.receivers)]
    labels = [f"range {number}" for number in range(terms.receivers)]
    return pa.concat_tables(jobs.compute_all(tasks, labels, "count", progress))


def _sum(terms: Exchange, receiver: int, min_count: int) -> pa.Table:
    """Sum the counts of the terms that were sent to this task; runs on a worker."""
    summed = terms.read(receiver).group_by("term").aggregate([("count", "sum")])
    summed = summed.rename_columns(["term", "count"])
    return summed.filter(pc.greater_equal(summed["count"], min_count))
