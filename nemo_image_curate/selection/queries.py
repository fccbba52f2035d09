"""Lists of queries: read from files, or built as CLIP's were."""

from __future__ import annotations

import json
import logging
import os
import reprlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.selection.checks import check_integer
from nemo_image_curate.selection.terms import FrequentTerms, Texts

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

logger = logging.getLogger(__name__)
# Where Debian's package wordnet-base puts it.
WORDNET = "/usr/share/wordnet"


def read_queries(queries: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Queries in their order: each once, without space at its ends, and none empty.

    Parameters
    ----------
    queries : str, path or sequence of str
        A file in UTF-8 with a query in each line, or of JSON (``.json``) with a list of them; or
        the queries.

    Raises
    ------
    NotFoundError
        When there is no such file.
    DatasetError
        When it does not hold what it should.
    ConfigError
        When something else than texts is given, or nothing.
    """
    if isinstance(queries, (str, os.PathLike)):
        queries = _read(storage.normalise(queries))
    if not isinstance(queries, Iterable) or isinstance(queries, (bytes, Iterator, Set)):
        # They are read more than once, and their order is that of the column.
        raise ConfigError(
            f"queries={reprlib.repr(queries)} should be a file of queries, or a list of them."
        )
    for place, query in enumerate(queries):
        if not isinstance(query, str):
            raise ConfigError(f"queries: number {place} is {query!r}; give texts.")
    listed = [query for query in dict.fromkeys(map(str.strip, queries)) if query]
    if not listed:
        raise ConfigError("there are no queries; give at least one.")
    return listed


def _read(location: str) -> list[Any]:
    try:
        text = storage.read_bytes(location).decode("utf-8-sig")
        if not location.endswith(".json"):
            return text.split("\n")
        listed = storage.parse_json(text)
    except ValueError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{location}: {error}. A file of queries is a text in UTF-8 with one in each line, or "
            "ends in .json and holds a list of texts."
        ) from error
    if not isinstance(listed, list):
        raise DatasetError(f"{location} holds no list; give a JSON list of texts.")
    return listed


def write_queries(path: str | os.PathLike[str], queries: Iterable[str]) -> None:
    """Write a file that `read_queries` reads: lines, or a JSON list where its name says so."""
    location = storage.normalise(path)
    is_json = location.endswith(".json")
    text = json.dumps(list(queries), ensure_ascii=False) if is_json else "\n".join([*queries, ""])
    storage.write_bytes(location, text.encode("utf-8", "backslashreplace"))


def build_queries(
    texts: ImageTextPairDataset | str | os.PathLike[str],
    min_count: int = 100,
    min_pmi: float = 6.0,
    wordnet: str | os.PathLike[str] | None = "auto",
    caption_column: str = "caption",
    ignore_case: bool = False,
    work_dir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> list[str]:
    """Build queries as CLIP's were: frequent words, pairs of them that belong together, WordNet.

    CLIP's 500,000 are all words that occur 100 times in the English Wikipedia, pairs of high
    mutual information, titles of articles that are often asked for, and the synsets of WordNet
    (Radford et al., 2021). Titles are not to be had offline: add them to the list.

    A word stands between spaces once ``, . ; : ? ! ``` stand apart, and neither begins nor ends
    with punctuation. So texts of scripts that are written without spaces give none: add theirs.
    Counts are exact. Memory: what is frequent on the client, and on a worker one piece of text.

    Parameters
    ----------
    texts : ImageTextPairDataset, str or path
        Its captions; or a file in UTF-8, not compressed, with a text in each line.
    min_count : int, default 100
        How often words, and pairs, occur at least.
    min_pmi : float, default 6.0
        Pointwise mutual information of pairs in bits: log2(N n_xy / (n_x n_y)), with N words in
        all. A pair of 6 occurs 64 times as often as it would by chance. MetaCLIP's 30 goes with
        Wikipedia, where N is 2^31 or more, and pairs may be as rare as one likes; no pair of
        words that occur `min_count` times comes to more than log2(N / min_count).
    wordnet : str, path or None
        A folder with WordNet's database (``data.noun`` and others). Default: that of Debian's
        package ``wordnet-base``, when it is installed. None for none.
    caption_column : str, default "caption"
    ignore_case : bool, default False
        Have all words in lower case, for `ConceptBalance` with ``ignore_case``.
    work_dir : str or path, optional
        A folder that all workers share. Default: the system's temporary folder.
    progress : bool, optional
        Show progress bars. Default: on a terminal.

    Returns
    -------
    list of str
        Words, then pairs, from the most frequent one on; then names of synsets.

    Raises
    ------
    ConfigError
        For an unusable parameter.
    ColumnNotFoundError
        When there is no column of captions.
    NotFoundError
        When there is no such file or folder.
    """
    check_integer("min_count", min_count, 1)
    names: list[str] = []
    if wordnet == "auto":
        wordnet = WORDNET if os.path.isdir(WORDNET) else None
        if wordnet is None:
            logger.warning(
                "WordNet is not installed, so that the queries lack the names of its synsets: "
                "apt-get install wordnet-base, or say where it is."
            )
    if wordnet is not None:
        names = synset_names(wordnet)
    if work_dir is not None:
        work_dir = storage.local_path(work_dir, "work_dir", "all workers share it")
        storage.make_dirs(work_dir)
    folder = Path(tempfile.mkdtemp(prefix="queries-", dir=work_dir))
    try:
        terms = FrequentTerms(
            Texts(texts, caption_column, ignore_case), min_count, folder, progress
        )
    finally:
        shutil.rmtree(folder)
    is_together = terms.mutual_information() >= min_pmi
    pairs = [f"{terms.words[a]} {terms.words[b]}" for a, b in terms.pairs[is_together]]
    names = [name.lower() for name in names] if ignore_case else names
    return list(dict.fromkeys([*terms.words, *pairs, *names]))


def synset_names(folder: str | os.PathLike[str] = WORDNET) -> list[str]:
    """The first word of each of WordNet's synsets, which is its name; each once.

    Parameters
    ----------
    folder : str or path
        With ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv``, as wndb(5WN) describes
        them.

    Raises
    ------
    NotFoundError
        When they are not there.
    """
    names: dict[str, None] = {}
    for kind in ("noun", "verb", "adj", "adv"):
        location = storage.join(storage.normalise(folder), f"data.{kind}")
        for line in storage.read_bytes(location).decode("utf-8").splitlines():
            # The licence is indented; adjectives may say where they stand: ``awake(p)``.
            if not line.startswith(" "):
                names[line.split(" ", 5)[4].partition("(")[0].replace("_", " ")] = None
    return list(names)
