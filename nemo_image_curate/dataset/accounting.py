"""Where each sample of the tars and each row of the sidecars went: counts that close.

Two sums hold for every dataset, and one for what is done with its rows::

    samples_in_tars  = with_row + without_row
    rows_in_sidecars = with_image + without_image
    rows_in_sidecars = read + unreadable + without_image                  (a pass over the images)
                     = written + dropped_by_condition + dropped_by_null + missing       (an export)

Rows that img2dataset lists as failed are without an image by right: no fault, and counted apart.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.sources import SHARD_COLUMN, Source
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards import sidecars
from nemo_image_curate.shards.faults import Fault
from nemo_image_curate.shards.index import TarIndex
from nemo_image_curate.shards.lookup import Tars
from nemo_image_curate.shards.names import UNREAD_ENDINGS, normal_name
from nemo_image_curate.shards.reader import TarShard

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

# Faults of one kind that are named for a shard, and for a whole dataset; counts are complete.
_NAMED_IN_SHARD, _NAMED = 3, 10
# Shards that one task counts, of those whose counts are not recorded.
_SHARDS_PER_TASK = 32
# What is recorded of a fault that is named.
_NAMES_OF_FAULT = frozenset(("shard", "kind", "key", "detail"))
# Counts that are not known where a tar was not read.
_OF_TARS = (
    *("samples_in_tars", "with_row", "without_row", "with_image", "without_image"),
    "not_downloaded",
)
# What img2dataset writes into this column of rows that have no image.
_STATUS, _FAILED = "status", ("failed_to_download", "failed_to_resize")


@dataclass
class Account:
    """What is in tars and sidecars, and what of it does not go together.

    Attributes
    ----------
    rows_in_sidecars : int
        For shards without a sidecar those made of the tar's samples.
    samples_in_tars, with_row, without_row : int or None
        Samples; None where a tar was not read.
    with_image, without_image : int or None
        Rows.
    faults : dict of str to int
        How many of which kind, as `inspect_dataset` lists them.
    named : list of dict
        The first of each kind: ``shard``, ``kind``, ``key``, ``detail``.
    not_downloaded : int or None
        Of the rows without an image those whose ``status`` says that there never was one.
    """

    rows_in_sidecars: int = 0
    samples_in_tars: int | None = 0
    with_row: int | None = 0
    without_row: int | None = 0
    with_image: int | None = 0
    without_image: int | None = 0
    faults: dict[str, int] = field(default_factory=dict)
    named: list[dict[str, str]] = field(default_factory=list)
    not_downloaded: int | None = 0

    @classmethod
    def of(cls, shard: str, faults: Iterable[Fault]) -> Account:
        """One of faults alone."""
        account = cls()
        account.note(shard, faults)
        return account

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Account | None:
        """One that was recorded; None where it is none."""
        counts = [record.get(name) for name in ("rows_in_sidecars", *_OF_TARS)]
        faults, named = record.get("faults"), record.get("named")
        names = {field.name for field in dataclasses.fields(cls)}
        is_whole = (
            # Of earlier releases, where these were faults.
            record.keys() in (names, names - {"not_downloaded"})
            and all(count is None or type(count) is int for count in counts)
            and isinstance(counts[0], int)
            and isinstance(faults, dict)
            and all(type(count) is int for count in faults.values())
            and isinstance(named, list)
            and all(isinstance(fault, dict) and fault.keys() == _NAMES_OF_FAULT for fault in named)
        )
        return cls(**record) if is_whole else None

    def note(self, shard: str, faults: Iterable[Fault], most_named: int = _NAMED_IN_SHARD) -> None:
        """Count faults, and name the first of each kind."""
        counts = Counter(self.faults)
        for fault in faults:
            counts[fault.kind] += 1
            if counts[fault.kind] <= most_named:
                self.named.append({"shard": shard, **fault._asdict()})
        self.faults = dict(sorted(counts.items()))

    def counts(self) -> dict[str, Any]:
        """The counts alone."""
        record = dataclasses.asdict(self)
        del record["named"]
        return record


def total(accounts: Iterable[Account], most_named: int | None = _NAMED) -> Account:
    """The sum of the accounts of shards."""
    whole, counts, named = Account(), Counter[str](), Counter[str]()
    for account in accounts:
        whole.rows_in_sidecars += account.rows_in_sidecars
        for name in _OF_TARS:
            values = getattr(whole, name), getattr(account, name)
            setattr(whole, name, None if None in values else sum(values))
        counts.update(account.faults)
        for fault in account.named:
            named[fault["kind"]] += 1
            if most_named is None or named[fault["kind"]] <= most_named:
                whole.named.append(fault)
    whole.faults = dict(sorted(counts.items()))
    return whole


class _Row(NamedTuple):
    """A row's key, and whether it says that it has no image."""

    key: str | None
    not_downloaded: bool = False


@dataclass(frozen=True)
class Census:
    """Takes the account of one source; goes to a worker.

    Parameters
    ----------
    tars : Tars
    id_col : str
    source : Source
    reads_tar : bool
        Whether a remote tar that has a sidecar is read.
    """

    tars: Tars
    id_col: str
    source: Source
    reads_tar: bool = True

    def recorded(self) -> Account | None:
        """What a save recorded, if it looked for the same image members."""
        record = dict(self.source.account or {})
        same = record.pop("image_member", None) == self.tars.image_member
        return Account.from_record(record) if same else None

    def record(self) -> dict[str, Any]:
        """The account as a save records it."""
        return {**dataclasses.asdict(self.take()), "image_member": self.tars.image_member}

    def take(self, most_named: int = _NAMED_IN_SHARD) -> Account:
        """Compare rows with samples, by key."""
        source, account = self.source, Account()
        try:
            by_shard = self._rows()
        except DatasetError as error:
            account.note(source.label, [Fault("unreadable", "", str(error))], most_named)
            return account
        if by_shard is not None:
            account.rows_in_sidecars = sum(map(len, by_shard.values()))
        for shard, rows in ({source.shard or "": None} if by_shard is None else by_shard).items():
            try:
                self._compare_shard(account, shard, rows, most_named)
            except DatasetError as error:
                account.note(source.label, [Fault("unreadable", "", str(error))], most_named)
                account.without_image = (account.without_image or 0) + len(rows or ())
        return account

    def _rows(self) -> dict[str, list[_Row]] | None:
        """The sidecar's rows, by shard; None without a sidecar."""
        source = self.source
        if source.sidecar is None:
            return None
        names = [self.id_col, *([] if source.shard is not None else [SHARD_COLUMN]), _STATUS]
        table = sidecars.read_sidecar(source.sidecar_location, names)
        rows = list(map(_Row, table[self.id_col].to_pylist(), _not_downloaded(table)))
        if source.shard is not None:
            return {source.shard: rows}
        by_shard: dict[str, list[_Row]] = {}
        for row, shard in zip(rows, table[SHARD_COLUMN].to_pylist(), strict=True):
            by_shard.setdefault(shard or "", []).append(row)
        return by_shard

    def _compare_shard(
        self, account: Account, shard: str, listed: list[_Row] | None, most_named: int
    ) -> None:
        location = storage.join(self.tars.root, shard)
        # Of a tar without a sidecar also the rows are made; it was read when it was opened.
        if not (self.reads_tar or storage.is_local(location) or listed is None):
            for name in _OF_TARS:
                setattr(account, name, None)
            return
        with TarShard(location) as opened:
            index = opened.index
        rows = list(map(_Row, index.samples)) if listed is None else listed
        if listed is None:
            account.rows_in_sidecars += len(rows)
        # Of a file with rows of many shards one does not know what else there is of each.
        is_complete = self.source.shard is not None
        absent = sum(row.not_downloaded and not _has_sample(row, index) for row in rows)
        faults = list(_compare(rows, index, self.tars.image_member, is_complete))
        kinds = Counter(fault.kind for fault in faults)
        without_image = kinds["missing"] + kinds["no image"] + absent
        account.not_downloaded = (account.not_downloaded or 0) + absent
        account.without_image = (account.without_image or 0) + without_image
        account.with_image = (account.with_image or 0) + len(rows) - without_image
        if is_complete:
            account.samples_in_tars = len(index.samples)
            account.without_row = kinds["no row"]
            account.with_row = len(index.samples) - kinds["no row"]
        else:
            account.samples_in_tars = account.with_row = account.without_row = None
        all_faults = [*index.faults, *index.image_faults(self.tars.image_member), *faults]
        if index.samples and 0 < kinds["missing"] == len(rows) - absent:
            all_faults.insert(0, self._nothing_matches(rows, index))
        account.note(self.source.label, all_faults, most_named)

    def _nothing_matches(self, rows: Sequence[_Row], index: TarIndex) -> Fault:
        first_row = next((row.key for row in rows if row.key is not None), None)
        sidecar = self.source.sidecar_location.rpartition("/")[2]
        tar = (self.source.shard or "").rpartition("/")[2]
        return Fault(
            "no match",
            "",
            f"no key of {sidecar} is in {tar}: there the first is {next(iter(index.samples))!r}, "
            f"here {first_row!r}; write the keys as the members are called, or name the column "
            "that holds them with id_col",
        )


def _not_downloaded(table: pa.Table) -> list[bool]:
    """Which rows of a sidecar img2dataset lists as failed."""
    if _STATUS not in table.column_names or not pa.types.is_string(table[_STATUS].type):
        return [False] * len(table)
    failed: list[bool] = pc.is_in(table[_STATUS], pa.array(_FAILED)).to_pylist()
    return failed


def _has_sample(row: _Row, index: TarIndex) -> bool:
    return row.key is not None and bool(index.sample(row.key))


def _compare(
    rows: Sequence[_Row], index: TarIndex, image_member: str | None, is_complete: bool
) -> Iterator[Fault]:
    """Faults between rows and samples; `is_complete` when these are all rows of the tar."""
    seen: set[str] = set()
    for row in rows:
        key = row.key
        if key is None:
            if not row.not_downloaded:
                yield Fault("missing", "", "a row has no key")
            continue
        if key in seen:
            yield Fault("duplicate row", key, "the sidecar has this key more than once")
        seen.add(key)
        if not _has_sample(row, index):
            if not row.not_downloaded:
                yield Fault("missing", key, "the row has no member in the tar")
        elif index.image(key, image_member) is None:
            yield Fault("no image", key, index.why_no_image(key, image_member))
    if is_complete:
        seen |= set(map(normal_name, seen))
        for key in index.samples:
            if key not in seen:
                yield Fault("no row", key, "the sample has no row in the sidecar")


def account_of(dataset: ImageTextPairDataset, progress: bool | None = None) -> Account:
    """The account of a dataset as it was opened, whatever was done to its frame.

    What a save recorded of a shard is taken from there; other local tars have their headers read.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    progress : bool, optional
        Show a progress bar. Default: on a terminal.
    """
    reader, sources = dataset.source()
    censuses = [Census(dataset.tars, reader.id_col, source, reads_tar=False) for source in sources]
    known = [census.recorded() for census in censuses]
    pending = [census for census, account in zip(censuses, known, strict=True) if account is None]
    groups = [
        pending[start : start + _SHARDS_PER_TASK]
        for start in range(0, len(pending), _SHARDS_PER_TASK)
    ]
    count = dask.delayed(_take_all, pure=False)
    labels = [group[0].source.label for group in groups]
    results = jobs.compute_all([count(group) for group in groups], labels, "count", progress)
    taken = iter([account for accounts in results for account in accounts])
    accounts = [next(taken) if account is None else account for account in known]
    whole = total([*accounts, dataset.text_faults])
    note_left_out(whole, dataset)
    return whole


def _take_all(censuses: Sequence[Census]) -> list[Account]:
    """Several accounts; runs on a worker."""
    return [census.take() for census in censuses]


def why_left_out(location: str) -> str:
    """Why a file beside the tars of a dataset is no part of it."""
    if location.lower().endswith(UNREAD_ENDINGS):
        return (
            "it is called as a tar that is not complete, or is packed in a way that is not read; "
            "finish the download, or unpack it"
        )
    return "a sidecar that has no tar beside it"


def note_left_out(account: Account, dataset: ImageTextPairDataset) -> None:
    """Add the files that were left out when the dataset was opened."""
    for orphan in dataset.orphans:
        kind = "unread" if orphan.lower().endswith(UNREAD_ENDINGS) else "no tar"
        account.note(orphan, [Fault(kind, "", why_left_out(orphan))], _NAMED)
    for sidecar, reason in dataset.unreadable.items():
        account.note(sidecar, [Fault("unreadable", "", reason)], _NAMED)
