"""A tar that is open for reading, wherever it lies, and must stay as it is meanwhile."""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType

from nemo_image_curate import storage
from nemo_image_curate.compute.worker_cache import scratch_folder
from nemo_image_curate.errors import CurateError, DatasetError, NotFoundError
from nemo_image_curate.shards.compression import MAGIC_BYTES, compression_of, plain_tar, unpacked
from nemo_image_curate.shards.content import Content, LocalContent, read_members
from nemo_image_curate.shards.faults import Fault
from nemo_image_curate.shards.remote_content import content_of, drop


class OpenedTar:
    """The plain bytes of a tar.

    A local tar is read where it lies, a remote one by ranges. A packed one is unpacked to an
    unnamed local file. Nothing is opened or fetched before it is needed.

    Parameters
    ----------
    location : str
        Path or URL.

    Attributes
    ----------
    info : FileInfo
        What the tar was on entering.
    reads_all : bool
        Whether all of a remote tar is fetched at once, when anything of it is needed.

    Raises
    ------
    NotFoundError, ForbiddenError, UnavailableError
        On entering, or when it is read.
    ChangedError
        On leaving, when it is not what it was on entering.
    """

    def __init__(self, location: str):
        self.location = location
        self.info: storage.FileInfo
        self.reads_all = False
        self._stack = ExitStack()
        self._opening = threading.Lock()
        self._content: Content | None = None
        self._fault: Fault | None = None

    def __enter__(self) -> OpenedTar:
        info = storage.stat(self.location)
        if info is None:
            raise NotFoundError(
                f"shard {self.location} does not exist. If the tars were moved, open the dataset "
                "with from_webdataset(TAR_FOLDER, metadata=METADATA_FOLDER), by command with "
                "--tars TAR_FOLDER."
            )
        self.info = info
        return self

    @property
    def is_opened(self) -> bool:
        """Whether anything was needed of it yet."""
        return self._content is not None

    @property
    def content(self) -> Content:
        """The plain bytes."""
        with self._opening:
            if self._content is None:
                self._content = self._open()
            return self._content

    @property
    def fault(self) -> Fault | None:
        """What is wrong with the way in which it is packed."""
        return self._fault if self.content else None

    def _open(self) -> Content:
        try:
            # Not all web servers have ranges.
            if self.location.startswith(("/", "http://", "https://")) or not self.info.size:
                plain = self._stack.enter_context(plain_tar(self.location))
            else:
                content = content_of(self.info)
                if self.reads_all:
                    content.fetch_all()
                if compression_of(content.peek(0, MAGIC_BYTES)) is None:
                    return content
                packed = self._stack.enter_context(content.file())
                plain = self._stack.enter_context(unpacked(self.location, packed))
        except OSError as error:
            text = f"cannot read shard {self.location}: {error}."
            if error.errno != errno.ENOSPC:
                raise DatasetError(text) from error
            # No fault of the tar, which others may read.
            folder = scratch_folder() or tempfile.gettempdir()
            remedy = (
                f"Set TMPDIR to a folder with more space than {folder}; for Dask's workers, their "
                "local_directory."
            )
            raise CurateError(f"{text} {remedy}") from error
        self._fault = plain.fault
        return LocalContent(plain.file)

    def read(self, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of ``(offset, size)`` ranges: see `read_members`."""
        with storage.reaching(self.location):
            yield from read_members(self.content, self.location, ranges)

    def close(self) -> None:
        """Close it without looking whether it is still what it was."""
        self._stack.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None:
            try:
                self.info.require_same(storage.stat(self.location))
            except DatasetError:
                drop(self.info)
                raise
