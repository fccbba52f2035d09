"""What a plan will take: rows, passes over images, and bytes, as far as it can be told before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nemo_image_curate.dedup.base import ColumnDedup
from nemo_image_curate.dedup.decontaminate import Decontaminate
from nemo_image_curate.dedup.semantic import SemanticDedup
from nemo_image_curate.quality.digest import ImageDigest
from nemo_image_curate.recipe.plan import Plan, passes
from nemo_image_curate.recipe.rehearsal import Planned
from nemo_image_curate.stages.base import PixelStage, Stage


@dataclass(frozen=True)
class PlanCost:
    """What is to be done.

    Attributes
    ----------
    rows : int or None
        Of the input; None when tars without a sidecar say so only when they are read.
    decoding : list of str
        The steps that decode images, each of them all that conditions before it leave.
    reading : list of str
        The steps that read images' bytes, decoded or not.
    images : int or None
        To decode, at most.
    tar_bytes : int
        To read of tars, at most.
    notes : list of str
        What else can be told.
    """

    rows: int | None
    decoding: list[str]
    reading: list[str]
    images: int | None
    tar_bytes: int
    notes: list[str]


def cost_of(plan: Plan) -> PlanCost:
    """The cost of what a plan has yet to do; exports copy the bytes of the rows that are left."""
    sources = plan.dataset.source()[1]
    counts = [source.rows for source in sources]
    rows = None if None in counts else sum(count or 0 for count in counts)
    size = sum(source.tar.size for source in sources if source.tar)
    todo = plan.todo
    measures = {
        " and ".join(planned.label for planned in together): [
            stage for planned in together for stage in _measures(planned)
        ]
        for together in passes(todo)
    }
    decoding = [label for label, stages in measures.items() if any(map(_decodes, stages))]
    reading = [label for label, stages in measures.items() if stages]
    exports = sum(planned.step.name == "export" for planned in todo)
    notes = [note for planned in todo for note in _notes(planned)]
    if len(decoding) > 1:
        notes.append(
            f"{', '.join(decoding)} decode the images one after the other; image_stages of an "
            "embedder share its pass, and what a deduplication compares may be made there."
        )
    images = None if rows is None else rows * len(decoding)
    return PlanCost(rows, decoding, reading, images, size * (len(reading) + exports), notes)


def _measures(planned: Planned) -> Iterator[Stage]:
    """The stages of a step that look at images and whose columns are not there yet."""
    stage = planned.stage
    stages: list[Stage] = []
    if isinstance(stage, ColumnDedup):
        stages = [stage.measure()]
    elif isinstance(stage, Decontaminate):
        stages = [*stage.measures().values()]
    elif isinstance(stage, (PixelStage, ImageDigest)):
        yield stage
    known = planned.before.provenance
    for measure in stages:
        if any(known.get(name) != record for name, record in measure.provenance().items()):
            yield measure


def _decodes(stage: Any) -> bool:
    return isinstance(stage, PixelStage) or stage.of == "pixels"


def _notes(planned: Planned) -> Iterator[str]:
    stage = planned.stage
    if not isinstance(stage, SemanticDedup):
        return
    # Embeddings that are yet to be made have no width yet.
    if stage.embedding_column in planned.before.source()[0].schema.names:
        yield f"{planned.label}: {stage.estimate_cost(planned.before)}"
