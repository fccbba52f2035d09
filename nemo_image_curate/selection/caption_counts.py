"""`RepeatedCaptions`: how many images of the dataset have the same caption.

Each partition sends hashes of its captions to buckets, in files that all workers share, and a
bucket keeps those that came more than once. So no process holds the captions of all rows.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.compute import jobs
from nemo_image_curate.dataset import partitions
from nemo_image_curate.dataset.fingerprints import fingerprint
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.quality.caption_patterns import normalised
from nemo_image_curate.quality.captions import captions_of
from nemo_image_curate.selection.prepared import PreparedStage

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

COUNT, IS_REPEATED = "caption_count", "is_repeated_caption"
# By the first 6 bits of a hash; a thousand million captions are 400 MB in each.
_BUCKETS = 64
# 128 bits: that two of a thousand million captions have the same is as likely as 1 in 10**21.
_HASH_BYTES = 16
_COUNTED = np.dtype([("hash", f"S{_HASH_BYTES}"), ("count", "<i8")])


@dataclass(eq=False)
class RepeatedCaptions(PreparedStage):
    """Adds how many images have the same caption.

    Parameters
    ----------
    caption_column : str, default "caption"
    most : int, default 10
        A caption that more images have is a repeated one. ALIGN left those out: Jia et al.,
        "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text
        Supervision", 2021, section 3.
    work_dir : str or path, optional
        A folder for hashes of captions, that all workers share: some 30 bytes for each image
        while it counts, and 24 for each caption that is there twice until the columns are
        computed. Default: in the system's temporary folder.

    Columns
    -------
    caption_count : int64
        Rows of the dataset with this caption, itself with them; upper case, white space and
        Unicode's compatible forms make no difference. Null where there is no caption, or an
        empty one.
    is_repeated_caption : bool
        More than `most`; null as above.

    Examples
    --------
    >>> ds = RepeatedCaptions()(ds)  # doctest: +SKIP
    >>> ds = ds.filter("not is_repeated_caption")  # doctest: +SKIP
    """

    caption_column: str = "caption"
    most: int = 10

    def check(self) -> None:
        """Refuse an unusable number with `ConfigError`."""
        if self.most < 1:
            raise ConfigError(f"most={self.most} should be a positive integer.")

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        return {COUNT: pa.int64(), IS_REPEATED: pa.bool_()}

    def inputs(self) -> list[str]:
        """The captions."""
        return [self.caption_column]

    def prepare(self, dataset: ImageTextPairDataset, folder: Path) -> _Counts:
        """Count the captions of all rows."""
        # What an earlier call left there may be of other captions.
        steps = folder / "steps"
        shutil.rmtree(steps, ignore_errors=True)
        storage.make_dirs(str(steps / "counts"))
        frame = dataset.metadata[self.inputs()]
        sent = Exchange(steps, "sent", frame.npartitions, _BUCKETS)
        arguments = [(sent, number, self.caption_column) for number in range(sent.senders)]
        partitions.run(frame, _send, arguments, what="captions")
        groups = np.array_split(np.arange(_BUCKETS), min(_BUCKETS, sent.senders))
        call = dask.delayed(_count, pure=False)
        tasks = [call(sent, group.tolist(), steps / "counts") for group in groups]
        labels = [f"buckets {group[0]} to {group[-1]}" for group in groups]
        digests = jobs.compute_all(tasks, labels, "count")
        counts = _Counts(folder, fingerprint([digest for group in digests for digest in group]))
        if not counts.folder.exists():
            (steps / "counts").rename(counts.folder)
        shutil.rmtree(steps)
        return counts

    def run(self, frame: Any) -> dict[str, Any]:
        """The columns of a computed partition."""
        texts = normalised(captions_of(frame, self.caption_column))
        rows, hashes = _hashes(texts)
        counts = np.zeros(len(texts), dtype=np.int64)
        counts[rows] = self.basis.of(hashes)
        has_none = counts == 0
        return {
            COUNT: pa.array(counts, mask=has_none),
            IS_REPEATED: pa.array(counts > self.most, mask=has_none),
        }


class _Counts:
    """Captions that were there more than once, with how often: a sorted file for each bucket."""

    # No dataclass: Dask would look into it for tasks.
    def __init__(self, folder: Path, digest: str):
        self.folder = folder / f"counts-{digest[:24]}"
        self.digest = digest

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """How often captions with these hashes were there."""
        counts = np.ones(len(hashes), dtype=np.int64)
        buckets = _buckets(hashes)
        for bucket in np.unique(buckets):
            stored = np.load(_file(self.folder, bucket), mmap_mode="r")
            if not len(stored):
                continue
            rows = np.flatnonzero(buckets == bucket)
            places = np.searchsorted(stored["hash"], hashes[rows]).clip(max=len(stored) - 1)
            is_there = stored["hash"][places] == hashes[rows]
            counts[rows[is_there]] = stored["count"][places[is_there]]
        return counts


def _file(folder: Path, bucket: int) -> Path:
    return folder / f"bucket-{bucket:02d}.npy"


def _hashes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The rows that have a caption, and its hash."""
    values = texts.to_pylist()
    rows = np.array([row for row, text in enumerate(values) if text], dtype=np.int64)
    digests = [
        hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest() for text in values if text
    ]
    return rows, np.frombuffer(b"".join(digests), dtype=_COUNTED["hash"])


def _buckets(hashes: np.ndarray) -> np.ndarray:
    first = np.ascontiguousarray(hashes).view(np.uint8)[::_HASH_BYTES]
    buckets: np.ndarray = (first >> 2).astype(np.int64)
    return buckets


def _send(frame: Any, sent: Exchange, number: int, column: str) -> None:
    """Send the captions of a computed partition to their buckets; runs on a worker."""
    _, hashes = _hashes(normalised(captions_of(frame, column)))
    hashes, counts = np.unique(hashes, return_counts=True)
    stored = pa.Array.from_buffers(
        pa.binary(_HASH_BYTES), len(hashes), [None, pa.py_buffer(hashes.tobytes())]
    )
    sent.write(number, pa.table({"hash": stored, "count": counts}), _buckets(hashes))


def _count(sent: Exchange, buckets: list[int], folder: Path) -> list[str]:
    """Write how often captions were there, and tell a digest of it; runs on a worker."""
    digests = []
    for bucket in buckets:
        table = sent.read(bucket)
        stored = np.frombuffer(table["hash"].combine_chunks().buffers()[1], _COUNTED["hash"])
        hashes, place = np.unique(stored, return_inverse=True)
        counts = np.zeros(len(hashes), dtype=np.int64)
        np.add.at(counts, place, table["count"].to_numpy())
        several = counts > 1
        repeated = np.empty(int(several.sum()), dtype=_COUNTED)
        repeated["hash"], repeated["count"] = hashes[several], counts[several]
        with storage.atomic_write(str(_file(folder, bucket))) as file:
            np.save(file, repeated)
        digests.append(hashlib.sha256(repeated.tobytes()).hexdigest())
    return digests
