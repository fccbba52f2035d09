"""`compare_subsets`: which of some subsets is better to train on, by a proxy that takes minutes."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import frames
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.selection.checks import check_integer
from nemo_image_curate.selection.subsets.classes import class_prompts, label_numbers
from nemo_image_curate.selection.subsets.intervals import compared
from nemo_image_curate.selection.subsets.membership import Subset, membership
from nemo_image_curate.selection.subsets.result import SubsetComparison
from nemo_image_curate.selection.subsets.rows import (
    ANY,
    HELD_OUT,
    TIE,
    Columns,
    Rows,
    Shares,
    account,
    count_rows,
    sample_rows,
)
from nemo_image_curate.selection.subsets.trials import HeldOut, Training, outcomes
from nemo_image_curate.vectors.sampling import hash_bits

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.embedders.text_image import TextImageEmbedder

# Pairs of a batch that is chosen here, at most and at least.
_LARGEST_BATCH, _SMALLEST_BATCH = 512, 32
# Pairs that a head is shown unless that is said: more made no difference with 1,200 photographs
# of Flickr8k, and with more rows each should be seen twice.
_SAMPLES_SEEN, _PASSES = 32_000, 2
# Of fewer held-out rows recalls among them say nothing.
_FEWEST_HELD_OUT = 20


def compare_subsets(
    dataset: ImageTextPairDataset,
    subsets: Mapping[str, Subset],
    *,
    samples_seen: int | None = None,
    seeds: int = 5,
    held_out: float | Subset = 0.2,
    label_column: str | None = None,
    embedding_column: str = "image_embedding",
    text_embedding_column: str = "text_embedding",
    baseline: str | None = None,
    batch_size: int | None = None,
    templates: str | Sequence[str] = "simple-7",
    embedder: TextImageEmbedder | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> SubsetComparison:
    """Which subset is better to train on: a proxy on frozen features, in minutes.

    DataComp trains a CLIP from nothing on each filtered subset, all with the same compute, and
    compares the CLIPs (Gadre et al., "DataComp: In search of the next generation of multimodal
    datasets", 2023). Here two linear layers are trained on embeddings that the dataset has, all
    with the same number of samples seen, and compared on the same held-out rows: texts find
    pictures, pictures find texts, and labels are told without training on them. It ranks filters
    whose effect is that pairs fit or do not fit, and that rows are of more or fewer kinds. It
    cannot tell what a CLIP would reach, nor what the frozen encoders do not see, such as text in
    pictures that they cannot read; nor what only shows at scale. Held-out rows are of this
    dataset, with its own noise, unless `held_out` says which are clean.

    Parameters
    ----------
    dataset : ImageTextPairDataset
        With embeddings of images and captions, not necessarily of one encoder. Save what was dear
        to compute: rows are read twice.
    subsets : mapping of str to subset
        Two or more, by name; they may overlap. Each is an expression over the columns, as
        `ImageTextPairDataset.filter` takes it; the file of a selection (a path, or a text that
        ends in ``.parquet``; how often it takes a row does not count); a Dask series of bool made
        from the dataset's metadata; an array of a bool for each row; or None for all rows.
    samples_seen : int, optional
        Pairs that each head is shown, of whatever subset. Default: 32,000, or twice the rows of
        the largest subset where that is more.
    seeds : int, default 5
        How often the rows of each subset are split into halves; a head is trained on each half.
    held_out : float or subset, default 0.2
        The share of all rows, by a hash of their keys, that is taken out of every subset and
        compared on; or, given as a subset is, the rows to choose from, all of which are taken out.
        At most 5,000 are compared on.
    label_column : str, optional
        Texts; then the held-out rows that have one are also labelled by prompts, which the text
        encoder of `text_embedding_column` embeds and the head projects.
    embedding_column, text_embedding_column : str
    baseline : str, optional
        Compare each subset with this one. Default: each with each.
    batch_size : int, optional
        Default: 512, or half of the rows of the smallest subset.
    templates : str or sequence of str, default "simple-7"
        Of the prompts, as for `ZeroShotClassifier`.
    embedder : TextImageEmbedder, optional
        Whose text side embeds the prompts. Default: the one that is recorded for the texts.
    seed : int, default 0
        Of all choices and starts.
    progress : bool, optional
        Show progress bars. Default: on a terminal.

    Returns
    -------
    SubsetComparison
        Prints itself as a table. `intervals.difference` says what the intervals are made of.

    Raises
    ------
    ColumnNotFoundError
        When a column is not there; for embeddings with the command that makes them.
    ConfigError
        For unusable parameters; when a subset is empty, is the same as another, or is smaller
        than two batches; when too few rows are held out.

    Notes
    -----
    Copies of held-out rows are left out of training where columns tell them: rows of the same
    ``sha256`` or ``image_sha256``, or of one group by a column that ends in ``duplicate_of``.
    They are counted.

    Memory: on the client 100,000 rows of all subsets together at most, chosen by a hash of their
    keys with the same share for each subset, some 600 MB; on a worker a partition. Time: two
    heads for each subset and seed; of 1,000 rows, 1,664 + 384 values and 32,000 samples seen some
    5 seconds each on a CPU core, and proportional to samples and values.

    Examples
    --------
    >>> compared = compare_subsets(  # doctest: +SKIP
    ...     ds, {"filtered": "clip_score > 0.3", "random": "random_score < 0.3"}
    ... )
    >>> compared.verdict("filtered", "random")  # doctest: +SKIP
    'better'
    """
    _check(subsets, samples_seen, seeds, batch_size, baseline)
    share = _held_out_share(held_out)
    _require_embeddings(dataset, embedding_column, text_embedding_column)
    frames.require_columns(dataset.metadata, *filter(None, [label_column]))
    columns = Columns.of(dataset, embedding_column, text_embedding_column, label_column)
    found = membership(dataset, subsets if share is not None else {**subsets, HELD_OUT: held_out})
    sizes = count_rows(found, dataset.id_col, progress)
    _refuse_empty(sizes)
    rows = sample_rows(found, columns, Shares.of(sizes, share, seed), progress)
    _refuse_few_held_out(rows, columns)
    is_leak, leaks = _leaks(rows)
    members = {name: rows.members[name] & ~rows.is_held_out & ~is_leak for name in subsets}
    _refuse_equal(members)
    accounts = {name: account(rows, name, members[name], is_leak) for name in subsets}
    training = _training(accounts, samples_seen, batch_size, seeds, seed)
    tried, classes = _held_out(
        dataset,
        rows,
        columns,
        embedder or dataset.provenance.get(text_embedding_column, {}),
        templates,
    )
    units = rows.units(columns.key)
    splits = [_halves(mask, units, training) for mask in members.values()]
    hits = outcomes(rows.images, rows.texts, splits, tried, training, progress)
    about = {
        "rows": sizes[""],
        "held_out": len(tried.images),
        "labelled": int((tried.labels >= 0).sum()) if tried.labels is not None else None,
        "classes": len(classes),
        "leaks": leaks,
        "not_in_dataset": {
            name: listed - sizes[name]
            for name, listed in found.listed.items()
            if listed > sizes[name]
        },
        **vars(training),
    }
    return SubsetComparison.of(accounts, hits, compared(list(subsets), hits, baseline), about)


def _check(
    subsets: Mapping[str, Subset],
    samples_seen: int | None,
    seeds: int,
    batch_size: int | None,
    baseline: str | None,
) -> None:
    if not isinstance(subsets, Mapping) or len(subsets) < 2:
        raise ConfigError(
            "give two subsets or more by name, such as {'filtered': 'clip_score > 0.3', 'all': "
            "None}."
        )
    for name in subsets:
        if not isinstance(name, str) or not name.strip() or name in (HELD_OUT, ANY):
            raise ConfigError(f"{name!r} is no name of a subset; give a text that is not empty.")
    if baseline is not None and baseline not in subsets:
        raise ConfigError(f"baseline={baseline!r} is none of the subsets {', '.join(subsets)}.")
    check_integer("seeds", seeds, 2)
    if samples_seen is not None:
        check_integer("samples_seen", samples_seen, 1)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 2)


def _held_out_share(held_out: float | Subset) -> float | None:
    """The share of rows; None where rows are named."""
    if isinstance(held_out, bool) or not isinstance(held_out, numbers.Real):
        if held_out is None or isinstance(held_out, bool):
            raise ConfigError(f"held_out={held_out!r} should be a share, or rows as of a subset.")
        return None
    if not 0 < float(held_out) < 1:
        raise ConfigError(f"held_out={held_out!r} should be over 0 and below 1.")
    return float(held_out)


def _require_embeddings(dataset: ImageTextPairDataset, images: str, texts: str) -> None:
    columns = dataset.metadata.columns
    for name, remedy in (
        (images, "nemo-image-curate embed DATASET adds embeddings of images."),
        (
            texts,
            "Models with a text side add embeddings of captions: nemo-image-curate embed DATASET "
            "--model offline-conse (or open_clip:ARCHITECTURE:TAG), which makes those of images "
            "anew. To keep these, in Python: ConseEmbedder().embed_captions(dataset).",
        ),
    ):
        if name not in columns:
            raise ColumnNotFoundError(name, columns, remedy)


def _refuse_empty(sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if not size and name != ANY:
            called = {HELD_OUT: "held_out", "": "the dataset"}.get(name, f"subset {name!r}")
            raise ConfigError(f"{called} has no rows.")


def _refuse_few_held_out(rows: Rows, columns: Columns) -> None:
    count = int(rows.is_held_out.sum())
    if count < _FEWEST_HELD_OUT:
        whole = rows.counts[""]
        raise ConfigError(
            f"only {count} rows are held out that have both embeddings; at least "
            f"{_FEWEST_HELD_OUT} are needed. Of {whole['rows']:,} rows {whole['no_image']:,} have "
            f"no {columns.images}, and {whole['no_text']:,} more no {columns.texts}. Give a larger "
            "held_out=."
        )


def _refuse_equal(members: Mapping[str, np.ndarray]) -> None:
    for (first, own), (second, other) in itertools.combinations(members.items(), 2):
        if own.any() and np.array_equal(own, other):
            raise ConfigError(
                f"subsets {first!r} and {second!r} have the same rows to train on, those that are "
                "not held out: there is nothing to compare."
            )


def _leaks(rows: Rows) -> tuple[np.ndarray, dict[str, int]]:
    """Which rows are copies of held-out ones, and how many are by which column."""
    is_leak, counts = np.zeros(len(rows.table), dtype=bool), {}
    for name in rows.table.column_names:
        if name.startswith(TIE):
            values = rows.table[name]
            known = values.filter(pa.array(rows.is_held_out)).drop_null()
            is_copy = pc.is_in(values, value_set=known, skip_nulls=True).to_numpy()
            is_copy &= ~rows.is_held_out
            counts[name.removeprefix(TIE)] = int(is_copy.sum())
            is_leak |= is_copy
    return is_leak, counts


def _training(
    accounts: Mapping[str, Mapping[str, int]],
    samples_seen: int | None,
    batch_size: int | None,
    seeds: int,
    seed: int,
) -> Training:
    """How heads are trained, the same for all subsets."""
    smallest = min(accounts, key=lambda name: accounts[name]["trained_on"])
    half = accounts[smallest]["trained_on"] // 2
    batch = batch_size or min(_LARGEST_BATCH, max(half, _SMALLEST_BATCH))
    if half < batch:
        told = ", ".join(f"{size:,} {what}" for what, size in accounts[smallest].items())
        raise ConfigError(
            f"subset {smallest!r} is too small: a head is trained on a half of its rows, which "
            f"should be at least a batch of {batch}. It has: {told.replace('_', ' ')}. Take a "
            "larger subset or a smaller batch_size=."
        )
    largest = max(own["trained_on"] for own in accounts.values())
    return Training(samples_seen or max(_SAMPLES_SEEN, _PASSES * largest), batch, seeds, seed)


def _held_out(
    dataset: ImageTextPairDataset,
    rows: Rows,
    columns: Columns,
    encoder: TextImageEmbedder | Mapping[str, Any],
    templates: str | Sequence[str],
) -> tuple[HeldOut, list[str]]:
    """The rows that heads are tried on, and the classes of their labels."""
    images, texts = (vectors[rows.is_held_out] for vectors in (rows.images, rows.texts))
    if columns.label is None:
        return HeldOut(images, texts), []
    column = rows.table[columns.label].filter(pa.array(rows.is_held_out))
    labels, classes = label_numbers(column, columns.label)
    prompts = class_prompts(classes, templates, encoder, texts.shape[1])
    return HeldOut(images, texts, labels, prompts), classes


def _halves(
    is_member: np.ndarray, units: pa.ChunkedArray, training: Training
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows of a subset in halves, for each seed; rows of two subsets go to the same ones."""
    rows = np.flatnonzero(is_member)
    own = units.take(pa.array(rows))
    splits = []
    for number in range(training.seeds):
        in_order = rows[np.argsort(hash_bits(own, training.seed + number), kind="stable")]
        splits.append((in_order[: len(rows) // 2], in_order[len(rows) // 2 :]))
    return splits
