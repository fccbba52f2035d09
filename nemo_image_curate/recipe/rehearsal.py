"""Steps of a recipe played with the right columns, before anything of the rows is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nemo_image_curate import frames
from nemo_image_curate.dataset import exporting
from nemo_image_curate.dataset.copying import Naming
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.sources import ERROR_COLUMN
from nemo_image_curate.dataset.wanted import Wanted
from nemo_image_curate.errors import ConfigError, CurateError
from nemo_image_curate.expressions.check import check
from nemo_image_curate.index.kinds.table import check_settings
from nemo_image_curate.recipe.places import location_of
from nemo_image_curate.recipe.records import Done
from nemo_image_curate.recipe.steps import Problem, Step
from nemo_image_curate.selection.prepared import PreparedStage
from nemo_image_curate.stages.base import ColumnStage, PixelStage, Stage


@dataclass(frozen=True)
class Planned:
    """A step that would be done.

    Attributes
    ----------
    number : int
        Counted from 1.
    step : Step
    stage : Stage or None
        What it is, when it is no action.
    before : ImageTextPairDataset
        As it would be before the step, with nothing in columns that have to look at all rows.
    adds : dict of str to str
        The columns that it adds or replaces, with their types.
    columns : list of str
        All there are after it.
    fingerprint : str
        Of the inputs and all that is done up to here.
    done : Done or None
        What an earlier run did of it, as it is now.
    """

    number: int
    step: Step
    stage: Stage | None
    before: ImageTextPairDataset
    adds: dict[str, str]
    columns: list[str]
    fingerprint: str = ""
    done: Done | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"step {self.number} ({self.step.name})"


class Rehearsal:
    """Plays steps with a dataset whose columns are right and whose rows nobody looks at."""

    def __init__(self, dataset: ImageTextPairDataset):
        self.dataset = dataset
        # Columns that a step made and none has looked at, and the step's number.
        self.unread: dict[str, int] = {}

    def play(self, number: int, step: Step, stage: Stage | None) -> Planned:
        """Play the next step.

        Raises
        ------
        ConfigError
            With its place, for what the step cannot do with the columns there are.
        """
        before = self.dataset
        try:
            self.dataset = self._played(number, step, stage)
        except CurateError as error:
            raise ConfigError(
                str(Problem(step.place, f"step {number} ({step.name})", str(error)))
            ) from error
        kinds = {field.name: str(field.type) for field in frames.schema(self.dataset.metadata)}
        stage_columns = stage.columns() if stage else {}
        there = set(before.metadata.columns)
        adds = {
            name: kind for name, kind in kinds.items() if name in stage_columns or name not in there
        }
        return Planned(number, step, stage, before, adds, list(kinds))

    def _played(self, number: int, step: Step, stage: Stage | None) -> ImageTextPairDataset:
        dataset = self.dataset
        if stage is None:
            return self._acted(step)
        needs = stage.needs(dataset)
        self._read(needs)
        frames.require_columns(dataset.metadata, *needs)
        lazy = isinstance(stage, (PixelStage, ColumnStage)) and not isinstance(stage, PreparedStage)
        if lazy:
            played = stage(dataset)
        else:
            played = dataset.with_columns(_nothing, stage.columns(), stage.provenance())
        for name in stage.columns():
            if name in self.unread and name != ERROR_COLUMN:
                raise ConfigError(
                    f"it replaces the column {name!r} of step {self.unread[name]}, which no step "
                    "has looked at: give one of them a prefix or another name, or take it out."
                )
            self.unread[name] = number
        return played

    def _acted(self, step: Step) -> ImageTextPairDataset:
        dataset, options = self.dataset, step.options
        there = list(dataset.metadata.columns)
        if step.name == "filter":
            self._read(check(options["condition"], there))
            return dataset.filter(options["condition"])
        if step.name == "select":
            return dataset.select(options["columns"])
        if step.name == "index":
            named = [options.get("embedding_column", "image_embedding")]
            named += filter(None, [options.get("caption_column")])
            frames.require_columns(dataset.metadata, *named)
            _check_indexed(dataset, *named)
            kind, recall = options.get("kind", "auto"), options.get("target_recall", 0.96)
            check_settings(kind, options.get("rerank", True), recall, None)
            return dataset
        self.unread.clear()
        if step.name == "report" and options.get("pictures", 1) < 1:
            raise ConfigError(f"pictures={options['pictures']} should be at least 1.")
        named = [*(options.get("columns") or ()), *(options.get("thresholds") or ())]
        frames.require_columns(dataset.metadata, *named)
        where = options.get("where") or ()
        for condition in [where] if isinstance(where, str) else where:
            dataset.filter(condition)
        asked = ("filter_column", "multiplicity", "weight")
        wanted = Wanted(
            dataset.id_col, **{name: options[name] for name in asked if options.get(name)}
        )
        wanted.check(dataset.metadata)
        if step.name == "export":
            digits = options.get("samples_per_shard", 1), options.get("max_shards", 1)
            naming = Naming(*digits, dataset.id_col, options.get("old_id_col"))
            exporting.check(dataset.metadata, dataset.path, location_of(step) or "", naming, wanted)
        if step.name == "save" and options.get("columns"):
            return dataset.select(options["columns"])
        return dataset

    def _read(self, columns: Sequence[str]) -> None:
        for name in columns:
            self.unread.pop(name, None)


def _check_indexed(
    dataset: ImageTextPairDataset, embedding_column: str, caption_column: str | None = None
) -> None:
    """Refuse to index what are no embeddings, or no texts."""
    schema = frames.schema(dataset.metadata)
    kind = schema.field(embedding_column).type
    if not (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)):
        raise ConfigError(f"column {embedding_column!r} holds {kind}, no embeddings.")
    if caption_column is not None:
        kind = schema.field(caption_column).type
        if not pa.types.is_string(kind):
            raise ConfigError(f"caption_column {caption_column!r} holds {kind}, no texts.")


def _nothing(frame: Any) -> dict[str, Any]:
    """Stands for what looks at all rows; it is never called."""
    raise AssertionError("a rehearsal computes nothing")
