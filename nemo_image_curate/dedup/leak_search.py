"""The work of `Decontaminate`: rows and references in files, compared by blocks on the workers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dask

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup import against_vectors, deciding, results
from nemo_image_curate.dedup.base import has_made
from nemo_image_curate.dedup.leak_groups import shard_columns, spread
from nemo_image_curate.dedup.leaks import HASHES, Signals, compare_block, write_block
from nemo_image_curate.dedup.measured import MeasuredRows
from nemo_image_curate.dedup.references import ReferenceRows
from nemo_image_curate.dedup.staged import RowArrays, StagedRows
from nemo_image_curate.embedders.base import flipped_column
from nemo_image_curate.quality.digest import DIGEST_COLUMN
from nemo_image_curate.stages.base import Stage

logger = logging.getLogger(__name__)

# Rows that embeddings propose where hashes have a say in which of them is named. Of pairs of
# CIFAR-10 that people call the same shot, 8, 16 and 32 name the same, 4 a fortieth less.
_CANDIDATES = 8


class Found(NamedTuple):
    """Where the decisions are.

    Attributes
    ----------
    folder : Path
    carried : dict of str to dict or None
        Columns that were measured, and how.
    references : str
        A hash of the references' rows.
    """

    folder: Path
    carried: dict[str, Any]
    references: str


class LeakSearch:
    """Compares a dataset with references.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    references : dict of str to ImageTextPairDataset
    signals : Signals
    measures : dict of str to Stage
        By signal what makes the columns that are compared.
    embedding_column : str
    groups : list of str
        Columns of the dataset that name groups of duplicates.
    folder : Path
        For files; the same one after a restart.
    """

    def __init__(
        self,
        dataset: ImageTextPairDataset,
        references: Mapping[str, ImageTextPairDataset],
        signals: Signals,
        measures: Mapping[str, Stage],
        embedding_column: str,
        groups: list[str],
        folder: Path,
    ):
        self.signals = signals
        self.measures = measures
        self.column = embedding_column
        self.groups = groups
        self.folder = folder
        self.reference_folder = folder / "references"
        self.dataset = self._embedded(dataset)
        self.references = {
            name: self._embedded(reference) for name, reference in references.items()
        }

    def run(self) -> Found:
        """Find leaks, unless they were found before."""
        groups = [*self.groups, *shard_columns(self.dataset, self.groups)]
        own_rows = MeasuredRows(
            self.dataset, self._needs(self.dataset, False), groups, self.folder / "own", None
        )
        others = {
            name: MeasuredRows(
                reference,
                self._needs(reference, self.signals.mirrored),
                [],
                results.work_folder(reference, self.reference_folder, list(self.measures)),
                None,
            )
            for name, reference in self.references.items()
        }
        vectors = self._vectors([rows.known for rows in others.values()])
        identity = fingerprint(
            [[name, rows.folder.name, rows.known.digest()] for name, rows in others.items()],
            vectors.digest() if vectors else None,
        )
        decided = self.folder / f"decisions-{fingerprint(own_rows.known.digest(), identity)[:24]}"
        if not results.complete(decided):
            measured = {name: rows.measure() for name, rows in others.items()}
            columns = next(iter(others.values())).needed
            self._decide(own_rows, ReferenceRows(measured, columns), vectors, decided)
        own_rows.remove()
        shutil.rmtree(self.reference_folder, ignore_errors=True)
        return Found(decided, own_rows.carried, identity)

    def _embedded(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset, its embeddings computed and stored if they are not yet."""
        if "semantic" not in self.signals.by or self.column in dataset.source()[0].schema.names:
            return dataset
        return dataset.save_metadata(
            results.work_folder(dataset, self.folder / "embedded", self.column),
            overwrite=True,
        )

    def _needs(
        self, dataset: ImageTextPairDataset, mirrored: bool
    ) -> list[tuple[Stage, list[str]]]:
        """What stages have to make, and which of their columns are compared.

        Hashes of mirrored images are needed on one side; used on both where they are there.
        """
        needs = []
        if stage := self.measures.get("exact"):
            needs.append((stage, [DIGEST_COLUMN]))
        if stage := self.measures.get("perceptual"):
            names = [*HASHES]
            flipped = [f"{name}_flipped" for name in HASHES]
            records = stage.provenance()
            has_plain = has_made(dataset, {name: records[name] for name in names})
            if self.signals.mirrored and (
                mirrored
                or not has_plain
                or has_made(dataset, {name: records[name] for name in flipped})
            ):
                names += flipped
            needs.append((stage, names))
        return needs

    def _vectors(self, staged: list[StagedRows]) -> against_vectors.NearVectors | None:
        """The nearest rows by embeddings; None when these are not compared."""
        if "semantic" not in self.signals.by:
            return None
        mirrored = flipped_column(self.column) if self.signals.mirrored else None
        own_mirrored = mirrored if mirrored in self.dataset.metadata.columns else None
        wanted = None if own_mirrored else mirrored
        if wanted:
            self._warn_of_mirrors(wanted)
        files = against_vectors.store(
            self.references, staged, self.column, wanted, self.reference_folder / "vectors", None
        )
        # One alone is named, whatever other signals say.
        count = _CANDIDATES if "perceptual" in self.signals.by else 1
        return against_vectors.find_nearest(
            self.dataset, self.column, own_mirrored, files, count, self.folder, None
        )

    def _warn_of_mirrors(self, mirrored: str) -> None:
        lacking = [
            name
            for name, reference in self.references.items()
            if mirrored not in reference.metadata.columns
        ]
        if lacking:
            how = "by hashes only" if "perceptual" in self.signals.by else "by nothing"
            logger.warning(
                "neither the dataset nor %s has a column %r: mirrored copies are found %s. Embed "
                "the references with flip=True (embed --flip).",
                ", ".join(lacking),
                mirrored,
                how,
            )

    def _decide(
        self,
        own_rows: MeasuredRows,
        references: ReferenceRows,
        vectors: against_vectors.NearVectors | None,
        decided: Path,
    ) -> None:
        """Write what is found to a folder."""
        steps = decided / "steps"
        storage.make_dirs(str(steps))
        staged = own_rows.measure()
        near = RowArrays(steps, "near", staged.starts)
        arguments = [
            (block, own_rows.needed, references, vectors, self.signals) for block in staged.blocks
        ]
        near.fill(compare_block, arguments, "compare", None)
        if self.groups:
            near = spread(near, staged, self.groups, steps, None)
        call = dask.delayed(write_block, pure=False)
        carried = list(own_rows.carried)
        written = jobs.compute_all(
            [
                call(decided, block, near, references, staged.id_col, carried, self.signals)
                for block in staged.blocks
            ],
            [f"block {block.number}" for block in staged.blocks],
            "decide",
            None,
        )
        deciding.mark_complete(decided, staged, written)
        shutil.rmtree(steps)
