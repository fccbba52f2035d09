"""Steps that make the columns of a dataset, told from what it records of each."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_image_curate.dataset.sources import ERROR_COLUMN, SHARD_COLUMN
from nemo_image_curate.embedders.base import ImageEmbedder
from nemo_image_curate.embedders.text_image import TextImageEmbedder
from nemo_image_curate.errors import CurateError
from nemo_image_curate.recipe.parameters import parameters_of, stage_classes
from nemo_image_curate.recipe.steps import Step, read_step
from nemo_image_curate.stages.base import PixelStage, Stage

# As records call what parameters call otherwise.
_CALLED = {"model": "model_name", "normalized": "normalize_embeddings"}
_CAPTIONS = "caption_column"
_PAIR = ("image_embedding_column", "text_embedding_column")


def steps_of(
    columns: list[str], provenance: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Step], list[str]]:
    """The steps that make columns, and what cannot be told.

    Parameters
    ----------
    columns : list of str
        In the order in which they were added.
    provenance : mapping of str to mapping
        What is recorded of each.
    """
    steps: list[Step] = []
    notes: list[str] = []
    makers: list[_Maker] = []
    for group, record in _groups(columns, provenance):
        name = record.get("stage")
        if any(maker.covers(group, record) for maker in makers):
            continue
        if name not in stage_classes():
            notes.append(f"{', '.join(group)}: made by {name!r}, which recipes do not know.")
            continue
        try:
            step = _made_by(str(name), group, record, columns)
            stage = step.make()
            missing = set(group) - set(stage.columns())
        except (CurateError, TypeError, ValueError) as error:
            notes.append(f"{', '.join(group)}: made by {name}, with settings not known: {error}")
            continue
        makers.append(_Maker(stage))
        steps.append(step)
        if isinstance(stage, TextImageEmbedder):
            # Made where there are captions.
            missing.discard(stage.text_embedding_column)
        if missing:
            notes.append(f"{', '.join(sorted(missing))}: of {name}, with settings not known.")
    return _shared(steps), notes


def _groups(
    columns: list[str], provenance: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    """The columns that one stage made, with its record; in the order of the first ones."""
    groups: list[tuple[list[str], dict[str, Any], Mapping[str, Any]]] = []
    for column in columns:
        record = provenance.get(column)
        if not record or column in (ERROR_COLUMN, SHARD_COLUMN):
            continue
        # An embedder's captions are recorded with the column that they are from.
        core = {name: value for name, value in record.items() if name != _CAPTIONS}
        for names, known, _ in groups:
            if known == core:
                names.append(column)
                break
        else:
            groups.append(([column], core, record))
    yield from ((names, record) for names, _, record in groups)


@dataclass(frozen=True)
class _Maker:
    """A stage of a step that is known, with all the columns that it makes."""

    stage: Stage

    def covers(self, group: list[str], record: Mapping[str, Any]) -> bool:
        """Whether it makes these columns as they are recorded."""
        if not set(group) <= set(self.stage.columns()):
            return False
        return all(self._records.get(column) == record for column in group)

    @functools.cached_property
    def _records(self) -> dict[str, Mapping[str, Any]]:
        """What it records, where that can be told now; hashes of weights take seconds."""
        try:
            return dict(self.stage.provenance())
        except CurateError:
            return {}


def _made_by(name: str, group: list[str], record: Mapping[str, Any], columns: list[str]) -> Step:
    """The step of a stage whose options are in a record, or show in what columns it made."""
    stage_class = stage_classes()[name]
    options = _options(stage_class, record)
    if issubclass(stage_class, ImageEmbedder):
        options |= _embedding_columns(stage_class, group, columns)
    return _named(name, options, group, {_CALLED.get(key, key) for key in record})


def _options(stage_class: type[Stage], record: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a record has and that are not the defaults."""
    parameters = parameters_of(stage_class)
    options = {}
    # Of scores of pairs.
    pair = dict(zip(_PAIR, record.get("embedding_columns", ()), strict=False))
    for key, value in (*record.items(), *pair.items()):
        option = _CALLED.get(key, key)
        if option in parameters.nested and isinstance(value, Mapping):
            inner = stage_classes()[str(value["stage"])]
            nested = _options(inner, value)
            options[option] = {inner.__name__: nested} if nested else inner.__name__
        elif option in parameters.inputs and not isinstance(value, str):
            # Names of references; where they lie is not recorded.
            continue
        elif option in parameters.names and option not in parameters.nested:
            field = parameters.model.model_fields[option]
            default = () if field.is_required() else field.default
            if isinstance(value, list):
                value = _given_items(stage_class, key, value, default)
            if field.is_required() or value != default:
                options[option] = value
    return options


def _given_items(stage_class: type[Stage], key: str, items: list[Any], default: Any) -> Any:
    """The items of a record that were given, or the default.

    Of those that are nothing by default, a stage may record some of its own before them.
    """
    stage_items: Any = []
    if not default:
        # There is none to ask where something has to be given to it.
        with contextlib.suppress(CurateError, TypeError):
            stage_items = stage_class().config().get(key)
    if isinstance(stage_items, list) and items[: len(stage_items)] == stage_items:
        items = items[len(stage_items) :]
    same = items == (list(default) if isinstance(default, tuple) else default)
    return default if same else items


def _embedding_columns(
    stage_class: type[Stage], group: list[str], columns: list[str]
) -> dict[str, Any]:
    """What the columns of an embedder are called, and whether it embedded captions."""
    fields = parameters_of(stage_class).model.model_fields
    options: dict[str, Any] = {}
    images = [name for name in group if not name.endswith("_flipped")]
    if images and images[0] != fields["image_embedding_column"].default:
        options["image_embedding_column"] = images[0]
    if images[1:] and images[1] != fields["text_embedding_column"].default:
        options["text_embedding_column"] = images[1]
    if _CAPTIONS in fields and fields[_CAPTIONS].default in columns and len(images) < 2:
        options[_CAPTIONS] = None
    return options


def _named(name: str, options: dict[str, Any], group: list[str], recorded: set[str]) -> Step:
    """The step whose columns are those of a group, as far as names and switches decide it.

    What is recorded is not tried.
    """
    best = _read(name, options)
    fields = parameters_of(stage_classes()[name]).model.model_fields
    columns = [*best.make().columns()]
    trials: list[dict[str, Any]] = []
    if "prefix" in fields and "prefix" not in options:
        stems = sorted(
            {column[: -len(end)] for column in group for end in columns if column.endswith(end)}
        )
        trials += [{"prefix": stem} for stem in stems if stem]
    if "pred_column" in fields and "pred_column" not in options:
        trials.append({"pred_column": min(group, key=len)})
    switches = [option for option, field in fields.items() if isinstance(field.default, bool)]
    trials += [
        {switch: not fields[switch].default} for switch in switches if switch not in recorded
    ]
    for trial in trials:
        other = _read(name, {**best.options_data(), **trial})
        if _difference(other, group) < _difference(best, group):
            best = other
    return best


def _difference(step: Step, group: list[str]) -> int:
    columns = {name for name in step.make().columns() if name != ERROR_COLUMN}
    return len(columns ^ set(group))


def _read(name: str, options: Mapping[str, Any]) -> Step:
    plain = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value
        for key, value in options.items()
    }
    step, problems = read_step({name: plain}, "", name)
    if problems or step is None:
        raise ValueError("; ".join(map(str, problems)))
    return step


def _shared(steps: list[Step]) -> list[Step]:
    """The steps, those that look at pixels within the first embedder's pass."""
    classes = [step.stage_class or Stage for step in steps]
    embedders = [n for n, cls in enumerate(classes) if issubclass(cls, ImageEmbedder)]
    if not embedders:
        return steps
    first = embedders[0]
    orientation = steps[first].options.get("orientation")
    pixels = [
        step
        for n, step in enumerate(steps)
        if issubclass(classes[n], PixelStage)
        and n not in embedders
        and step.options.get("orientation") == orientation
    ]
    if not pixels:
        return steps
    whole = Step(steps[first].name, {**steps[first].options, "image_stages": pixels})
    return [whole if n == first else step for n, step in enumerate(steps) if step not in pixels]
