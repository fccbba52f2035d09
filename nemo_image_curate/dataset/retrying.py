"""Rows that failed, computed again: the others' values are taken over from what was saved.

A pass over the images takes over whole batches, so that the result is that of a full run to the
last bit. What else is done to a frame is done again for all rows of a shard with a failed row.
"""

from __future__ import annotations

from typing import Any

from nemo_image_curate.compute import _dask
from nemo_image_curate.dataset.added import steps_of
from nemo_image_curate.dataset.fingerprints import is_reader
from nemo_image_curate.dataset.partitions import AddColumns
from nemo_image_curate.decode.reasons import may_pass
from nemo_image_curate.errors import ConfigError


def has_failed(summary: dict[str, Any]) -> bool:
    """Whether some rows of a finished target have an ``image_error`` that may pass."""
    errors = summary.get("failed", summary.get("errors"))
    return isinstance(errors, dict) and any(map(may_pass, errors))


def taking_over(frame: Any, folder: str, in_place: bool) -> Any:
    """A frame whose passes over the images take over what a folder has of rows that went well.

    Only where the columns of a pass are saved as it made them: behind it come columns of other
    names, and choices of columns. Passes before anything else look at all images again.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        One partition per shard.
    folder : str
        With a file for each shard, made of this very frame.
    in_place : bool
        Whether these files are what the frame reads.

    Raises
    ------
    ConfigError
        In place, when the frame holds calculations that would be made a second time.
    """
    whole, changed = frame.expr, set[str]()
    for node, _ in steps_of(frame):
        function = dict(_dask.operands(node)).get("func")
        if isinstance(function, AddColumns):
            if changed.isdisjoint(function.names) and hasattr(function.function, "taking_over"):
                other = AddColumns(function.function.taking_over(folder), function.names)
                whole = whole.substitute(function, other)
            changed |= set(function.names)
        elif not _dask.is_projection(node):
            break
    if in_place and not is_reader(node):
        raise ConfigError(
            "retry=True in place would calculate a second time with columns that are results "
            "already. Save to a folder: save_metadata('scored/', retry=True)."
        )
    return _dask.collection(whole)
