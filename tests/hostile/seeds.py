"""Small whole files of every kind, to be damaged."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_image_curate.shards.index import format_idx, scan
from nemo_image_curate.shards.sidecars import RECORD_KEY
from tests.decode import pictures

KEYS = ["a", "x/größe", "z"]
_CONTENTS = {"jpg": b"\xff\xd8\xff" + b"1" * 700, "txt": "größer 猫".encode(), "json": b'{"n": 1}'}


@functools.cache
def images() -> list[bytes]:
    """A picture of 16 x 12 in every format and mode."""
    return list(pictures.good(16, 12).values())


@functools.cache
def tars() -> list[bytes]:
    """The same samples in every dialect, then with links, holes, long names and headers for all."""
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    plain = [_tar(KEYS, one) for one in formats]
    long = ["n" * 90 + "/" + "m" * 120]
    return [*plain, *(_tar(long, one, odd=True) for one in formats[1:]), _sparse()]


def _tar(keys: list[str], tar_format: int, odd: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for key in keys:
            for extension, content in _CONTENTS.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                if odd and tar_format == tarfile.PAX_FORMAT:
                    info.pax_headers = {"size": str(len(content)), "comment": "x" * 600}
                tar.addfile(info, io.BytesIO(content))
            for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE)):
                if odd:
                    info = tarfile.TarInfo(f"{key}{number}.jpg")
                    info.type, info.linkname = kind, f"{key.rpartition('/')[2]}.jpg"
                    tar.addfile(info)
    return buffer.getvalue()


def _sparse() -> bytes:
    """GNU's old way to write holes, with a second block of places."""
    info = tarfile.TarInfo("hole.jpg")
    info.type, info.size = b"S", 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return (
        bytes(header)
        + bytes(504)
        + b"\0"
        + bytes(7)
        + b"1" * 512
        + _tar(["a"], tarfile.USTAR_FORMAT)
    )


@functools.cache
def packed() -> list[bytes]:
    """Tars in every packing."""
    plain = tars()[0]
    zstd = pa.compress(plain, codec="zstd", asbytes=True)
    return [gzip.compress(plain, mtime=0), bz2.compress(plain), lzma.compress(plain), zstd]


@functools.cache
def indexes() -> list[bytes]:
    """The ``.idx`` file of the first of the tars."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(tars()[0])
        samples = scan(file).samples
    return [
        format_idx(
            [(f"{key}.{member.extension}", member) for member in members]
            for key, members in samples.items()
        ).encode()
    ]


@functools.cache
def records() -> list[bytes]:
    """What we write into the footer of a Parquet file."""
    account: dict[str, Any] = {"rows_in_sidecars": 3, "samples_in_tars": 3, "with_row": 3}
    account |= {
        "without_row": 0,
        "with_image": 3,
        "without_image": 0,
        "faults": {},
        "image_member": None,
    }
    record = {
        "version": "1",
        "tar_size": len(tars()[0]),
        "account": {**account, "named": []},
        "fingerprint": "f" * 64,
        "origin": "",
        "names": ["key", "image_error"],
        "columns": {"shard": {"image_member": "jpg"}, "image_error": {"stage": "A"}},
        "summary": {"rows": 3, "errors": {"missing": 1}, "dropped": {"by_condition": 1}},
    }
    return [json.dumps(record).encode()]


@functools.cache
def manifests() -> list[bytes]:
    """The list of files of a folder of metadata."""
    files = [{"file": "d.parquet", "shard": "d.tar"}]
    manifest = {"format": 1, "root": ".", "id_col": "key", "shards": ["d.tar"], "files": files}
    return [json.dumps(manifest).encode()]


def table() -> pa.Table:
    """A column of every type that expressions look at."""
    return pa.table(
        {
            "n": pa.array([1, None, 2**62]),
            "u": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "f": pa.array([0.5, float("nan"), None]),
            "s": pa.array(["größe", None, ""]),
            "b": pa.array([True, False, None]),
            "t": pa.array([10**15, None, 1], pa.timestamp("us")),
            "v": pa.array([[1.0], None, []], pa.list_(pa.float32())),
            "odd name": pa.nulls(3),
        }
    )


@functools.cache
def parquets() -> list[bytes]:
    """Parquet files, with and without our record."""
    plain = table().append_column("key", pa.array(KEYS))
    plain = plain.append_column("image_error", pa.array([None, "missing", None]))
    files = []
    for metadata in (None, {RECORD_KEY: records()[0]}):
        buffer = io.BytesIO()
        pq.write_table(plain.replace_schema_metadata(metadata), buffer)
        files.append(buffer.getvalue())
    return files


@functools.cache
def expressions() -> list[bytes]:
    """Expressions with all that is allowed in one."""
    texts = [
        "n > 1 and u <= 3.5 or not b",
        "(n + 1) * 2 // 3 % 5 - -u / f >= 0 & b | ~(f < 1)",
        "s.str.contains('a.*', case=False, regex=True) and s.isin(['x', 'größe'])",
        "s.str.lower().str.strip('x').str.len() > 2 and v.list.len() == 1",
        "t >= '2020-01-01' and `odd name`.isna() and s == ['a', 'b']",
        "n.between(1, 2, inclusive='left') and f.round(2).abs() ^ n in [1, 2]",
        "s.str.startswith(['a', 'b'], na=True) and s + 'x' != 'yx' and 1 < n < 3",
    ]
    return [text.encode() for text in texts]


def of(target: str) -> list[bytes]:
    """The seeds of a target, by its name."""
    makers: dict[str, Any] = {
        "tar": tars,
        "packed": packed,
        "idx": indexes,
        "header": images,
        "image": images,
        "sidecar": parquets,
        "record": records,
        "manifest": manifests,
        "expression": expressions,
    }
    files: list[bytes] = makers[target]()
    return files
