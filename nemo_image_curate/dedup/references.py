"""The datasets that rows are compared with: opened, named, their rows numbered, in files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dedup.staged import StagedRows
from nemo_image_curate.errors import ConfigError

# What a user may give for one dataset.
Place = ImageTextPairDataset | str | os.PathLike[str]


def check_names(reference: Any) -> list[str]:
    """The names of references, in their order.

    Raises
    ------
    ConfigError
        For something else than datasets and places of datasets, or two of one name.
    """
    return [name for name, _ in named_references(reference)]


def open_references(reference: Any, backend: str) -> dict[str, ImageTextPairDataset]:
    """References by name; those given by their place are opened.

    Parameters
    ----------
    reference : dataset, str, path, sequence of these, or mapping of names to these
        What has no name is called like its folder.
    backend : {"cpu", "gpu"}
        Of the frames of those that are opened.

    Raises
    ------
    ConfigError
        As `check_names`.
    DatasetError
        When one cannot be opened.
    """
    return {
        name: place
        if isinstance(place, ImageTextPairDataset)
        else ImageTextPairDataset.from_webdataset(place, backend=backend)
        for name, place in named_references(reference)
    }


def named_references(reference: Any) -> list[tuple[str, Place]]:
    """References with their names, as they were given.

    Raises
    ------
    ConfigError
        For something else than datasets and places of datasets, or two of one name.
    """
    if isinstance(reference, Mapping):
        named = [(str(name), place) for name, place in reference.items()]
    elif isinstance(reference, (ImageTextPairDataset, str, os.PathLike)):
        named = [(_folder_name(reference), reference)]
    elif isinstance(reference, Sequence):
        named = [(_folder_name(place), place) for place in reference]
    else:
        raise ConfigError(
            f"reference={reference!r} should be a dataset, the path of one, or a dict of names "
            "to these."
        )
    if not named:
        raise ConfigError("reference is empty: there is nothing to compare with.")
    for name, place in named:
        if not isinstance(place, (ImageTextPairDataset, str, os.PathLike)):
            raise ConfigError(f"reference {name!r} is {place!r}, no dataset and no path of one.")
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"several references are called {twice[0]!r}: give each a name of its own, as in "
            f"reference={{'{twice[0]}-a': ..., '{twice[0]}-b': ...}}."
        )
    return named


def _folder_name(place: Any) -> str:
    if isinstance(place, ImageTextPairDataset):
        place = place.metadata_path
    elif not isinstance(place, (str, os.PathLike)):
        raise ConfigError(f"reference {place!r} is no dataset and no path of one.")
    return PurePosixPath(os.fspath(place)).name or os.fspath(place)


@dataclass(frozen=True)
class Names:
    """Which rows of the references some numbers stand for.

    Attributes
    ----------
    keys, shards, datasets : pyarrow.Array of string, length m
        Null where a number is negative.
    """

    keys: pa.Array
    shards: pa.Array
    datasets: pa.Array


class ReferenceRows:
    """The rows of all references, numbered one after the other.

    Parameters
    ----------
    staged : dict of str to StagedRows
        By the names of the references.
    columns : list of str
        What all of them have, beside key and shard.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, staged: Mapping[str, StagedRows], columns: list[str]):
        self.columns = columns
        self.names = list(staged)
        self.staged = list(staged.values())
        self.starts = np.cumsum([0, *map(len, self.staged)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def digest(self) -> str:
        """A hash of names and of what the columns hold."""
        return fingerprint(self.names, [rows.digest() for rows in self.staged])

    def table(self) -> pa.Table:
        """The columns of all rows."""
        blocks = [block.table(self.columns) for rows in self.staged for block in rows.blocks]
        return pa.concat_tables(blocks).combine_chunks()

    def name(self, row_numbers: np.ndarray) -> Names:
        """Keys, shards and datasets of some rows.

        Parameters
        ----------
        row_numbers : numpy.ndarray of int64, shape (m,)
            -1 for none.
        """
        nothing = row_numbers < 0
        owner = np.searchsorted(self.starts, row_numbers, side="right") - 1
        keys = np.full(len(row_numbers), None, dtype=object)
        shards = keys.copy()
        for number in np.unique(owner[~nothing]):
            rows = self.staged[number]
            for block in rows.blocks:
                within = row_numbers - self.starts[number] - block.start
                wanted = np.flatnonzero(~nothing & (within >= 0) & (within < len(block)))
                if len(wanted):
                    table = block.table([rows.id_col, SHARD_COLUMN]).take(within[wanted])
                    for target, column in zip((keys, shards), table.columns, strict=True):
                        target[wanted] = column.to_numpy()
        datasets = pa.array(self.names, pa.string()).take(pa.array(owner, mask=nothing))
        return Names(pa.array(keys, pa.string()), pa.array(shards, pa.string()), datasets)
