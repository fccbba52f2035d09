"""`ConceptBalance`: as many pairs of each concept as are useful, by what captions say."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from nemo_image_curate import frames, locks
from nemo_image_curate.compute import worker_cache
from nemo_image_curate.dedup.results import work_folder
from nemo_image_curate.errors import ConfigError, DatasetError, NotFoundError
from nemo_image_curate.selection.checks import (
    check_integer,
    check_not_negative,
    check_one_of,
)
from nemo_image_curate.selection.matching import MatcherFiles
from nemo_image_curate.selection.queries import read_queries
from nemo_image_curate.selection.query_counts import QueryCounts
from nemo_image_curate.stages.base import NO_EFFECT, Stage, no_effect
from nemo_image_curate.tables import content_digest
from nemo_image_curate.vectors.sampling import random_score

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Parameters that decide a row's values once queries are counted.
_SETTINGS = ("per_query", "rule", "caption_column", "random_state", "unmatched")


@dataclass(eq=False)
class ConceptBalance(Stage):
    """Keeps many pairs of rare concepts, and fewer of each frequent one.

    A concept is a query that occurs in a caption, see `nemo_image_curate.selection.matching`.
    Captions are read when the stage is called, to count how many pairs each query matches, and
    again when columns are computed.

    Parameters
    ----------
    queries : str, path or sequence of str
        A file with a query in each line, or of JSON (``.json``) with a list of them; or the
        queries. `nemo_image_curate.selection.build_queries` makes them of captions and WordNet.
    per_query : int, default 20_000
        Pairs of a concept that are useful: t. It was 20,000 of CLIP's 400 million pairs, and
        170,000 of MetaCLIP's 2.5 billion.
    rule : {"probability", "cap"}
        With ``probability`` a pair of the concepts e, which match n_e pairs, is kept with the
        probability 1 - prod(1 - min(1, t / n_e)) (MetaCLIP: Xu et al., "Demystifying CLIP Data",
        2023). With ``cap`` each concept lets in the `per_query` pairs whose keys have the lowest
        hashes, and a pair is kept that any of its concepts lets in (CLIP: Radford et al.,
        "Learning Transferable Visual Models From Natural Language Supervision", 2021). Pairs with
        equal keys at the border stay out together.
    caption_column : str, default "caption"
    random_state : int, default 0
        The seed of the hashes of keys that decide.
    unmatched : float, default 0.0
        The probability to keep a pair that has no concept.
    ignore_case : bool, default False
    wrap_queries : bool, default False
        Have the punctuation inside queries stand apart, as it does in captions. Without it, as in
        MetaCLIP, a query such as ``St. Louis`` matches nothing.
    prefix : str, default ""
        Put before the names of the columns.
    work_dir : str or path, optional
        A folder that all workers share, for counts and the queries' automaton. Default: in the
        system's temporary folder.

    Columns
    -------
    concepts : list of string
        The queries that the caption matches, each once and in their order; null without a
        caption.
    keep_probability : float64
        How likely the pair's hash is to let it stay; with ``cap`` the highest of
        min(1, t / n_e). Null without a caption.
    selected : bool
        False without a caption.

    Notes
    -----
    Memory: with 500,000 queries a worker holds about 50 MB, and the client, which builds the
    automaton, 200 MB for some seconds.

    Examples
    --------
    >>> ds = ConceptBalance("queries.txt", per_query=500)(ds)
    >>> ds = ds.filter("selected")
    """

    requires: ClassVar[tuple[tuple[str, str], ...]] = (("daachorse", "balance"),)

    # What is in a file counts, not where it is: see `config`.
    queries: str | os.PathLike[str] | Sequence[str] = dataclasses.field(metadata=NO_EFFECT)
    per_query: int = 20_000
    rule: str = "probability"
    caption_column: str = "caption"
    random_state: int = 0
    unmatched: float = 0.0
    ignore_case: bool = False
    wrap_queries: bool = False
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    def check(self) -> None:
        """Refuse unusable parameters."""
        check_one_of("rule", self.rule, ("probability", "cap"))
        check_integer("per_query", self.per_query, 1)
        check_integer("random_state", self.random_state, 0)
        check_not_negative("unmatched", self.unmatched)
        if self.unmatched > 1:
            raise ConfigError(f"unmatched={self.unmatched} should be a probability, from 0 to 1.")

    def columns(self) -> dict[str, pa.DataType]:
        """The concepts of each row, and whether it is selected."""
        kinds = {
            "concepts": pa.list_(pa.field("item", pa.string())),
            "keep_probability": pa.float64(),
            "selected": pa.bool_(),
        }
        return {self.prefix + name: kind for name, kind in kinds.items()}

    def config(self) -> dict[str, Any]:
        """The parameters, and which queries they are."""
        queries = read_queries(self.queries)
        digest = content_digest(pa.table({"query": queries}))
        return {**self.parameters(), "n_queries": len(queries), "queries_sha256": digest}

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The captions."""
        return [self.caption_column]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns, whose counts are made now.

        Raises
        ------
        ConfigError
            For unusable parameters, queries or captions.
        ColumnNotFoundError
            When there is no column of captions.
        NotFoundError
            When there is no file of queries.
        """
        self.check()
        frames.require_columns(dataset.metadata, *self.needs(dataset))
        kind = frames.schema(dataset.metadata).field(self.caption_column).type
        if kind not in (pa.string(), pa.large_string(), pa.null()):
            raise ConfigError(f"caption_column={self.caption_column!r} holds {kind}, not texts.")
        queries = read_queries(self.queries)
        record = self.record()
        facts = [record["queries_sha256"], self.caption_column, self.ignore_case, self.wrap_queries]
        folder = work_folder(dataset, self.work_dir, type(self).__name__, facts)
        with locks.exclusive(str(folder)):
            files = MatcherFiles.write(folder, queries, self.ignore_case, self.wrap_queries)
            cap = self.per_query if self.rule == "cap" else None
            counting = QueryCounts(
                *(files, folder, self.caption_column, dataset.id_col, cap, self.random_state)
            )
            counts = counting.compute(dataset, len(files.names()), None)
        select = _Select(self, files, counts, dataset.id_col)
        return dataset.with_columns(select, self.columns(), dict.fromkeys(self.columns(), record))


class _Select:
    """Makes the columns of a partition; the function that Dask maps.

    Parameters
    ----------
    stage : ConceptBalance
    files : MatcherFiles
    counts : Path
        What `QueryCounts.compute` wrote.
    id_col : str
    """

    # What Dask's dashboard calls these tasks.
    __name__ = "balance-concepts"

    def __init__(self, stage: ConceptBalance, files: MatcherFiles, counts: Path, id_col: str):
        self.settings = {name: getattr(stage, name) for name in _SETTINGS}
        self.names = list(stage.columns())
        self.files = files
        self.counts = counts
        self.id_col = id_col
        self.digest = content_digest(pa.table({"query": files.names()}), np.load(counts))

    def __dask_tokenize__(self) -> list[Any]:
        # With the place: Dask takes expressions of one name for one, and a folder may be gone.
        return [*self.content_token(), str(self.counts)]

    def content_token(self) -> list[Any]:
        """What decides the values, wherever it is."""
        return ["ConceptBalance", self.digest, repr(self.settings), self.id_col, *self.names]

    def _load(self) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """The queries, the probability that each gives a pair, and the highest hash it lets in."""
        counts, thresholds = np.load(self.counts)
        useful = self.settings["per_query"]
        return self.files.names(), useful / np.maximum(counts, useful), thresholds

    def __call__(self, frame: Any) -> dict[str, Any]:
        try:
            matcher = self.files.matcher()
            names, chances, thresholds = worker_cache.get_or_build(
                f"concepts {self.digest} {self.settings['per_query']}", self._load
            )
        except (NotFoundError, FileNotFoundError) as error:
            raise DatasetError(
                f"{self.counts.parent} holds no counts of queries: its files are gone, or this "
                "worker does not see them. Run ConceptBalance again; give work_dir a folder that "
                "all workers share."
            ) from error
        captions = frames.column_to_arrow(frame[self.settings["caption_column"]])
        keys = frames.column_to_arrow(frame[self.id_col])
        rows, queries = matcher.match(captions)
        ends = np.searchsorted(rows, np.arange(len(captions) + 1)).astype(np.int32)
        is_null = captions.is_null()
        concepts = pa.ListArray.from_arrays(
            pa.array(ends), names.take(pa.array(queries)), mask=is_null
        )
        hashes = random_score(keys, self.settings["random_state"])
        probability = np.full(len(captions), float(self.settings["unmatched"]))
        is_selected = hashes < probability
        matched, first = np.unique(rows, return_index=True)
        if len(matched) and self.settings["rule"] == "cap":
            probability[matched] = np.maximum.reduceat(chances[queries], first)
            let_in = np.maximum.reduceat(thresholds[queries], first)
            is_selected[matched] = hashes[matched] <= let_in
        elif len(matched):
            probability[matched] = 1 - np.multiply.reduceat(1 - chances[queries], first)
            is_selected[matched] = hashes[matched] < probability[matched]
        absent = is_null.to_numpy(zero_copy_only=False)
        values = (
            concepts,
            pa.array(probability, mask=absent),
            pa.array(is_selected & ~absent),
        )
        return dict(zip(self.names, values, strict=True))
