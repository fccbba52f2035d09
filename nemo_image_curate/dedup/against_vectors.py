"""The nearest of other datasets' embeddings, partition by partition."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nemo_image_curate import frames, storage
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup.against import Nearest
from nemo_image_curate.dedup.staged import Block, StagedRows
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.vectors.neighbours import top_k
from nemo_image_curate.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset


class _File(NamedTuple):
    """The vectors of one partition: a ``.npy``, and beside it the numbers of their rows."""

    path: Path
    dim: int
    digest: str

    @property
    def numbers(self) -> Path:
        return self.path.with_suffix(".rows.npy")


class VectorFiles:
    """Unit vectors of the rows of references.

    Attributes
    ----------
    files : list of _File
        Of the pictures as they are.
    mirrored : list of _File
        Of the pictures mirrored, where the dataset that is compared has no such vectors itself.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, files: Sequence[_File], mirrored: Sequence[_File]):
        self.files = list(files)
        self.mirrored = list(mirrored)

    @property
    def dim(self) -> int:
        """The length of the vectors; 0 when there are none."""
        return next((file.dim for file in self.files), 0)

    def digest(self) -> str:
        """A hash of the vectors."""
        return fingerprint(
            *([file.digest for file in files] for files in (self.files, self.mirrored))
        )


def store(
    references: Mapping[str, ImageTextPairDataset],
    staged: Sequence[StagedRows],
    column: str,
    mirrored: str | None,
    folder: Path,
    progress: bool | None,
) -> VectorFiles:
    """Write the unit vectors of all rows of references that have some.

    Parameters
    ----------
    references : dict of str to ImageTextPairDataset
    staged : sequence of StagedRows
        Of these; rows are numbered through all.
    column : str
    mirrored : str or None
        The column of the vectors of mirrored pictures, used where a reference has it.
    folder : Path
    progress : bool or None

    Raises
    ------
    DatasetError
        When vectors are not all of one length.
    """
    storage.make_dirs(str(folder))
    files: tuple[list[_File], list[_File]] = ([], [])
    first = 0
    for number, (dataset, rows) in enumerate(zip(references.values(), staged, strict=True)):
        starts = np.cumsum([first, *rows.counts])
        for kind, name in enumerate((column, mirrored)):
            if name is None or name not in dataset.metadata.columns:
                continue
            paths = [folder / f"{number}-{kind}-{part:05d}.npy" for part in range(len(rows.counts))]
            stored = partitions.run(
                dataset.metadata[[name]],
                _store_partition,
                [(path, int(start)) for path, start in zip(paths, starts, strict=False)],
                what="read",
                progress=progress,
            )
            files[kind].extend(file for file in stored if file is not None)
        first = int(starts[-1])
    if len(dims := {file.dim for file in files[0]}) > 1:
        raise DatasetError(
            f"embeddings in {column!r} of the references have different lengths: "
            f"{', '.join(map(str, sorted(dims)))}. Embed all with one model."
        )
    return VectorFiles(*files)


def _store_partition(frame: Any, path: Path, first: int) -> _File | None:
    """Write the unit vectors of one partition; runs on a worker."""
    values, present = frames.embedding_array(frame[frame.columns[0]])
    vectors, with_direction = unit_vectors(values, frames.device_of(frame))
    if not len(vectors):
        return None
    array = vectors.cpu().numpy()
    digest = hashlib.sha256(np.ascontiguousarray(array).data)
    numbers = present[with_direction] + first
    digest.update(numbers.data)
    file = _File(path, array.shape[1], digest.hexdigest())
    for place, content in ((file.path, array), (file.numbers, numbers)):
        with storage.atomic_write(str(place)) as opened:
            np.save(opened, content)
    return file


class NearVectors:
    """For each row of a dataset the rows of references with the nearest vectors, in files.

    Parameters
    ----------
    folder : Path
    count : int
        How many for each row.
    digests : list of str
        A hash of each partition's vectors.
    """

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, folder: Path, count: int, digests: list[str]):
        self.folder = folder
        self.count = count
        self.digests = digests

    def digest(self) -> str:
        """A hash of what was compared, and how."""
        return fingerprint(self.folder.name, self.digests)

    def read(self, block: Block) -> Nearest:
        """Of the rows of a block: arrays of shape (m, count), the nearest first."""
        rows = np.full((len(block), self.count), -1, dtype=np.int64)
        cosines = np.full((len(block), self.count), np.nan, dtype=np.float32)
        compared = np.zeros(len(block), dtype=bool)
        first = 0
        for part, size in zip(block.parts, block.counts, strict=True):
            with np.load(_part_file(self.folder, part, self.digests[part])) as stored:
                places = first + stored["places"]
                rows[places], cosines[places] = stored["rows"], stored["cosines"]
                compared[places] = True
            first += size
        return Nearest(rows, cosines, compared)


def _part_file(folder: Path, part: int, digest: str) -> Path:
    return folder / f"near-{part:05d}-{digest[:16]}.npz"


def find_nearest(
    dataset: ImageTextPairDataset,
    column: str,
    mirrored: str | None,
    vectors: VectorFiles,
    count: int,
    folder: Path,
    progress: bool | None,
) -> NearVectors:
    """Find the rows of references with the nearest vectors; what was found before stays.

    Memory: a worker holds a partition's vectors, and 4,096 of the references'.

    Parameters
    ----------
    dataset : ImageTextPairDataset
    column : str
    mirrored : str or None
        The dataset's column of vectors of mirrored pictures, if these are to be looked for.
    vectors : VectorFiles
    count : int
        How many rows for each.
    folder : Path
    progress : bool or None

    Raises
    ------
    DatasetError
        When vectors are longer or shorter than those of the references.
    """
    folder = folder / f"near-{fingerprint(vectors.digest(), mirrored, count)[:24]}"
    storage.make_dirs(str(folder))
    columns = [column, *([mirrored] if mirrored else [])]
    frame = dataset.metadata[columns]
    device = frames.device_of(frame)
    arguments = [(number, folder, vectors, count, device) for number in range(frame.npartitions)]
    digests = partitions.run(
        frame, _find_partition, arguments, what="compare embeddings", progress=progress
    )
    return NearVectors(folder, count, digests)


def _find_partition(
    frame: Any, part: int, folder: Path, vectors: VectorFiles, count: int, device: str
) -> str:
    """Find the nearest vectors for one partition; runs on a worker."""
    content = hashlib.sha256()
    queries = []
    for name in frame.columns:
        values, present = frames.embedding_array(frame[name])
        content.update(present.data)
        content.update(np.ascontiguousarray(frames.host(values)).data)
        unit, with_direction = unit_vectors(values, device)
        queries.append((unit, present[with_direction]))
    path = _part_file(folder, part, content.hexdigest())
    if path.exists():
        return content.hexdigest()
    (plain, places), *mirrored = queries
    if len(plain) and vectors.dim not in (0, plain.shape[1]):
        raise DatasetError(
            f"embeddings in {frame.columns[0]!r} have {plain.shape[1]} values, those of the "
            f"references {vectors.dim}: they are of another model. Embed both with one."
        )
    near = [_named(plain, vectors.files, count, device)]
    if vectors.mirrored:
        near.append(_named(plain, vectors.mirrored, count, device))
    for unit, own_places in mirrored:
        rows = np.full((len(places), count), -1, dtype=np.int64)
        cosines = np.full(rows.shape, np.nan, dtype=np.float32)
        shared, where, own_where = np.intersect1d(places, own_places, return_indices=True)
        if len(shared):
            rows[where], cosines[where] = _named(unit[own_where], vectors.files, count, device)
        near.append((rows, cosines))
    rows, cosines = _best(near, count)
    with storage.atomic_write(str(path)) as file:
        np.savez(file, places=places, rows=rows, cosines=cosines)
    return content.hexdigest()


def _named(
    queries: Any, files: Sequence[_File], count: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """`top_k`, with the numbers that rows have among all of the references."""
    # Where there is no vector, its length is not known either.
    if not files or not len(queries):
        shape = (len(queries), count)
        return np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
    places, cosines = top_k(queries, [file.path for file in files], count, device)
    numbers = np.concatenate([np.load(file.numbers) for file in files])
    return np.where(places >= 0, numbers[places], -1), cosines


def _best(
    near: Sequence[tuple[np.ndarray, np.ndarray]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best of several lists for each row, each neighbour once."""
    if len(near) == 1:
        return near[0]
    rows = np.concatenate([part for part, _ in near], axis=1)
    cosines = np.concatenate([part for _, part in near], axis=1)
    order = np.lexsort((rows, -cosines), axis=1)
    rows, cosines = (np.take_along_axis(part, order, axis=1) for part in (rows, cosines))
    # A row in both lists stands in the first place of its own only.
    again = (rows[:, :, None] == rows[:, None, :]) & np.tri(rows.shape[1], k=-1, dtype=bool)
    rows[again.any(axis=2)] = -1
    cosines[rows < 0] = np.nan
    order = np.argsort(rows < 0, axis=1, kind="stable")[:, :count]
    best_rows, best_cosines = (np.take_along_axis(part, order, axis=1) for part in (rows, cosines))
    return best_rows, best_cosines
