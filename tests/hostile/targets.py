"""What bytes from strangers go through, and what has to hold whatever they are.

Each function takes bytes and raises only where something is wrong with our code. They are called
with random damage by the tests here, and by ``ci/fuzz.py`` for as long as one likes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.dataset import saving
from nemo_image_curate.decode.header import read_header
from nemo_image_curate.errors import CurateError, ImageError
from nemo_image_curate.expressions import evaluate
from nemo_image_curate.expressions.check import check
from nemo_image_curate.shards import columns, sidecars
from nemo_image_curate.shards.faults import FAULT_KINDS
from nemo_image_curate.shards.headers import read_entries
from nemo_image_curate.shards.index import parse_idx
from nemo_image_curate.shards.reader import TarShard
from nemo_image_curate.shards.signatures import image_ending, looks_like
from tests.hostile import seeds

# More than this no image of the tests may have; their seeds have 200.
MAX_PIXELS = 1_000_000


@functools.cache
def scratch() -> Path:
    """A folder of this process, in memory where there is such a place."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="hostile-", dir=memory if memory.is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def tar(content: bytes) -> None:
    """The members of a tar lie inside it, and all that is known of them can be read."""
    faults: list[Any] = []
    entries = read_entries(content, faults)
    for name, offset, size in entries:
        assert 512 <= offset <= offset + size <= len(content), name
    assert {fault.kind for fault in faults} <= FAULT_KINDS.keys()
    path = scratch() / "a.tar"
    path.write_bytes(content)
    read_shard(path)


def read_shard(path: Path, use_index_file: bool = False) -> None:
    """All members and columns of a tar."""
    with contextlib.suppress(CurateError), TarShard(str(path), use_index_file) as shard:
        for key in shard.index.samples:
            key.encode()
            assert shard.index.sample(key)
            assert shard.index.image(key) or shard.index.why_no_image(key)
        members = [member for sample in shard.index.samples.values() for member in sample]
        for member, content in zip(members, shard.read(members), strict=True):
            assert content is not None
            assert len(content) == member.size
        table, _ = columns.read_tar(shard, "key")
        assert table["key"].to_pylist() == list(shard.index.samples)


def packed(content: bytes) -> None:
    """A packed tar is read as far as it can be."""
    path = scratch() / "a.tar.gz"
    path.write_bytes(content)
    read_shard(path)


def idx(content: bytes) -> None:
    """An index that is taken names members of the tar beside it; else the tar is read."""
    parse_idx(content.decode("utf-8", "surrogateescape"))
    path = scratch() / "b.tar"
    if not path.exists():
        path.write_bytes(seeds.tars()[0])
    path.with_suffix(".idx").write_bytes(content)
    with TarShard(str(path), use_index_file=True) as shard:
        for sample in shard.index.samples.values():
            for member, part in zip(sample, shard.read(sample), strict=True):
                assert part is not None
                assert len(part) == member.size


def header(content: bytes) -> None:
    """What bytes are is told without decoding them."""
    image_ending(content[:64])
    looks_like(content[:1024])
    with contextlib.suppress(ImageError):
        header = read_header(content, "exif")
        assert header.width > 0
        assert header.height > 0


@functools.cache
def decoder() -> Any:
    from nemo_image_curate.decode.cpu import CpuDecoder

    return CpuDecoder(None, 1, MAX_PIXELS, thumbnail_sizes=(8,), orientation="exif")


@functools.cache
def _good_thumbnail() -> Any:
    return decoder().decode([seeds.images()[0]]).thumbnails[8][0]


def image(content: bytes) -> None:
    """A picture or a reason, and the picture beside it is what it was."""
    batch = decoder().decode([content, seeds.images()[0]])
    assert batch.decoded in ([1], [0, 1])
    assert batch.errors[1] is None
    assert batch.errors[0] is None or batch.errors[0].startswith(("decode: ", "too large: "))
    assert (batch.thumbnails[8][-1] == _good_thumbnail()).all()


def sidecar(content: bytes) -> None:
    """A Parquet file is read, or refused by its name."""
    path = scratch() / "c.parquet"
    path.write_bytes(content)
    with contextlib.suppress(CurateError):
        sidecars.read_footer(str(path), "c.tar")
        sidecars.read_sidecar(str(path), None, "c.tar")


def record(content: bytes) -> None:
    """Whatever stands in our record, a dataset is opened, counted and saved, or refused."""
    folder = scratch() / "record"
    path = folder / "d.parquet"
    if not folder.exists():
        folder.mkdir()
        (folder / "d.tar").write_bytes(seeds.tars()[0])
    table = pa.table({"key": seeds.KEYS, "image_error": pa.nulls(len(seeds.KEYS), pa.string())})
    pq.write_table(table.replace_schema_metadata({sidecars.RECORD_KEY: content}), path)
    with contextlib.suppress(CurateError):
        dataset = ImageTextPairDataset.from_webdataset(str(folder), backend="cpu")
        dataset.account()
        targets = saving.plan(dataset.metadata, dataset.source()[1], [str(path)], True)
        saving.summaries(targets)
        saving.write_table(table, targets[0], dataset.provenance, {})


def manifest(content: bytes) -> None:
    """A folder whose list of files says anything is opened, or refused."""
    folder = scratch() / "manifest"
    if not folder.exists():
        folder.mkdir()
        (folder / "d.tar").write_bytes(seeds.tars()[0])
        pq.write_table(pa.table({"key": seeds.KEYS}), folder / "d.parquet")
    (folder / "_dataset.json").write_bytes(content)
    with contextlib.suppress(CurateError):
        dataset = ImageTextPairDataset.from_webdataset(str(folder), backend="cpu")
        for source in dataset.source()[1]:
            assert Path(source.sidecar_location).resolve().is_relative_to(folder.resolve())


def expression(content: bytes) -> None:
    """A text is an expression, whose value is known for each row, or is refused."""
    text = content.decode("utf-8", "surrogateescape")
    table = seeds.table()
    with contextlib.suppress(CurateError):
        used = check(text, table.column_names)
        mask = evaluate.matching_rows(table.select(used), text)
        assert mask.shape == (len(table) if used else len(mask),)


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one
    for one in (tar, packed, idx, header, image, sidecar, record, manifest, expression)
}
