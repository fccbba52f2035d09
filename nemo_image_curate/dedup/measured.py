"""What rows are compared by: columns that a dataset has, or that are made of its images now."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import frames
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.dedup.base import has_made
from nemo_image_curate.dedup.staged import StagedRows, stage, stage_measured
from nemo_image_curate.stages.base import PixelStage, Stage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


class MeasuredRows:
    """The rows of a dataset, with columns to compare them by.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    needs : sequence of (Stage, sequence of str)
        Stages, and the columns of theirs that are needed; they run where the dataset lacks one.
    more : sequence of str
        Further columns of the dataset.
    folder : Path
        For files; the same one after a restart.
    progress : bool or None

    Attributes
    ----------
    known : StagedRows
        With the columns that the dataset has; what tells its rows from others.
    folder : Path
    needed : list of str
        What rows are compared by.
    carried : dict of str to dict or None
        Columns that are made now, and how.
    columns : list of str
        All that `measure` stores.
    """

    def __init__(
        self,
        dataset: ImageTextPairDataset,
        needs: Sequence[tuple[Stage, Sequence[str]]],
        more: Sequence[str],
        folder: Path,
        progress: bool | None,
    ):
        self.folder = folder
        self._progress = progress
        self._measured = dataset
        self.carried = dict[str, Any]()
        self.needed = list[str]()
        for measure, inputs in needs:
            records = measure.provenance()
            self.needed += inputs
            if has_made(dataset, {name: records[name] for name in inputs}):
                continue
            self._measured = measure(self._measured)
            new = {name: records.get(name) for name in measure.columns()}
            if isinstance(measure, PixelStage):
                new = {ERROR_COLUMN: records.get(ERROR_COLUMN), **new}
            self.carried |= new
        self.columns = list(dict.fromkeys([*self.needed, *more, *self.carried]))
        frames.require_columns(self._measured.metadata, *self.columns)
        known = [name for name in self.columns if name not in self.carried]
        rows = None if self.carried else folder / "rows"
        self.known = stage(dataset, known, rows, progress)

    def measure(self) -> StagedRows:
        """The rows with all columns, in files; a run that was stopped goes on where it was."""
        if not self.carried:
            return self.known
        folder = self.folder / "measured"
        return stage_measured(self.known, self._measured, self.columns, folder, self._progress)

    def remove(self) -> None:
        """Delete the files."""
        for name in ("rows", "measured"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
