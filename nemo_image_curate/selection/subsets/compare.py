"""`compare_subsets`: which of some subsets is better to train on, by a proxy that takes minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.selection.subsets.classes import class_prompts, label_numbers
from nemo_image_curate.selection.subsets.intervals import compared
from nemo_image_curate.selection.subsets.membership import Subset, membership
from nemo_image_curate.selection.subsets.refused import (
    check_options,
    held_out_share,
    refuse_empty,
    refuse_equal,
    refuse_few_held_out,
    require_embeddings,
)
from nemo_image_curate.selection.subsets.result import SubsetComparison
from nemo_image_curate.selection.subsets.rows import (
    account,
    count_rows,
    halves,
    leaks_of,
    sample_rows,
    units,
)
from nemo_image_curate.selection.subsets.taken import HELD_OUT, Columns, Rows, Shares
from nemo_image_curate.selection.subsets.trials import HeldOut, Training, outcomes

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.embedders.text_image import TextImageEmbedder

# Pairs of a batch that is chosen here, at most and at least.
_LARGEST_BATCH, _SMALLEST_BATCH = 512, 32
# Pairs that a head is shown unless that is said: more made no difference with 1,200 photographs
# of Flickr8k, and with more rows each should be seen twice.
_SAMPLES_SEEN, _PASSES = 32_000, 2
# Of fewer batches no head learns anything.
_FEWEST_BATCHES = 20


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
    keys with the same share for each subset: with 1,408 values a row 600 MB, and thrice as much
    for a moment; on a worker a partition. Time: two heads for each subset and seed. With 1,664 +
    384 values and 32,000 samples seen each takes some 6 seconds on a CPU core, and more in
    proportion to values and samples.

    Examples
    --------
    >>> compared = compare_subsets(  # doctest: +SKIP
    ...     ds, {"filtered": "clip_score > 0.3", "random": "random_score < 0.3"}
    ... )
    >>> compared.verdict("filtered", "random")  # doctest: +SKIP
    'better'
    """
    check_options(subsets, samples_seen, seeds, batch_size, baseline)
    share = held_out_share(held_out)
    require_embeddings(dataset, embedding_column, text_embedding_column)
    frames.require_columns(dataset.metadata, *filter(None, [label_column]))
    columns = Columns.of(dataset, embedding_column, text_embedding_column, label_column)
    masks = membership(dataset, subsets if share is not None else {**subsets, HELD_OUT: held_out})
    sizes = count_rows(masks, dataset.id_col, progress)
    refuse_empty(sizes)
    rows = sample_rows(masks, columns, Shares.of(sizes, share, seed), progress)
    refuse_few_held_out(rows, columns)
    is_leak, leaks = leaks_of(rows)
    members = {name: rows.members[name] & ~rows.is_held_out & ~is_leak for name in subsets}
    refuse_equal(members)
    accounts = {name: account(rows, name, members[name], is_leak) for name in subsets}
    training = _training(accounts, samples_seen, batch_size, seeds, seed)
    test_rows, classes = _held_out(
        dataset,
        rows,
        columns,
        embedder or dataset.provenance.get(text_embedding_column, {}),
        templates,
    )
    names = units(rows, columns.key)
    splits = [halves(mask, names, seeds, seed) for mask in members.values()]
    hits = outcomes(rows.images, rows.texts, splits, test_rows, training, progress)
    about = {
        "rows": sizes[""],
        "held_out": len(test_rows.images),
        "labelled": int((test_rows.labels >= 0).sum()) if test_rows.labels is not None else None,
        "classes": len(classes),
        "leaks": leaks,
        "not_in_dataset": {
            name: listed - sizes[name]
            for name, listed in masks.listed.items()
            if listed > sizes[name]
        },
        **vars(training),
    }
    return SubsetComparison.of(accounts, hits, compared(list(subsets), hits, baseline), about)


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
        listing = ", ".join(f"{size:,} {name}" for name, size in accounts[smallest].items())
        raise ConfigError(
            f"subset {smallest!r} is too small: a head is trained on a half of its rows, which "
            f"should be at least a batch of {batch}. It has: {listing.replace('_', ' ')}. Take a "
            "larger subset or a smaller batch_size=."
        )
    largest = max(counts["trained_on"] for counts in accounts.values())
    samples = samples_seen or max(_SAMPLES_SEEN, _PASSES * largest)
    if samples < _FEWEST_BATCHES * batch:
        raise ConfigError(
            f"samples_seen={samples} is fewer than {_FEWEST_BATCHES} batches of {batch}: heads "
            "would learn nothing. Show more, or give a smaller batch_size=."
        )
    return Training(samples, batch, seeds, seed)


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
