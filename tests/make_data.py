"""Small real datasets: tars of real JPEGs, with or without sidecars, and their truth."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


@functools.cache
def jpeg(number: int, width: int = 32, height: int = 24, kind: str = "JPEG") -> bytes:
    """A real picture, different for every number and the same on every call."""
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR).save(buffer, kind)
    return buffer.getvalue()


def write_tar(
    path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT
) -> Path:
    """A tar of regular files, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_sidecar(path: Path, columns: Mapping[str, Any] | pa.Table) -> Path:
    """A Parquet file beside a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    pq.write_table(table, path)
    return path


@dataclass
class Truth:
    """What a made dataset holds.

    Attributes
    ----------
    root : Path
    images : dict of (shard, key) to bytes
    rows : list of dict
        In the order of the shards, with ``key`` and ``shard``.
    """

    root: Path
    images: dict[tuple[str, str], bytes] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [row["key"] for row in self.rows]


def fields_of(shard: int, number: int) -> dict[str, Any]:
    """The columns of a sample as img2dataset writes them."""
    serial = shard * 1000 + number
    return {
        "url": f"https://example.org/{serial}.jpg",
        "caption": f"picture {serial} – größer, 画像 🐈",
        "key": f"{shard:05d}{number:04d}",
        "width": 32 + number,
        "score": (serial * 37 % 101) / 10,
    }


def make_dataset(
    root: Path,
    sizes: Sequence[int] = (4, 4, 4),
    sidecars: bool | Sequence[bool] = True,
    image: str = "jpg",
    text: bool = True,
    with_json: bool = True,
    extra: Mapping[str, bytes] | None = None,
) -> Truth:
    """Shards ``00000.tar``... of so many samples each, with what img2dataset writes beside them.

    Parameters
    ----------
    sizes : sequence of int
        Samples of each shard.
    sidecars : bool or sequence of bool
        Write ``STEM.parquet``, for all or for each shard.
    image : str
        Extension of the picture.
    text, with_json : bool
        Add ``.txt`` and ``.json`` members.
    extra : dict of str to bytes
        Further members of each sample, by extension.
    """
    truth = Truth(root)
    has_sidecar = [sidecars] * len(sizes) if isinstance(sidecars, bool) else sidecars
    for shard, (size, sidecar) in enumerate(zip(sizes, has_sidecar, strict=True)):
        members, rows = [], []
        for number in range(size):
            row = fields_of(shard, number)
            rows.append(row)
            key, picture = row["key"], jpeg(shard * 1000 + number)
            truth.images[f"{shard:05d}.tar", key] = picture
            truth.rows.append({**row, "shard": f"{shard:05d}.tar"})
            members.append((f"{key}.{image}", picture))
            if text:
                members.append((f"{key}.txt", row["caption"].encode()))
            if with_json:
                members.append((f"{key}.json", json.dumps(row).encode()))
            members += [(f"{key}.{name}", content) for name, content in (extra or {}).items()]
        write_tar(root / f"{shard:05d}.tar", members)
        if sidecar:
            schema = pa.schema(
                {
                    "url": pa.string(),
                    "caption": pa.string(),
                    "key": pa.string(),
                    "width": pa.int64(),
                    "score": pa.float64(),
                }
            )
            table = pa.Table.from_pylist(rows, schema=schema)
            write_sidecar(root / f"{shard:05d}.parquet", table)
    return truth


def read_tar(path: Path) -> dict[str, bytes]:
    """All regular members of a tar, by Python's own reader."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}


def digests(folder: Path) -> dict[str, str]:
    """The content of every file below a folder, as hashes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
