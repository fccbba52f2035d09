"""Work that stays finished when columns are added to its files in place, and columns at stake.

A file records the work that it is the result of. When it is saved in place, its new record also
holds the earlier work whose columns are still in it as that work made them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.shards import sidecars

logger = logging.getLogger(__name__)

# So much earlier work is recorded; of more, what was done first: it began with the images.
_MOST_WORK = 20
# What is recorded of work: the first three always.
_FIELDS = ("fingerprint", "names", "summary", "newest_input")
# Columns that a message names.
_MOST_NAMED = 5


def finished_work(footer: sidecars.Footer, with_earlier: bool) -> Iterator[dict[str, Any]]:
    """What a file is known to be the whole result of, the last work first; none for half files.

    Parameters
    ----------
    footer : Footer
    with_earlier : bool
        Whether columns may have been added since.

    Yields
    ------
    dict
        ``fingerprint``, ``names``, ``summary``, and perhaps ``newest_input``.
    """
    record = footer.record
    work = _work(record)
    # Other programs keep the record when they write the file again with other rows or columns.
    if work is None or work["names"] != footer.schema.names or not _is_of(work, footer):
        return
    yield work
    for entry in (record.get("holds") or ()) if with_earlier else ():
        work = _work(entry) if isinstance(entry, dict) else None
        if work is not None and _is_of(work, footer):
            yield work


def _work(record: dict[str, Any]) -> dict[str, Any] | None:
    """What a record, or a part of one, says of one work, if it is what we write."""
    work = {name: record[name] for name in _FIELDS if name in record}
    kinds = {"fingerprint": str, "names": list, "summary": dict}
    is_whole = all(isinstance(work.get(name), kind) for name, kind in kinds.items())
    return work if is_whole and all(isinstance(name, str) for name in work["names"]) else None


def _is_of(work: dict[str, Any], footer: sidecars.Footer) -> bool:
    return bool(work["summary"].get("rows") == footer.rows)


@dataclass(frozen=True)
class Kept:
    """What a file that is saved in place goes on to say of its rows.

    Attributes
    ----------
    holds : list of dict or None
        Finished work whose columns are not touched; None for what is not saved in place.
    account : dict or None
        The `Account` of tar and rows.
    dropped : dict or None
        Rows that were left out when it was made.
    """

    holds: list[dict[str, Any]] | None = None
    account: dict[str, Any] | None = None
    dropped: dict[str, Any] | None = None


@dataclass
class Addition:
    """A save in place of rows that all stay, with some columns made anew.

    Parameters
    ----------
    added : frozenset of str
        These columns.
    id_col : str
    """

    added: frozenset[str]
    id_col: str
    # Shards have the same columns: their names are kept once.
    _known: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False)

    def keeps(
        self,
        footer: sidecars.Footer,
        works: Sequence[dict[str, Any]],
        names: Iterable[str],
        tar_size: int | None,
    ) -> Kept:
        """What is true of a file still when it has been saved.

        Parameters
        ----------
        footer : Footer
            Of the file as it is.
        works : sequence of dict
            The `finished_work` in it whose inputs have not changed since.
        names : iterable of str
            The columns that it will have.
        tar_size : int or None
        """
        if not works:
            return Kept([])
        untouched = frozenset(names) - self.added
        last, *earlier = works
        holds = [
            {**work, "names": self._same(work["names"])}
            for work in (*earlier, last)
            if untouched.issuperset(work["names"])
        ]
        same_samples = self.id_col not in self.added and footer.record.get("tar_size") == tar_size
        account = footer.record.get("account") if same_samples else None
        return Kept(holds[:_MOST_WORK], account, footer.record["summary"].get("dropped"))

    def _same(self, names: Iterable[str]) -> tuple[str, ...]:
        name_tuple = tuple(names)
        return self._known.setdefault(name_tuple, name_tuple)


def _of_one_run(footer: sidecars.Footer) -> frozenset[str]:
    """The columns that one save wrote as a whole, which is made again; later ones were added."""
    record = footer.record
    # Written in place, also of those that hold nothing.
    if "holds" in record:
        holds = record["holds"]
        record = holds[0] if isinstance(holds, list) and holds else {}
    work = _work(record) if isinstance(record, dict) else None
    return frozenset(work["names"] if work else ())


class AtStake:
    """Columns that files have, and would not have any more."""

    def __init__(self) -> None:
        # By whether they are refused: the first folder, how many files, and their columns.
        self._lost: dict[bool, tuple[str, int, dict[str, None]]] = {}

    def note(
        self, location: str, footer: sidecars.Footer, wanted: frozenset[str], in_place: bool
    ) -> None:
        """Count a file that is about to be replaced: in place, or with the result of another run.

        What an earlier run wrote is replaced; what was added to it, or is of others, is not.
        """
        lost = [name for name in footer.schema.names if name not in wanted]
        if not lost:
            return
        is_precious = in_place or not _of_one_run(footer).issuperset(lost)
        folder, count, names = self._lost.get(is_precious, (storage.parent(location), 0, {}))
        self._lost[is_precious] = folder, count + 1, names | dict.fromkeys(lost)

    def tell(self) -> None:
        """Warn of the columns of an earlier run; refuse to go on when there are others.

        Raises
        ------
        ConfigError
            Naming the folder and some of the columns, with the remedies.
        """
        for is_precious, (folder, count, columns) in sorted(self._lost.items(), reverse=True):
            names = [*columns]
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            listed = f"{', '.join(names[:_MOST_NAMED])}{more}"
            if is_precious:
                raise ConfigError(
                    f"{folder}: {count} files that have to be written have columns that would be "
                    f"lost: {listed}. Save to another folder; or open the dataset that is there, "
                    "and add to what it has now; or have the files replaced: overwrite=True "
                    "(--overwrite)."
                )
            logger.warning(
                "%s: %d files of an earlier run are replaced, whose columns this one does not "
                "make: %s",
                *(folder, count, listed),
            )
