"""`ImageTextPairDataset`: WebDataset tars and a Dask frame of what is known about their samples."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.dataset import exporting, saving, selections
from nemo_image_curate.dataset.accounting import Account, account_of
from nemo_image_curate.dataset.copying import Naming
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.dataset.looking import gallery, notebook, scatter, summary, summary_view
from nemo_image_curate.dataset.looking.contact_sheet import contact_sheet
from nemo_image_curate.dataset.looking.distributions import distributions
from nemo_image_curate.dataset.looking.histogram import Histogram
from nemo_image_curate.dataset.looking.origin import projection
from nemo_image_curate.dataset.looking.rows import rows_of
from nemo_image_curate.dataset.looking.thumbnails import Thumbnail, thumbnails
from nemo_image_curate.dataset.masks import require_mask_of
from nemo_image_curate.dataset.opening import Opened, open_webdataset
from nemo_image_curate.dataset.partitions import AddColumns
from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN, MetadataReader, Source
from nemo_image_curate.dataset.threshold import Share, find_threshold
from nemo_image_curate.dataset.wanted import Wanted
from nemo_image_curate.decode.pillow import decode_image
from nemo_image_curate.decode.reasons import count_by_kind
from nemo_image_curate.errors import ConfigError, DatasetError, ImageError
from nemo_image_curate.expressions import evaluate
from nemo_image_curate.shards.lookup import Tars
from nemo_image_curate.shards.names import ShardFiles

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Filtered:
    """A frame, and the expression of what conditions left of it."""

    before: Any
    conditions: tuple[str, ...]
    after: Any


class ImageTextPairDataset:
    """Images in WebDataset tars, with one row of metadata for each in a Dask frame.

    Make one with `from_webdataset`. Stages (embedders, classifiers) are called with a dataset and
    return a new one whose frame has more columns; nothing is computed before it is saved,
    exported or looked at.

    Parameters
    ----------
    path : str or path
        What the ``shard`` column is relative to.
    metadata : dask.dataframe.DataFrame
        With the columns `id_col` and ``shard``; together they say where a row's bytes are.
    tar_files : list of str or path
        Paths or URLs of all tars.
    id_col : str, default "key"

    Attributes
    ----------
    metadata : dask.dataframe.DataFrame
        The plain Dask frame: filter it, assign to its columns, replace it.
    provenance : dict of str to dict
        For each produced column: stage, model, weights sha256, preprocessing, version.
    home : str or None
        The folder that holds the metadata alone; None when the sidecars lie beside the tars.
    orphans : list of str
        Sidecars without a tar, and tars that are unfinished or not read; they are left out.
    text_faults : Account
        What was wrong in members that give columns, and in the names of columns.
    unreadable : dict of str to str
        Tars that cannot be read, and why; they are left out. So are sidecars, when opened with
        ``skip_unreadable=True``.

    Examples
    --------
    >>> ds = ImageTextPairDataset.from_webdataset("data/")
    >>> ds = TimmImageEmbedder("offline")(ds)
    >>> ds.metadata = ds.metadata[ds.metadata.width > 256]
    >>> ds = ds.save_metadata("scored/")
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Any,
        tar_files: Sequence[str | os.PathLike[str]],
        id_col: str = "key",
    ):
        # Where they are now, wherever the process goes.
        self.path = storage.normalise(path)
        self.metadata = metadata
        self.tar_files = [storage.normalise(tar) for tar in tar_files]
        self.id_col = id_col
        self.provenance: dict[str, Any] = {}
        self.orphans: list[str] = []
        self.unreadable: dict[str, str] = {}
        self.text_faults = Account()
        self.home: str | None = None
        self._filtered: _Filtered | None = None

    @classmethod
    def from_webdataset(
        cls,
        path: str | os.PathLike[str] | Sequence[str],
        id_col: str | None = None,
        metadata: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        skip_unreadable: bool = False,
        image_member: str | None = None,
    ) -> ImageTextPairDataset:
        """Open a dataset lazily, one partition per shard.

        Parameters
        ----------
        path : str, path or list of them
            A folder of tars (searched with its subfolders), a glob, a brace pattern, a list, an
            fsspec URL, or a folder written by `save_metadata`. Columns come from ``STEM.parquet``
            beside each tar; without it from the tar's ``.txt`` (as ``caption``) and ``.json``.
        id_col : str, optional
            The sidecars' column of sample keys. Default: ``key``, or what was saved.
        metadata : str or path, optional
            A folder written by `save_metadata`, when its tars are not where they were then; or
            any folder with a ``STEM.parquet`` for each tar.
        backend : {"auto", "cpu", "gpu"}
            Of the frame: pandas or cuDF.
        skip_unreadable : bool, default False
            Leave out shards whose sidecar is no readable Parquet file, and list them in
            ``unreadable``, instead of refusing the dataset.
        image_member : str, optional
            Which member of a sample is its image: the extension, such as ``jpg`` or
            ``input.jpg``, or a pattern of it, such as ``*.png`` or ``input.*``, in any case.
            Default: what was saved; else the first member that is called an image or whose bytes
            are one.

        Returns
        -------
        ImageTextPairDataset

        Raises
        ------
        DatasetError
            When there are no tars, none can be read, a file is missing or a sidecar unreadable, or
            when they are those of an export that is not finished.
        SchemaError
            When sidecars have no common type for a column.
        """
        return cls._of(
            open_webdataset(
                path,
                id_col,
                metadata,
                backend,
                skip_unreadable=skip_unreadable,
                image_member=image_member,
            )
        )

    @classmethod
    def _of(cls, opened: Opened) -> ImageTextPairDataset:
        dataset = cls(opened.root, opened.frame, opened.tar_files, opened.id_col)
        dataset.provenance, dataset.orphans = opened.provenance, opened.orphans
        dataset.unreadable, dataset.text_faults = opened.unreadable, opened.text_faults
        dataset.home = opened.home
        return dataset

    @property
    def metadata_path(self) -> str:
        """Where the sidecars are: beside the tars, or the folder that holds the metadata alone."""
        return self.home or self.path

    @property
    def image_member(self) -> str | None:
        """Which member of a sample is its image, where that was chosen.

        Recorded of the column ``shard``, and so saved and exported with it.
        """
        record = self.provenance.get(SHARD_COLUMN, {})
        chosen = record.get("image_member")
        return chosen if isinstance(chosen, str) else None

    @property
    def tars(self) -> Tars:
        """What finds the bytes of rows."""
        return Tars(self.path, self.image_member)

    @property
    def backend(self) -> frames.Backend:
        """``cpu`` or ``gpu``: which library the frame's partitions are made of."""
        return frames.backend_of(self.metadata)

    def replace(
        self, metadata: Any, provenance: dict[str, Any] | None = None
    ) -> ImageTextPairDataset:
        """The same tars with another frame, and what is known of its new columns."""
        other = copy.copy(self)
        other.metadata = metadata
        other.tar_files = list(self.tar_files)
        other.provenance = {**self.provenance, **(provenance or {})}
        other._filtered = None
        return other

    def with_columns(
        self,
        function: Callable[[Any], Mapping[str, Any]],
        columns: Mapping[str, pa.DataType],
        provenance: dict[str, Any] | None = None,
    ) -> ImageTextPairDataset:
        """Add columns that a function makes of each partition, when they are needed.

        Parameters
        ----------
        function : callable
            Takes a computed partition, a frame of pandas or cuDF, and gives columns of its length
            by name: Arrow arrays, or series of the partition's kind.
        columns : mapping of str to pyarrow.DataType
            What it makes.
        provenance : dict of str to dict, optional
            How each is made.

        Raises
        ------
        ConfigError
            For a column that says where a row's bytes are.
        """
        if names := {self.id_col, SHARD_COLUMN} & set(columns):
            raise ConfigError(
                f"nothing may write the column {min(names)!r}, which says where a row's bytes are; "
                "choose another name."
            )
        frame = self.metadata
        self._tell_replaced(columns, provenance or {})
        new = {name: pa.array([], kind) for name, kind in columns.items()}
        meta = frames.with_columns(frames.empty(frame), new)
        added = frame.map_partitions(
            AddColumns(function, columns), meta=meta, enforce_metadata=False
        )
        return self.replace(added, provenance)

    def _tell_replaced(
        self, names: Iterable[str], provenance: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Warn of columns that no stage made, and that a stage makes anew."""
        replaced: dict[str, list[str]] = {}
        for name in names:
            if name in provenance and name in self.metadata.columns and name not in self.provenance:
                stage = str(provenance[name].get("stage", "a stage"))
                replaced.setdefault(stage, []).append(name)
        for stage, own in replaced.items():
            logger.warning(
                "%s: the dataset's own columns are replaced by %s", ", ".join(own), stage
            )

    def filter(self, condition: Any) -> ImageTextPairDataset:
        """Keep the rows for which a condition is true; null counts as false.

        `save_metadata` and `to_webdataset` count the rows that an expression dropped, and say for
        how many it was neither true nor false, and which columns were null there.

        Parameters
        ----------
        condition : str or Dask series of bool
            An expression over the columns in pandas' query syntax, such as
            ``"aesthetic_score > 5 and width >= 256"`` (comparisons, arithmetic and methods like
            ``caption.str.contains('dog')``), or a mask made from `metadata` of this dataset, or
            of one that it was made of by adding columns or dropping rows.

        Raises
        ------
        ColumnNotFoundError
            When the expression names a column that does not exist.
        ConfigError
            When it is no expression that is true or false for each row, or a mask of other rows.
        """
        if not isinstance(condition, str):
            require_mask_of(self.metadata, condition)
            return self.replace(self.metadata[condition])
        before, conditions = self.unfiltered()
        filtered = self.replace(self.metadata[evaluate.mask(self.metadata, condition)])
        filtered._filtered = _Filtered(before, (*conditions, condition), filtered.metadata.expr)
        return filtered

    def unfiltered(self) -> tuple[Any, tuple[str, ...]]:
        """The frame before the last calls of `filter`, and their expressions.

        What is saved or exported is filtered while it is written, so that rows that were dropped
        are counted.
        """
        # Not the frame: it stays the same when users assign to one of its columns.
        if self._filtered is None or self._filtered.after is not self.metadata.expr:
            return self.metadata, ()
        return self._filtered.before, self._filtered.conditions

    def threshold(
        self,
        column: str,
        top: float | None = None,
        bottom: float | None = None,
        count: int | None = None,
        progress: bool | None = None,
    ) -> float | int | bool | str:
        """The exact value that the highest, or lowest, values of a column have or exceed.

        Of N rows that have a value, ``top=0.3`` asks for the n = int(0.3 N) highest, and gives
        the n-th highest value, counted from 1: ``ds.filter(f"{column} >= {t!r}")`` keeps these n
        rows, and all others with that very value. Rows whose value is null or NaN do not count.
        It is the same however rows lie in partitions.

        The column is computed now, for more than 64 shards by a sixteenth of them a second time,
        and wholly from some 20 million rows on; save what was dear to compute before.

        Parameters
        ----------
        column : str
            Of numbers, bools, times or dates.
        top : float, optional
            The fraction of rows with the highest values, over 0 and at most 1.
        bottom : float, optional
            The fraction with the lowest; filter by ``<=`` then.
        count : int, optional
            The number of rows with the highest values, instead of a fraction.
        progress : bool, optional
            Show a progress bar. Default: on a terminal.

        Returns
        -------
        float, int, bool or str
            As the column's type is; a time or date as a text in ISO 8601, which expressions take.

        Raises
        ------
        ColumnNotFoundError
        ConfigError
            Unless one of `top`, `bottom` and `count` is given; for a column of other values.
        DatasetError
            When that is no row at all.
        """
        if sum(share is not None for share in (top, bottom, count)) != 1:
            raise ConfigError(f"top={top}, bottom={bottom}, count={count}: give one of the three.")
        share = Share(top if bottom is None else bottom, count)
        cutoff = find_threshold(self.metadata, column, share, bottom is None, progress)
        if (value := cutoff.value) is None:
            raise DatasetError(
                f"{column!r} has no threshold: {share} of {cutoff.n_with_value:,} rows that have a "
                f"value is none ({cutoff.n_without_value:,} have none)."
            )
        return value

    def select(self, columns: Sequence[str]) -> ImageTextPairDataset:
        """Keep these columns, and those that say where a row's bytes are."""
        frames.require_columns(self.metadata, *columns)
        keep = [self.id_col, SHARD_COLUMN]
        return self.replace(self.metadata[[*dict.fromkeys([*keep, *columns])]])

    def head(self, n: int = 5) -> Any:
        """The first rows, computed."""
        count, partitions = 1, self.metadata.npartitions
        while True:
            # All of these: of some, Dask warns on the workers that they have fewer.
            rows = self.metadata.partitions[:count].head(n, npartitions=-1)
            if len(rows) >= n or count == partitions:
                return rows
            count = min(partitions, 8 * count)

    def __len__(self) -> int:
        return len(self.metadata[self.id_col])

    def account(self) -> Account:
        """Where the tars' samples and the sidecars' rows are, and every fault between them.

        Of the dataset as it was opened, whatever was done to its frame. Headers of local tars are
        read, unless a save recorded what is in them; remote ones are not counted.
        """
        return account_of(self)

    def summary(self) -> dict[str, Any]:
        """How many samples there are, and how many failed, by kind of ``image_error``."""
        errors: dict[str, int] = {}
        if ERROR_COLUMN in self.metadata.columns:
            failed = self.metadata[ERROR_COLUMN].dropna().compute()
            errors = count_by_kind(frames.column_to_arrow(failed).to_pylist())
        return {"samples": len(self), "errors": errors}

    def __repr__(self) -> str:
        try:
            return summary_view.as_text(summary.summarise(self))
        except Exception as error:
            # Nobody gets rid of an object that cannot be printed.
            return f"ImageTextPairDataset({self.path!r}); {type(error).__name__}: {error}"

    def _repr_html_(self) -> str | None:
        try:
            body = summary_view.as_html(summary.summarise(self))
        except Exception:
            # Then notebooks print the text.
            return None
        return notebook.fragment(body, "dataset")

    def image(self, key: str, shard: str | None = None) -> Image:
        """One sample's picture.

        Parameters
        ----------
        key : str
        shard : str, optional
            Needed when several shards have a sample with this key.

        Returns
        -------
        PIL.Image.Image

        Raises
        ------
        DatasetError
            When there is no such sample, or more than one.
        ImageError
            When its bytes are no picture.
        """
        if shard is None:
            frame = self.metadata[[self.id_col, SHARD_COLUMN]]
            rows = frames.to_arrow(frame[frame[self.id_col] == key].compute())
            shards = sorted(set(rows[SHARD_COLUMN].drop_null().to_pylist()))
            if len(shards) != 1:
                where = f"is in several shards: {', '.join(shards)}; give shard=" if shards else ""
                raise DatasetError(f"key {key!r} {where or 'is not in the dataset'}.")
            shard = shards[0]
        ((_, content, reason),) = self.tars.image_bytes([key], [shard], use_index_files=True)
        if content is None:
            raise DatasetError(f"sample {key!r} has no image in {shard}: {reason}.")
        try:
            return decode_image(content)
        except ImageError as error:
            raise ImageError(f"{shard}: {key}: {error}") from error

    def show(
        self,
        samples: int | Sequence[str] = 12,
        captions: str = "caption",
        by: str | None = None,
        around: float | str | None = None,
        groups: str | bool | None = None,
        seed: int = 0,
    ) -> gallery.Gallery:
        """Pictures for notebooks: the first rows, some keys, rows along a column, or duplicates.

        Each opens to the columns of its row that are stored; none is computed but those that
        decide which rows are shown.

        Parameters
        ----------
        samples : int or sequence of str
            How many of the first samples, or which keys. With `by` how many in each strip; with
            `groups` how many groups.
        captions : str
            The column to print under each picture, when there is one.
        by : str, optional
            Show the rows with the highest and lowest values of this column, and some at random.
        around : float or str, optional
            With `by`: also those just below this value, and from it on.
        groups : str or True, optional
            Show the largest groups of duplicates, the row that stays marked: by a column such as
            ``semantic_duplicate_of``, or by ``duplicate_of``.
        seed : int
            Of the rows at random.

        Returns
        -------
        Gallery
            Shows itself in a notebook; ``.save(path)`` writes it as an HTML file.

        Raises
        ------
        ColumnNotFoundError, ConfigError
        """
        if by is not None and groups:
            raise ConfigError("give one of by= and groups=.")
        if by is None and not groups:
            if around is not None:
                raise ConfigError(f"around={around!r} is a value of a column: give by=, too.")
            return gallery.first_or_named(self, samples, captions)
        if not isinstance(samples, int):
            raise ConfigError("keys go neither with by= nor with groups=; give a number.")
        if by is not None:
            return gallery.along(self, by, around, samples, captions, seed)
        return gallery.duplicates(self, groups or True, samples, captions)

    def grid(
        self, samples: int | Sequence[str] = 16, across: int | None = None, side: int = 160
    ) -> Image:
        """Pictures side by side as one image.

        Parameters
        ----------
        samples : int or sequence of str
            How many of the first samples, or which keys.
        across : int, optional
            Pictures of a row. Default: about as many as there are rows.
        side : int
            Of each picture, in pixels.

        Returns
        -------
        PIL.Image.Image
            RGB. Where there is no picture, it says why.
        """
        names = [self.id_col, SHARD_COLUMN]
        if isinstance(samples, int):
            rows = frames.to_arrow(self.replace(projection(self.metadata, names)).head(samples))
        else:
            rows = rows_of(self, samples)
        keys, shards = (rows[name].to_pylist() for name in names)
        pictures = thumbnails(self, keys, shards, side)
        absent = [] if isinstance(samples, int) else sorted(set(samples) - set(keys))
        pictures += [Thumbnail(None, "not in the dataset")] * len(absent)
        return contact_sheet(pictures, keys + absent, side, across)

    def hist(
        self,
        column: str,
        bins: int = 40,
        where: str | None = None,
        progress: bool | None = None,
    ) -> Histogram:
        """How the values of a column are distributed, of all rows.

        Parameters
        ----------
        column : str
            Of numbers, bools or texts.
        bins : int
            Bars at most.
        where : str, optional
            An expression; only rows for which it is true.
        progress : bool, optional
            Show a progress bar. Default: on a terminal.

        Returns
        -------
        Histogram
            Shows itself in notebooks and terminals; ``.distribution`` has the counts.

        Raises
        ------
        ColumnNotFoundError, ConfigError
        """
        return Histogram(distributions(self, [column], bins, where, progress)[column])

    def map(
        self,
        column: str | None = None,
        color: str | None = None,
        n: int = 5000,
        method: scatter.Method = "pca",
        seed: int = 0,
        progress: bool | None = None,
    ) -> scatter.Map:
        """A map of a sample's embeddings; a loop drawn around points gives an expression for them.

        Parameters
        ----------
        column : str, optional
            Of embeddings. Default: ``image_embedding``, or the first one that there is.
        color : str, optional
            The column that points are coloured by, of numbers or of few values.
        n : int
            Points, by a hash of their keys.
        method : {"pca", "umap"}
            Principal components, or UMAP, if umap-learn is installed.
        seed : int
        progress : bool, optional
            Show a progress bar. Default: on a terminal.

        Returns
        -------
        Map
            Shows itself in a notebook; ``.save(path)`` writes it as an HTML file.

        Raises
        ------
        ColumnNotFoundError, ConfigError
        DatasetError
            When no row of the sample has an embedding.
        """
        return scatter.draw(self, column, color, n, method, seed, progress)

    def save_metadata(
        self,
        path: str | os.PathLike[str] | None = None,
        columns: Sequence[str] | None = None,
        progress: bool | None = None,
        retry: bool = False,
        overwrite: bool = False,
    ) -> ImageTextPairDataset:
        """Compute the frame and write it as Parquet, one file per shard.

        Each file appears only when it is complete, and carries a fingerprint of what it was made
        from: running the same thing again computes only what is missing or changed, and the
        result is the same bytes as that of an undisturbed run.

        Parameters
        ----------
        path : str or path, optional
            A folder; tars stay where they are and may be read-only. Default: in place, where the
            sidecars are; the old file stays whole until the new one replaces it. In place, doing
            the same assignment a second time counts as done already, also when stages or other
            assignments have added columns since.
        columns : sequence of str, optional
            Write only these, with `id_col` and ``shard``.
        progress : bool, optional
            Show a progress bar. Default: on a terminal.
        retry : bool, default False
            Compute rows again that have an ``image_error``, unless the image was too large. A
            pass over the images reads only the batches with such a row, where its columns are
            saved as it made them.
        overwrite : bool, default False
            Replace files also where columns were added to them since they were made, or by others,
            that the frame has not, and drop these: what is in the folder is then as if it had been
            empty.

        Returns
        -------
        ImageTextPairDataset
            What was written, opened again, so that nothing is computed twice. Files that are
            finished keep columns that were added to them in place.

        Raises
        ------
        ConfigError
            When files that have to be written have columns that were added to them, or that others
            wrote, and that the frame has not, unless `overwrite`. In place, when partitions are no
            longer one shard each; with `retry`, when the frame holds calculations of your own,
            which would be made a second time.
        JobError
            When partitions failed; the finished ones are kept.
        """
        chosen = self if columns is None else self.select(columns)
        folder = None if path is None else storage.normalise(path)
        folder = saving.save_dataset(chosen, folder, progress, retry, overwrite)
        where: str | list[str] = folder if folder is not None else self.tar_files
        opened = open_webdataset(
            where, self.id_col, None, self.backend, self.path, image_member=self.image_member
        )
        saved = self._of(opened)
        # What could not be read of the input is not in what was saved.
        saved.text_faults, saved.orphans = self.text_faults, self.orphans
        saved.unreadable = self.unreadable
        return saved

    def to_webdataset(
        self,
        path: str | os.PathLike[str],
        filter_column: str | None = None,
        samples_per_shard: int = 10000,
        max_shards: int = 5,
        old_id_col: str | None = None,
        use_index_files: bool = False,
        progress: bool | None = None,
        multiplicity: str | None = None,
    ) -> exporting.ExportSummary:
        """Write the samples of the frame as new shards: ``.tar``, ``.parquet`` and ``.idx`` each.

        Members are copied byte for byte. Samples get new keys, in the order of the rows: the
        number of the shard followed by that of the row; the id column and the id field of the
        ``.json`` member change together. Stopped runs continue where they were.

        Parameters
        ----------
        path : str or path
            An empty or new folder, or one that this same export began to fill.
        filter_column : str, optional
            A bool column; rows where it is false or null are left out.
        samples_per_shard : int, default 10000
        max_shards : int, default 5
            Digits in shard names: 5 allows 100,000 shards.
        old_id_col : str, optional
            Keep the old keys in a column (and ``.json`` field) of this name.
        use_index_files : bool, default False
            Find members with the ``.idx`` files beside the input tars.
        progress : bool, optional
            Show progress bars. Default: on a terminal.
        multiplicity : str, optional
            A column of whole numbers that says how often a row is written, each time with a key
            of its own, one after the other; rows where it is 0 or null are left out. In what is
            written it is 1. Shuffle what you train on: copies are neighbours.

        Returns
        -------
        ExportSummary

        Raises
        ------
        ConfigError
            For unusable arguments.
        DatasetError
            When `path` holds something else.
        JobError, DatasetError
            When a multiplicity is negative or no whole number, with the row.
        """
        naming = Naming(samples_per_shard, max_shards, self.id_col, old_id_col)
        output = storage.normalise(path)
        with locks.exclusive(output):
            wanted = Wanted(self.id_col, (), filter_column, multiplicity)
            return exporting.export(self, output, naming, wanted, use_index_files, progress)

    def to_selection(
        self,
        path: str | os.PathLike[str],
        filter_column: str | None = None,
        multiplicity: str | None = None,
        weight: str | None = None,
        progress: bool | None = None,
        column: str | None = None,
    ) -> selections.SelectionSummary:
        """Write which samples of the frame were chosen, without new tars.

        One Parquet file, in the order of the rows: ``key``, ``shard`` (relative to `path` of the
        dataset), and ``multiplicity`` (int64) and ``weight`` (float64) where there are such
        columns. ``docs/selection.md`` shows how webdataset and open_clip read it; the stage
        `SelectionFile` marks its rows in a dataset. Stopped runs continue where they were.

        Parameters
        ----------
        path : str or path
            Of the file. An earlier selection there is replaced, when it is of other rows.
        filter_column : str, optional
            A bool column; rows where it is false or null are left out.
        multiplicity : str, optional
            A column of whole numbers: how often a row is taken. Rows where it is 0 or null are
            left out. Default: ``multiplicity``, where the frame has it.
        weight : str, optional
            A column of numbers from 0 on: how probable a row is to be drawn, in proportion. Rows
            where it is 0 or null are left out. Default: ``weight``, where the frame has it.
        progress : bool, optional
            Show progress bars. Default: on a terminal.
        column : str, optional
            A column of 32 hexadecimal digits, such as DataComp's ``uid``. Write these in place of
            keys, to a `path` that ends in ``.npy``: a NumPy array of dtype ``u8,u8``, sorted, each
            as often as it is taken, which DataComp's ``resharder.py`` takes as its subset.

        Returns
        -------
        SelectionSummary

        Raises
        ------
        ColumnNotFoundError, ConfigError
            When a column is not there, or of another kind.
        DatasetError
            When `path` holds something else.
        JobError, DatasetError
            When a multiplicity is negative or no whole number, a weight negative, or a value of
            `column` no such digits, with the row.

        Notes
        -----
        A selection has some 20 bytes for each row. The client copies it part by part; of `column`
        it holds 16 bytes for each sample.
        """
        output = storage.normalise(path)
        columns = selections.columns_of(self.metadata, multiplicity, weight)
        wanted = Wanted(self.id_col, (), filter_column, *columns)
        folder = storage.parent(output)
        with locks.exclusive(folder, output.removeprefix(folder).strip("/")):
            return selections.write_selection(self, output, wanted, progress, column)

    def source(self) -> tuple[MetadataReader, list[Source]]:
        """What the frame reads, before anything was done to it.

        For a frame that was made elsewhere: its tars, as far as they exist.
        """
        for reader, sources in Lineage(self.metadata).readers:
            return reader, sources
        schema = frames.schema(self.metadata)
        sources = [
            Source(
                storage.relative(tar, self.path),
                ShardFiles.beside(tar).sidecar,
                storage.stat(tar),
            )
            for tar in self.tar_files
        ]
        return MetadataReader(self.path, self.id_col, schema, self.backend), sources
