"""The plain bytes of a tar, however it is packed and wherever it lies."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.faults import Fault

# Enough of a file to know how it is packed.
MAGIC_BYTES = 10
# A member of a plain tar may be called BZh1.jpg: of bzip2 also the first block's mark counts.
_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    # Also a frame to be skipped, which pzstd and seekable files begin with.
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
_BLOCK = 2**20
# What Arrow has unpacked of a block is lost with an error in it.
_ZSTD_BLOCK = 2**16
# Images hardly shrink and texts to a tenth; what grows beyond this is made to fill the disk.
_MAX_RATIO = 200
_ALWAYS_ALLOWED = 2**28


class PlainTar(NamedTuple):
    """A local file with the plain bytes of a tar, and what was wrong with its packing."""

    file: IO[bytes]
    fault: Fault | None


def compression_of(head: bytes) -> str | None:
    """How a file is packed, by its first bytes: gzip, bzip2, xz, zstd, or None."""
    return next((name for name, magic in _MAGIC.items() if magic.match(head)), None)


@contextlib.contextmanager
def plain_tar(location: str) -> Iterator[PlainTar]:
    """A local file with the tar's plain bytes, gone when closed or when the process dies.

    A local tar that is not packed is opened where it is. A stream that breaks off gives what it
    held up to there.

    Raises
    ------
    DatasetError
        When it unpacks to more than 200 times its size.
    OSError
        When it cannot be read, or the disk for temporary files is full.
    """
    with storage.fetched(location) as file, unpacked(location, file) as plain:
        yield plain


@contextlib.contextmanager
def unpacked(location: str, packed: IO[bytes]) -> Iterator[PlainTar]:
    """`plain_tar` of a local file that is open."""
    packed.seek(0)
    kind = compression_of(packed.read(MAGIC_BYTES))
    packed.seek(0)
    if kind is None:
        yield PlainTar(packed, None)
        return
    with tempfile.TemporaryFile() as plain:
        fault = _unpack(location, packed, plain, kind)
        plain.flush()
        plain.seek(0)
        yield PlainTar(plain, fault)


def _unpack(location: str, packed: IO[bytes], plain: IO[bytes], kind: str) -> Fault | None:
    allowed = max(_ALWAYS_ALLOWED, _MAX_RATIO * packed.seek(0, 2))
    packed.seek(0)
    written = 0
    try:
        read = _reader(packed, kind)
        while block := read():
            written += len(block)
            if written > allowed:
                raise DatasetError(
                    f"shard {location} unpacks to more than {allowed} bytes, {_MAX_RATIO} times "
                    f"its size, and is refused. If that is right, unpack it yourself ({kind})."
                )
            plain.write(block)
    except EOFError:
        detail = f"the {kind} stream is cut off; what came before it, {written} bytes, is read"
        return Fault("truncated", "", detail)
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, _BrokenStream) as error:
        detail = f"the {kind} stream is broken ({error}); {written} bytes before it are read"
        return Fault("corrupt", "", detail)
    return None


class _BrokenStream(Exception):
    """Libraries tell a damaged stream and a disk that fails by one class."""


def _reader(packed: IO[bytes], kind: str) -> Callable[[], bytes]:
    """What gives the next plain bytes of a stream, none at its end."""
    files: dict[str, Any] = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
    if kind == "zstd":
        stream = pa.CompressedInputStream(pa.PythonFile(packed, "r"), kind)
    else:
        stream = files[kind](fileobj=packed) if kind == "gzip" else files[kind](packed)

    def read() -> bytes:
        try:
            if kind == "zstd":
                return bytes(stream.read(_ZSTD_BLOCK))
            return bytes(stream.read1(_BLOCK))
        except (gzip.BadGzipFile, EOFError):
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            if "runcated" in str(error):
                raise EOFError from error
            raise _BrokenStream(error) from error

    return read
