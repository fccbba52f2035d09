"""`Decontaminate`: rows that are in another dataset, too."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from nemo_image_curate import frames, locks, storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import Lineage
from nemo_image_curate.dedup import leaks, results
from nemo_image_curate.dedup.exact import ExactDedup
from nemo_image_curate.dedup.leak_page import leak_page
from nemo_image_curate.dedup.leak_presets import preset_named
from nemo_image_curate.dedup.leak_search import LeakSearch
from nemo_image_curate.dedup.leak_summary import LeakSummary, summarise
from nemo_image_curate.dedup.perceptual import PerceptualDedup
from nemo_image_curate.dedup.references import check_names, named_references, open_references
from nemo_image_curate.dedup.semantic import SemanticDedup
from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, EncoderMismatchError
from nemo_image_curate.quality.digest import ImageDigest
from nemo_image_curate.quality.perceptual_hash import PerceptualHash
from nemo_image_curate.stages.base import Stage, no_effect

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Decontaminate(Stage):
    """Finds rows that are copies of rows of another dataset, and says of which.

    For what must not be trained on: test sets, the validation split, the images of a benchmark.
    The other dataset is small, and compared with as a whole; up to a million rows.

    Parameters
    ----------
    reference : ImageTextPairDataset, str, path, or dict of str to one of these
        What to look for. Several have names, which ``leak_of_dataset`` tells; one without a name
        is called like its folder.
    by : sequence of {"exact", "perceptual", "semantic"}
        By the file or its pixels, by 64-bit hashes of what is seen, by embeddings.
    radius : int, default 6
        Perceptual: bits of 64 that may differ; see `PerceptualDedup`.
    eps : float, default 0.05
        Semantic: leaks have a cosine similarity of at least 1 - eps. What is right depends on the
        encoder; for copies an encoder made for them is best: see `preset`.
    flips : bool, default True
        Mirrored copies count. Hashes of mirrored images are made; embeddings of them are used
        where the dataset or a reference has them: embed the smaller one with ``flip=True``.
    group : bool, str or sequence of str, default False
        When one row of a group of duplicates is a leak, all are: rows with the same value in a
        column, such as ``duplicate_of`` of an earlier deduplication. True finds the groups by the
        same signals, radius and eps, with ``rule="components"``.
    of : {"bytes", "pixels"}
        Exact: the files, or what they decode to.
    hash : {"phash", "dhash"}
        Perceptual: which one `radius` is of.
    embedding_column : str, default "image_embedding"
        Of the dataset and of references.
    encoder : str, optional
        What the embeddings are of; those of which nothing is recorded are taken to be of it.
        Default: all of the same one, with a warning where nothing is recorded.
    check_encoder : bool, default True
        Refuse embeddings of different encoders, as far as provenance tells.
    orientation : {"stored", "exif"}
        Whether pictures are compared as they are stored, or turned as EXIF says.
    prefix : str, default ""
        Put before the names of the columns.
    work_dir : str or path, optional
        A folder that all workers share, for intermediate files: the references' embeddings while
        it works, and for each row of the dataset some 100 bytes. Default: in the system's
        temporary folder.

    Columns
    -------
    is_leak : bool
        False where nothing could be compared.
    leak_of, leak_of_shard, leak_of_dataset : string
        Key, shard and reference of the row that is the leak's source. Where there is no leak, of
        the nearest row by the embeddings, so that thresholds can be looked at; null without these.
    leak_similarity : float32
        To that row: 1 where they are equal, else the cosine or 1 - distance / 64, whichever is
        higher of those that make it a leak; the cosine where it is none. Null for leaks by their
        group alone.
    leak_by : string
        What makes it a leak: ``exact``; or of ``perceptual`` and ``semantic`` those that hold for
        the row that is named, joined by ``+``; or ``group``. Null where there is no leak.
    leak_error : string
        What a row lacks that is no leak and could not be compared, such as ``no hash, no
        embedding``; else null. One of these is enough; that files differ is not, unless nothing
        else was asked for, since it says nothing of what is seen.

    Digests and hashes that the dataset lacks are measured, and added as by `ExactDedup` and
    `PerceptualDedup`. Embeddings must be there, in the dataset and in all references. Save the
    dataset's before: what is not saved is computed now, and again when the result is saved.

    Notes
    -----
    All pairs are compared, so the result is exact, and the same for any partitioning. Where
    several rows are within the thresholds, an equal one is named; else the one with the highest
    sum of cosine and mean share of equal bits of both hashes, and of equals the first. Of 125
    pairs of CIFAR-10's test and training images that people call the same shot (Barz and Denzler,
    "Do we train on test data? Purging CIFAR of near-duplicates", 2020), among 4,142 training
    images and with the embeddings of ``TimmImageEmbedder("offline", flip=True)``, all signals
    together name the partner of 96 %, the cosine alone of 94 %. At eps=0.2, 133 of
    all 143 labelled pairs are leaks, 128 with the partner named: 75 by ``semantic``, 3 by
    ``perceptual``, 50 by both.

    Cost: the products of all embeddings with those of the references, once for each mirrored set.
    Memory: a worker holds the embeddings of one partition and digests and hashes of all reference
    rows, some 200 bytes each.

    Examples
    --------
    Test sets, each named:

    >>> tests = {"imagenet": "imagenet-val/", "coco": "coco-val/"}
    >>> ds = Decontaminate(tests, eps=0.1)(ds)
    >>> clean = ds.filter("not is_leak")

    New shards against the set that is there, and a split against another of one dataset:

    >>> new = Decontaminate("curated/", by=["exact", "perceptual"])(new)
    >>> train = ds.filter("split == 'train'")
    >>> validation = ds.filter("split == 'val'")
    >>> train = Decontaminate({"val": validation})(train)
    """

    reference: Any
    by: Sequence[str] | str = leaks.SIGNALS
    radius: int = 6
    eps: float = 0.05
    flips: bool = True
    group: bool | str | Sequence[str] = False
    of: str = "bytes"
    hash: str = "phash"
    embedding_column: str = "image_embedding"
    encoder: str | None = None
    check_encoder: bool = no_effect(True)
    orientation: str = "stored"
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)

    @classmethod
    def preset(cls, name: str, reference: Any, **options: Any) -> Decontaminate:
        """With the threshold that others published for an encoder made for copies.

        Embeddings of which no encoder is recorded are taken to be of that one.

        Parameters
        ----------
        name : str
            One of `nemo_image_curate.dedup.leak_presets.PRESETS`.
        reference
            As for the class.
        **options
            Further parameters of the class, but `eps` and `encoder`.

        Raises
        ------
        ConfigError
            When there is no such preset.
        """
        chosen = preset_named(name)
        return cls(reference, eps=chosen.eps, encoder=chosen.encoder, **options)

    @property
    def signals(self) -> tuple[str, ...]:
        """What is compared, the strongest first."""
        by = (self.by,) if isinstance(self.by, str) else tuple(self.by)
        return tuple(name for name in leaks.SIGNALS if name in by)

    @property
    def _pixel_orientation(self) -> str:
        """Files are compared as a whole, however their pictures lie."""
        return self.orientation if self.of == "pixels" else "stored"

    def check(self) -> None:
        """Refuse unusable parameters.

        Raises
        ------
        ConfigError
        """
        by = [self.by] if isinstance(self.by, str) else list(self.by)
        if not by or set(by) - set(leaks.SIGNALS):
            known = ", ".join(map(repr, leaks.SIGNALS))
            raise ConfigError(f"by={self.by!r} should be one or several of {known}.")
        check_names(self.reference)
        PerceptualDedup(self.radius, self.hash, orientation=self.orientation).check()
        ImageDigest(self.of, orientation=self._pixel_orientation).check()
        SemanticDedup(self.eps).check()
        if not isinstance(self.group, bool) and not self._group_columns():
            raise ConfigError(f"group={self.group!r} should be True, False or names of columns.")

    def _group_columns(self) -> list[str]:
        if isinstance(self.group, (bool, str)):
            return [self.group] if isinstance(self.group, str) and self.group else []
        return [str(name) for name in self.group]

    def measures(self) -> dict[str, Stage]:
        """By signal the stages that make what is compared, for datasets that lack it."""
        stages: dict[str, Stage] = {
            "exact": ImageDigest(self.of, orientation=self._pixel_orientation),
            "perceptual": PerceptualHash(flips=self.flips, orientation=self.orientation),
        }
        return {name: stage for name, stage in stages.items() if name in self.signals}

    def columns(self) -> dict[str, pa.DataType]:
        """What is found, and what it is made of."""
        columns = leaks.leak_columns(self.prefix)
        for stage in self.measures().values():
            columns |= stage.columns()
        return columns

    def parameters(self) -> dict[str, Any]:
        """The parameters that decide values; references as where they are."""
        where = {
            name: [place.metadata_path, Lineage(place.metadata).token]
            if isinstance(place, ImageTextPairDataset)
            else os.fspath(place)
            for name, place in named_references(self.reference)
        }
        return super().parameters() | {"reference": where, "by": list(self.signals)}

    def config(self) -> dict[str, Any]:
        """The parameters that decide the result, but what the references hold."""
        return super().parameters() | {
            "reference": check_names(self.reference),
            "by": list(self.signals),
        }

    def provenance(self) -> dict[str, dict[str, Any]]:
        """How each column is made."""
        records = dict.fromkeys(leaks.leak_columns(self.prefix), self.record())
        for stage in self.measures().values():
            records |= stage.provenance()
        return records

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """The embeddings, where they are compared, and the columns of `group`."""
        embeddings = [self.embedding_column] if "semantic" in self.signals else []
        return [*embeddings, *self._group_columns()]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with columns that say which rows are leaks, found now.

        Raises
        ------
        ConfigError
            For unusable parameters.
        ColumnNotFoundError
            When the dataset or a reference has no embeddings, or there is no column `group`.
        EncoderMismatchError
            When embeddings are of different encoders.
        DatasetError
            When embeddings differ in length, or a reference cannot be opened.
        """
        self.check()
        references = open_references(self.reference, dataset.backend)
        if "semantic" in self.signals:
            self._check_embeddings(dataset, references)
        frames.require_columns(dataset.metadata, *self._group_columns())
        folder = results.work_folder(dataset, self.work_dir, type(self).__name__, self.config())
        with locks.exclusive(str(folder)):
            grouped, groups = self._with_groups(dataset, folder / "groups")
            search = LeakSearch(
                grouped,
                references,
                leaks.Signals(self.signals, self.radius, self.eps, self.hash, self.flips),
                self.measures(),
                self.embedding_column,
                groups,
                folder,
            )
            result = search.run()
        record = self.record(rows=result.references)
        return results.attach(dataset, result.folder, self.prefix, record, result.carried)

    def _with_groups(
        self, dataset: ImageTextPairDataset, work_dir: Path
    ) -> tuple[ImageTextPairDataset, list[str]]:
        """The dataset with columns that name groups of duplicates, and which these are."""
        if self.group is not True:
            return dataset, self._group_columns()
        names = []
        for signal in self.signals:
            prefix = f"leak_group_{signal}_"
            names.append(f"{prefix}duplicate_of")
            dataset = self._dedup(signal, {"prefix": prefix, "work_dir": work_dir})(dataset)
        return dataset, names

    def _dedup(self, signal: str, places: dict[str, Any]) -> Stage:
        """The deduplication that finds groups by a signal."""
        if signal == "exact":
            return ExactDedup(self.of, orientation=self._pixel_orientation, **places)
        common = places | {"rule": "components"}
        if signal == "semantic":
            return SemanticDedup(self.eps, embedding_column=self.embedding_column, **common)
        return PerceptualDedup(
            self.radius, self.hash, self.flips, orientation=self.orientation, **common
        )

    def report(
        self,
        dataset: ImageTextPairDataset,
        path: str | os.PathLike[str],
        pairs: int = 48,
        seed: int = 0,
        caption_column: str = "caption",
        progress: bool | None = None,
    ) -> LeakSummary:
        """Write the leak page, an HTML file that needs no other, and the list of clean rows.

        Parameters
        ----------
        dataset : ImageTextPairDataset
            With the columns that the stage has added.
        path : str or path
            Of the page. The list, Parquet with ``key`` and ``shard``, lies beside it: ``.html``
            becomes ``.clean.parquet``.
        pairs : int, default 48
            How many leaks are shown beside what they are copies of. Of clean rows, the nearest
            to a reference, a quarter as many.
        seed : int, default 0
            For which leaks.
        caption_column : str, default "caption"
            Shown with pictures, when there is one.
        progress : bool, optional
            Default: on a terminal.

        Returns
        -------
        LeakSummary
            What was counted.

        Raises
        ------
        ColumnNotFoundError
            When the dataset lacks the columns.
        """
        location = storage.normalise(path)
        clean_list = f"{location.removesuffix('.html')}.clean.parquet"
        summary = summarise(dataset, self.prefix, pairs, seed, caption_column, clean_list, progress)
        references = open_references(self.reference, dataset.backend)
        thresholds = {"perceptual": 1 - self.radius / 64, "semantic": 1 - self.eps}
        thresholds = {name: value for name, value in thresholds.items() if name in self.signals}
        settings = self.config() | {"dataset": dataset.metadata_path, "seed": seed}
        settings["reference"] = {
            name: reference.metadata_path for name, reference in references.items()
        }
        page = leak_page(
            dataset, references, summary, thresholds, settings, PurePosixPath(clean_list).name
        )
        storage.write_bytes(location, page.encode("utf-8", "backslashreplace"))
        return summary

    def _check_embeddings(
        self, dataset: ImageTextPairDataset, references: Mapping[str, ImageTextPairDataset]
    ) -> None:
        column = self.embedding_column
        sides = {
            "the dataset": dataset,
            **{f"reference {name!r}": r for name, r in references.items()},
        }
        for name, side in sides.items():
            if column not in side.metadata.columns:
                raise ColumnNotFoundError(
                    column,
                    side.metadata.columns,
                    f"{name} has no embeddings: embed it as the others are, or leave 'semantic' "
                    f"out of by={list(self.signals)}.",
                )
        if not self.check_encoder:
            return
        encoders = {name: _encoder(side, column) or self.encoder for name, side in sides.items()}
        required = self.encoder or encoders["the dataset"]
        for name, encoder in encoders.items():
            if encoder != required:
                raise EncoderMismatchError(
                    f"embeddings of {name} are of {encoder or 'an unknown encoder'}, but should be "
                    f"of {required or 'the unknown one of the dataset'}: cosines between encoders "
                    "mean nothing. Embed both with one model, or, if you know that they are right, "
                    "name it as encoder= or pass check_encoder=False."
                )
        if required is None:
            logger.warning(
                "nothing records which encoder embeddings are of, neither those of the dataset nor "
                "of references, and cosines between encoders mean nothing. If you know that all "
                "are of one, name it as encoder=, or pass check_encoder=False (--no-check-encoder)"
            )


def _encoder(dataset: ImageTextPairDataset, column: str) -> str | None:
    record = dataset.provenance.get(column, {})
    if "conflict" in record:
        return f"several encoders ({record['conflict']})"
    encoder: str | None = record.get("encoder")
    return encoder
