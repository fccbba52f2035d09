"""Reshard the kept samples into a clean WebDataset by copying byte ranges.

Two steps, both resumable. Staging computes each partition once, keeps the rows that are wanted
and have bytes, and notes where those bytes lie. Then all output shards are planned from the row
counts, and one task per output shard copies ranges: nothing is decoded or encoded again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dask
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import saving
from nemo_image_curate.dataset.conditions import Dropped
from nemo_image_curate.dataset.copying import COPIES, MEMBERS, TAR, Naming, write_shard
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.opening import EXPORT_MANIFEST, STAGING
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dataset.wanted import Wanted
from nemo_image_curate.errors import ConfigError, DamagedError, DatasetError
from nemo_image_curate.shards.lookup import Tars
from nemo_image_curate.shards.names import TAR_ENDINGS, ShardFiles

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


@dataclass(frozen=True)
class ExportSummary:
    """What an export did: every row of the input is in one of these numbers.

    Attributes
    ----------
    path : str
    shards : int
    samples : int
        Written to the output.
    rows : int
        Of the input that were written: fewer than `samples` where some are there several times.
    filtered : int
        Left out because a condition, or `filter_column`, was not true, or the multiplicity 0.
    null : int
        Of these, how many because it was null.
    null_columns : dict of str to int
        In how many of these which column was null.
    missing : int
        Wanted, but without bytes in any shard.
    conditions : dict of str to int
        How many rows each expression of `filter` dropped, of those that the ones before it left.
    """

    path: str
    shards: int
    samples: int
    rows: int
    filtered: int
    null: int
    null_columns: dict[str, int]
    missing: int
    conditions: dict[str, int] = field(default_factory=dict)


def export(
    dataset: ImageTextPairDataset,
    path: str,
    naming: Naming,
    wanted: Wanted,
    use_index_files: bool,
    progress: bool | None,
) -> ExportSummary:
    """Write the samples of a dataset below `path`; see its `to_webdataset`."""
    frame, conditions = dataset.unfiltered()
    wanted = replace(wanted, conditions=conditions)
    sources, root = dataset.source()[1], dataset.path
    provenance = dataset.provenance
    check(frame, root, path, naming, wanted)
    staging = storage.join(path, STAGING)
    locations = [
        storage.join(staging, f"part-{number:05d}.parquet") for number in range(frame.npartitions)
    ]
    config = (
        *("export", wanted.filter_column, naming.id_col, *dataset.tars.content_token()),
        *wanted.config(),
    )
    targets = [
        replace(target, reads_tar=True)
        for target in saving.plan(frame, sources, locations, False, *config)
    ]
    prints = [target.fingerprint for target in targets]
    storage.make_dirs(path)
    newest = max((target.newest_input for target in targets), default=0.0)
    manifest = _read_manifest(path, prints, naming, newest)
    locate = _Locate(dataset.tars, wanted, use_index_files)
    fresh = manifest is None
    if manifest is None:
        summaries = saving.save(frame, targets, provenance, "staging", progress, locate)
        manifest = {"fingerprints": prints, "naming": repr(naming), "staged": summaries}
        manifest |= saving.time_of(newest, time.time())
    staged = manifest["staged"]
    samples = [summary.get("samples", summary["rows"]) for summary in staged]
    plan = _plan(samples, naming)
    if fresh:
        _write_manifest(path, manifest)
    outputs = [
        _output_target(path, naming, number, slices, prints) for number, slices in enumerate(plan)
    ]
    todo = [
        number
        for number, done in enumerate(saving.summaries(outputs))
        if done is None or not _has_files(outputs[number])
    ]
    if todo:
        # A shard that was deleted after its export has lost its staged rows as well.
        parts = sorted({piece.part for number in todo for piece in plan[number]})
        picked = frame if len(parts) == frame.npartitions else frame.partitions[parts]
        missing_targets = [targets[part] for part in parts]
        saving.save(picked, missing_targets, provenance, "staging", progress, locate)
        write = dask.delayed(write_shard, pure=False)
        tasks = [
            write(
                number,
                [(locations[piece.part], piece.start, piece.stop) for piece in plan[number]],
                outputs[number],
                root,
                naming,
                provenance,
            )
            for number in todo
        ]
        labels = [outputs[number].label for number in todo]
        jobs.compute_all(tasks, labels, "export", progress)
    storage.remove_tree(staging)
    storage.remove_temporaries(path)
    dropped = Dropped.total(staged)
    dropped.tell()
    return ExportSummary(
        path,
        len(plan),
        sum(samples),
        sum(summary["rows"] for summary in staged),
        dropped.by_condition + dropped.by_null,
        dropped.by_null,
        dropped.null_columns,
        sum(summary["missing"] for summary in staged),
        dropped.conditions,
    )


def check(frame: Any, root: str, path: str, naming: Naming, wanted: Wanted) -> None:
    """Refuse an export that cannot be, before anything is computed.

    Raises
    ------
    ColumnNotFoundError, ConfigError
    """
    wanted.check(frame)
    if naming.samples_per_shard < 1:
        raise ConfigError(
            f"samples_per_shard={naming.samples_per_shard} should be a positive integer."
        )
    if naming.max_shards < 1:
        raise ConfigError(f"max_shards={naming.max_shards} should be a positive number of digits.")
    if naming.old_id_col in frame.columns:
        raise ConfigError(f"old_id_col={naming.old_id_col!r} is the name of another column.")
    for name in {MEMBERS, TAR, COPIES} & set(frame.columns):
        raise ConfigError(f"the column name {name!r} is needed by the export; rename yours.")
    if path == root or root.startswith(path + "/"):
        raise ConfigError(f"the output {path} would overwrite the input {root}.")


def _read_manifest(
    path: str, prints: list[str], naming: Naming, newest: float
) -> dict[str, Any] | None:
    """The plan of an earlier run of this same export; None when there was none.

    `newest` is the modification time of the newest input.

    Raises
    ------
    DatasetError
        When the folder holds something else: mixing two exports would give wrong data silently.
    """
    location = storage.join(path, EXPORT_MANIFEST)
    info = storage.stat(location)
    if info is not None:
        content = storage.read_bytes(location)
        try:
            manifest = storage.parse_json(content)
            same = manifest["fingerprints"] == prints and manifest["naming"] == repr(naming)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{location} is damaged ({error!r}). Export to another folder; {path} can be "
                "deleted if it holds nothing but that export."
            ) from error
        if same and saving.is_newer(info, newest, manifest):
            return dict(manifest)
        difference = "inputs that have changed since" if same else "other rows or settings"
        raise DatasetError(f"{path} holds an export of {difference}. Choose an empty folder.")
    if storage.find(path, TAR_ENDINGS):
        raise DatasetError(
            f"{path} already holds .tar files that this export did not write. Choose an empty "
            "folder."
        )
    return None


def _write_manifest(path: str, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, sort_keys=True)
    storage.write_bytes(storage.join(path, EXPORT_MANIFEST), text.encode())


@dataclass(frozen=True)
class _Slice:
    """Samples ``start`` to ``stop`` of one staged partition."""

    part: int
    start: int
    stop: int


def _plan(samples: list[int], naming: Naming) -> list[list[_Slice]]:
    """Which staged rows go to which output shard: in order, all shards full but the last."""
    plan: list[list[_Slice]] = []
    space = 0
    for part, count in enumerate(samples):
        start = 0
        while start < count:
            if space == 0:
                plan.append([])
                space = naming.samples_per_shard
            taken = min(space, count - start)
            plan[-1].append(_Slice(part, start, start + taken))
            start, space = start + taken, space - taken
    if len(plan) > 10**naming.max_shards:
        raise ConfigError(
            f"{len(plan)} shards do not fit in names of max_shards={naming.max_shards} digits. "
            f"Raise max_shards to {len(str(len(plan) - 1))} or more, or samples_per_shard."
        )
    return plan


def _has_files(output: saving.Target) -> bool:
    files = ShardFiles.beside(output.location)
    return all(storage.stat(location) is not None for location in (files.tar, files.index))


def _output_target(
    path: str, naming: Naming, number: int, slices: list[_Slice], prints: list[str]
) -> saving.Target:
    name = naming.shard(number)
    # The fingerprints of the staged partitions say what is in their rows.
    content = [(prints[piece.part], piece.start, piece.stop) for piece in slices]
    location = storage.join(path, name + ".parquet")
    return saving.Target(location, name + ".tar", fingerprint(repr(naming), content), "", 0.0)


class _Locate:
    """Keeps the wanted rows of a partition and adds where the members of each lie."""

    def __init__(self, tars: Tars, wanted: Wanted, use_index_files: bool):
        self.tars = tars
        self.wanted = wanted
        self.use_index_files = use_index_files

    def __call__(self, table: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        table, summary = self.wanted.rows(table)
        passing = len(table)
        members, tokens = self._members(table)
        kind = pa.list_(
            pa.struct({"extension": pa.string(), "offset": pa.int64(), "size": pa.int64()})
        )
        table = table.append_column(MEMBERS, pa.array(members, kind))
        table = table.append_column(TAR, pa.array(tokens, pa.string()))
        if self.wanted.multiplicity is not None:
            table = self.wanted.once(table.append_column(COPIES, self.wanted.counts(table)))
        table = table.filter(pc.is_valid(table[MEMBERS]))
        summary |= {"rows": len(table), "missing": passing - len(table)}
        if self.wanted.multiplicity is not None:
            summary["samples"] = pc.sum(table[COPIES]).as_py() or 0
        return table, summary

    def _members(
        self, table: pa.Table
    ) -> tuple[list[list[dict[str, Any]] | None], list[str | None]]:
        """Where the members of each row lie, and in which content of its tar."""
        keys, shards = table[self.wanted.id_col].to_pylist(), table[SHARD_COLUMN].to_pylist()
        members: list[list[dict[str, Any]] | None] = [None] * len(keys)
        tokens: list[str | None] = [None] * len(keys)
        for opened, rows in self.tars.open_shards(keys, shards, self.use_index_files):
            for row in rows:
                # A sample without an image is no sample of a clean image dataset.
                if self.tars.image_of(opened, keys[row]) is not None:
                    sample = opened.index.sample(keys[row])
                    members[row] = [member._asdict() for member in sample]
                    tokens[row] = opened.info.token
        return members, tokens
