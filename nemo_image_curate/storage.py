"""Files anywhere fsspec reaches: list, stat, read, and write so that readers never see half a file.

Locations are plain strings: absolute paths for local files, full URLs (``s3://bucket/key``) for
everything else. Credentials and endpoints come from the environment (``AWS_ENDPOINT_URL``,
fsspec's own configuration), so that the same string works on the driver and on every worker.
"""

from __future__ import annotations

import contextlib
import errno
import glob as glob_module
import json
import logging
import os
import posixpath
import re
import socket
import stat as file_mode
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec.config
import fsspec.core

from nemo_image_curate.errors import (
    ChangedError,
    ConfigError,
    CurateError,
    DatasetError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Every unfinished file carries this mark in its name, so that leftovers of a killed run can be
# told from the user's own files.
TEMPORARY = ".curate-tmp-"
# Files that are asked for at once, and by each thread one after the other where they are many.
_THREADS = 32
_BY_EACH_THREAD = 64
# What the names of the files end in that keep two processes from writing to one folder.
LOCK_ENDING = ".curate-lock"
# What operating systems leave in folders.
_HIDDEN_MARKS = (
    *("._", "ds_store", "thumbs.db", "desktop.ini", "@eadir/", "__macosx/", ".spotlight-v100/"),
    *(".trashes/", ".fseventsd/", ".ipynb_checkpoints/", ".trash-", "$recycle.bin/"),
)
_HIDDEN = re.compile(
    r"(?:^|[/\0])(?:\._[^/\0]*|\.DS_Store|(?:eh)?thumbs\.db|desktop\.ini"
    r"|(?:@eaDir|__MACOSX|\.Spotlight-V100|\.Trashes|\.fseventsd|\.ipynb_checkpoints"
    r"|\.Trash-[0-9]+|\$RECYCLE\.BIN)/[^\0]*)(?=\0|$)",
    re.IGNORECASE,
)
# What fsspec needs for URLs.
_NEEDED = {
    "s3": "'nemo_image_curate[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
}
# Their errors say that a place was not reached.
_REMOTE_PACKAGES = frozenset(
    "adlfs aiohttp azure botocore gcsfs google httpx httpx2 huggingface_hub requests s3fs".split()
)
_CONNECT_SECONDS = 10
# What file systems say when the disk, or the server behind it, is at fault, and not the file.
_NOT_ANSWERING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
        *("ENETUNREACH", "EBUSY", "ENXIO", "ENODEV", "EREMOTEIO", "ECONNRESET", "ECONNREFUSED"),
        *("ECONNABORTED", "ENOLINK", "ESHUTDOWN", "EAGAIN"),
    )
)
_FORBIDDEN = (401, 403)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileInfo:
    """What a listing tells of one file.

    Attributes
    ----------
    location : str
    size : int
        Bytes.
    mtime : float
        When its content was written, in seconds since the epoch.
    changed : float
        When it came to be there as it is: also moving or copying a file with its old time counts.
    content : str
        What changes with the content: of an object store its ETag, of a local file its times to
        the nanosecond; empty where nothing is known of it.
    """

    location: str
    size: int
    mtime: float
    changed: float
    content: str = ""

    @property
    def token(self) -> str:
        """What tells this content of the file from others that it has had or will have."""
        return f"{self.size}-{self.content or self.mtime}"

    def require_same(self, now: FileInfo | None) -> None:
        """Check that a file has the content that it had when it was looked at.

        Raises
        ------
        NotFoundError, ChangedError
        """
        again = "Nothing was written of it. {}, then run the same job again."
        if now is None:
            raise NotFoundError(
                f"{self.location} was removed, or its disk unmounted, while it was in use. "
                + again.format("Put it back")
            )
        if self.size != now.size:
            difference = f"it had {self.size} bytes, and has {now.size}"
        elif self.content and now.content:
            difference = "" if self.content == now.content else "it has other content of that size"
        else:
            # Listings of some stores tell less than what they say of one file, and finer times.
            apart = abs(self.mtime - now.mtime) if self.mtime and now.mtime else 0
            difference = "it was written again" if apart >= 1 else ""
        if difference:
            raise ChangedError(
                f"{self.location} was changed while it was in use: {difference}. "
                + again.format("Wait until it is complete")
            )


def filesystem(location: str) -> tuple[Any, str]:
    """The fsspec filesystem of a location, and the path inside it."""
    # Other processes write while we look: a remembered listing would hide what they did.
    options: dict[str, Any] = {} if is_local(location) else {"use_listings_cache": False}
    if location.startswith("s3://") and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
        # botocore waits a minute, five times, for a host that does not answer.
        options["config_kwargs"] = {"connect_timeout": _CONNECT_SECONDS}
    try:
        fs, path = fsspec.core.url_to_fs(location, **options)
        return fs, path
    except ImportError as error:
        scheme = location.partition("://")[0]
        module = _NEEDED.get(scheme, f"what fsspec needs for {scheme}://")
        raise DatasetError(
            f"cannot use {location}: {error}. Install it: pip install {module}"
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"cannot use {location}: {error}. Known are local paths and {', '.join(_NEEDED)} URLs."
        ) from error


def endpoint() -> str:
    """Where the environment says that S3 is."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f"AWS_ENDPOINT_URL={url}" if url else "AWS_ENDPOINT_URL is not set: Amazon's own"


@contextlib.contextmanager
def reaching(location: str) -> Iterator[None]:
    """Tell what goes wrong between here and a place by one of three errors, with what to check.

    What is wrong with a file's content, or with this machine, passes as it is.

    Raises
    ------
    NotFoundError, ForbiddenError, UnavailableError
    """
    try:
        yield
    except CurateError:
        raise
    except Exception as error:
        trouble = _trouble(location, error)
        if trouble is None:
            raise
        raise trouble from error


def _trouble(location: str, error: Exception) -> DatasetError | None:
    """The error of ours for one of a file system or a store; None for all others."""
    message = " ".join(str(error).split())[:300] or type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        if is_local(location):
            return NotFoundError(_not_there(location))
        return NotFoundError(f"{location} does not exist: {message}. {_check_of(location)}.")
    if isinstance(error, PermissionError) or _status(error) in _FORBIDDEN:
        return ForbiddenError(f"may not read {location}: {message}. {_check_of(location)}.")
    if is_local(location):
        if number not in _NOT_ANSWERING:
            return None
    else:
        is_remote = type(error).__module__.partition(".")[0] in _REMOTE_PACKAGES
        ours_to_solve = number in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM)
        if not (is_remote or isinstance(error, OSError)) or ours_to_solve:
            return None
    return UnavailableError(f"cannot reach {location}: {message}. {_check_of(location)}.")


def _not_there(location: str) -> str:
    folder, host = parent(location), socket.gethostname()
    if os.path.isdir(folder):
        return f"{location} does not exist on {host}. Is the name right, or was it moved meanwhile?"
    return f"{location} does not exist on {host}, nor does {folder}. Is the disk mounted there?"


def _status(error: Exception) -> int | None:
    """The HTTP status in an exception of one of the clients that fsspec uses."""
    response = getattr(error, "response", None)
    for holder, name in (
        *((error, name) for name in ("status", "status_code", "code")),
        *((response, name) for name in ("status_code", "status")),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, int):
            return value
    return None


def _check_of(location: str) -> str:
    """What a user can look at when a place gives nothing."""
    if location.startswith("s3://"):
        return (
            f"Check the endpoint ({endpoint()}), the credentials (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY or AWS_PROFILE), and the bucket's name"
        )
    if location.startswith("hf://"):
        return "Check the repository's name, and your token: hf auth login"
    if is_local(location):
        host = socket.gethostname()
        return f"Check on {host} that its disk is mounted and works, and that you may read it"
    return "Check the address, the network, and that you may read it"


def is_local(location: str) -> bool:
    """Whether a location is on a local (or mounted) file system."""
    return "://" not in location


def normalise(location: str | os.PathLike[str]) -> str:
    """One spelling per place: absolute local paths, URLs without a final slash."""
    location = os.fspath(location)
    if location.startswith("file://"):
        location = location[len("file://") :]
    if is_local(location):
        return os.path.abspath(os.path.expanduser(location))
    scheme, separator, path = location.partition("://")
    return scheme + separator + path.rstrip("/")


def local_path(location: str | os.PathLike[str], argument: str, why: str) -> str:
    """A folder, or a file, as an absolute path.

    Parameters
    ----------
    location : str or path
    argument : str
        What the user calls it.
    why : str
        Why it should be there, as the end of the message.

    Raises
    ------
    ConfigError
        When it is not on a local (or mounted) file system.
    """
    folder = normalise(location)
    if not is_local(folder):
        raise ConfigError(
            f"{argument}={folder!r} should be on a local or mounted file system: {why}. "
            f"Give {argument}= a path there."
        )
    return folder


def relative(location: str, root: str) -> str:
    """The path of a location below `root`, which may be ``/`` or a bare scheme such as ``s3://``.

    Raises
    ------
    DatasetError
        When it does not lie below it.
    """
    prefix = root if root.endswith("/") else f"{root}/"
    if not location.startswith(prefix):
        raise DatasetError(f"{location} does not lie below {root}.")
    return location[len(prefix) :]


def join(root: str, *parts: str) -> str:
    """A location below `root`.

    Raises
    ------
    DatasetError
        When a part is absolute or climbs out: shard names come from files that others wrote.
    """
    for part in parts:
        if part.startswith("/") or "://" in part or ".." in part.split("/"):
            raise DatasetError(f"{part!r} is no path below {root}; shard names are relative to it.")
    return posixpath.join(root, *parts)


def parent(location: str) -> str:
    """The folder that holds a location."""
    scheme, separator, path = location.rpartition("://")
    return scheme + separator + posixpath.dirname(path)


def stat(location: str) -> FileInfo | None:
    """Size and modification time, or None when there is no such file."""
    if is_local(location):
        try:
            status = os.stat(location)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            # No file has a name that is too long; what cannot be written says so when it is.
            if getattr(error, "errno", None) == errno.ENAMETOOLONG:
                return None
            trouble = _trouble(location, error)
            raise trouble or DatasetError(f"cannot use {location[:200]}: {error}") from error
        if not (file_mode.S_ISREG(status.st_mode) or file_mode.S_ISDIR(status.st_mode)):
            # To open a pipe would wait for ever.
            raise DatasetError(
                f"{location} is a pipe, socket or device, and no file. Move it away."
            )
        changed = max(status.st_mtime, status.st_ctime)
        content = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
        return FileInfo(location, status.st_size, status.st_mtime, changed, content)
    fs, path = filesystem(location)
    with reaching(location):
        try:
            return _info(location, fs.info(path))
        except FileNotFoundError:
            return None


def concurrently(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Yield what a function that waits for disks or stores gives for each item, in order.

    For short waits only: Python's threads stand in each other's way while they calculate.
    """
    size = max(1, min(_BY_EACH_THREAD, len(items) // _THREADS))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for results in pool.map(lambda batch: [function(item) for item in batch], batches):
            yield from results


def _info(location: str, info: dict[str, Any]) -> FileInfo:
    written = info.get("mtime") or info.get("LastModified") or info.get("updated") or 0.0
    if hasattr(written, "timestamp"):
        written = written.timestamp()
    mtime = float(written) if isinstance(written, (int, float)) else 0.0
    content = str(info.get("ETag") or info.get("etag") or "").strip('"')
    return FileInfo(location, int(info["size"] or 0), mtime, mtime, content)


def is_dir(location: str) -> bool:
    """Whether a location is a folder (for object stores: a prefix that holds something)."""
    fs, path = filesystem(location)
    with reaching(location):
        return bool(fs.isdir(path))


def is_hidden(name: str) -> bool:
    """Whether a file is one of those that operating systems leave: ``._a.jpg``, ``.DS_Store``.

    Also for several names with NULs between them: whether any of them is.
    """
    lowered = name.lower()
    # The search for plain texts is many times faster.
    return any(mark in lowered for mark in _HIDDEN_MARKS) and _HIDDEN.search(name) is not None


def find(folder: str, suffix: str | tuple[str, ...]) -> list[FileInfo]:
    """All files below `folder` whose name ends in (a) `suffix`, sorted.

    Links to files and folders are followed. Unfinished files, locks, and those of `is_hidden`, are
    left out.

    Raises
    ------
    DatasetError
        Naming a link to nothing.
    """
    if is_local(folder):
        names = (name for name in _walk(folder) if _is_wanted(name, folder, suffix))
        return list(map(_linked, sorted(names)))
    fs, path = filesystem(folder)
    with reaching(folder):
        listed = sorted(fs.find(path, detail=True).items())
    return [
        _info(fs.unstrip_protocol(name), info)
        for name, info in listed
        if _is_wanted(name, path, suffix)
    ]


def glob(pattern: str) -> list[FileInfo]:
    """The files that match a glob pattern, sorted; links, unfinished and hidden files as in `find`.

    Raises
    ------
    DatasetError
        Naming a link to nothing.
    """
    if is_local(pattern):
        names = glob_module.iglob(pattern, recursive=True)
        files = (name for name in names if not os.path.isdir(name) and _is_wanted(name, "", ""))
        return list(map(_linked, sorted(files)))
    fs, path = filesystem(pattern)
    with reaching(pattern):
        listed = sorted(fs.glob(path, detail=True).items())
    return [
        _info(fs.unstrip_protocol(name), info)
        for name, info in listed
        if info["type"] == "file" and _is_wanted(name, "", "")
    ]


def _is_wanted(name: str, folder: str, suffix: str | tuple[str, ...]) -> bool:
    below = name[len(folder) :]
    is_ours = TEMPORARY in name or name.endswith(LOCK_ENDING)
    return name.lower().endswith(suffix) and not is_ours and not is_hidden(below)


def _walk(folder: str) -> Iterator[str]:
    """All files below a local folder; each folder once, however many links lead there."""

    def tell(error: OSError) -> None:
        logger.warning("%s is left out with all below it: %s", error.filename, error.strerror)

    seen: set[tuple[int, int]] = set()
    for path, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (os.path.join(path, name) for name in files)


def _linked(name: str) -> FileInfo:
    info = stat(name)
    if info is None:
        raise DatasetError(
            f"{name} is a link to a file that does not exist. Mend the link, or move it away."
        )
    return info


def make_dirs(folder: str) -> None:
    """Create a folder and its parents; a clear error when that is not possible."""
    if folder.startswith(("http://", "https://")):
        raise DatasetError(
            f"cannot write to {folder}: web servers only give files. Choose a folder for what is "
            "computed: --output DIR, or save_metadata(DIR)."
        )
    fs, path = filesystem(folder)
    try:
        with contextlib.nullcontext() if is_local(folder) else reaching(folder):
            fs.makedirs(path, exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"cannot create {folder}: {error.strerror or error}. Choose a place you may write to."
        ) from error


def read_bytes(location: str) -> bytes:
    """The whole content of one file.

    This, and what else reads, raises the errors of `reaching`.
    """
    with reaching(location):
        if is_local(location):
            return Path(location).read_bytes()
        fs, path = filesystem(location)
        return bytes(fs.cat_file(path))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from a file.

    Raises
    ------
    ValueError
        For what is no JSON, and for what is nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def open_read(location: str) -> IO[bytes]:
    """A seekable binary file; what goes wrong later needs `reaching` around it."""
    with reaching(location):
        if is_local(location):
            return open(location, "rb")
        fs, path = filesystem(location)
        file: IO[bytes] = fs.open(path, "rb")
        return file


def read_ranges(location: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of several ``(offset, size)`` ranges of one file, concurrently on object stores."""
    fs, path = filesystem(location)
    # Object stores have no empty ranges: asked for one, they send the whole file.
    bounds = [(offset, offset + size) for offset, size in ranges if size]
    starts, ends = [start for start, _ in bounds], [end for _, end in bounds]
    with reaching(location):
        contents = iter(fs.cat_ranges([path] * len(bounds), starts, ends, on_error="raise"))
    return [bytes(next(contents)) if size else b"" for _, size in ranges]


@contextlib.contextmanager
def fetched(location: str) -> Iterator[IO[bytes]]:
    """A local file with the content of `location`, gone when closed or when the process dies.

    Remote files are copied as one sequential read, which is what object stores are good at.
    """
    if is_local(location):
        with open_read(location) as file:
            yield file
        return
    fs, path = filesystem(location)
    # An unnamed temporary file: even kill -9 leaves nothing behind.
    with tempfile.TemporaryFile() as file:
        with (
            reaching(location),
            fs.open(path, "rb", block_size=8 * 2**20, cache_type="readahead") as remote,
        ):
            while block := remote.read(8 * 2**20):
                file.write(block)
        file.flush()
        file.seek(0)
        yield file


@contextlib.contextmanager
def atomic_write(location: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name only when complete.

    Local: a temporary name in the same folder, then ``os.replace``. Remote: a local temporary
    file, then one upload, since object stores make an object visible only when it is whole.
    """
    if is_local(location):
        folder, name = os.path.split(location)
        temporary = os.path.join(folder, f".{name}{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, location)
        except OSError as error:
            raise DatasetError(
                f"cannot write {location}: {error.strerror or error}. An old file of that name is "
                "whole. Choose a place with space that you may write to; inputs may be read-only "
                "when the output is a folder of its own."
            ) from error
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.remove(temporary)
        return
    fs, path = filesystem(location)
    with tempfile.NamedTemporaryFile() as file:
        yield file
        file.flush()
        fs.put_file(file.name, path)


def write_bytes(location: str, content: bytes) -> None:
    """Write a small file atomically."""
    with atomic_write(location) as file:
        file.write(content)


def create(location: str, content: bytes) -> bool:
    """Write a small file where there is none, which of several processes only one can.

    Object stores of which fsspec knows no conditional write are looked at before: two processes
    that begin in the same moment may both have it there.

    Returns
    -------
    bool
        False when there is one.
    """
    if is_local(location):
        try:
            with open(location, "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True
    fs, path = filesystem(location)
    with reaching(location):
        try:
            fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except TypeError:
            if fs.exists(path):
                return False
            fs.pipe_file(path, content)
    return True


def remove(location: str) -> None:
    """Remove one file; it is fine when it is gone already."""
    fs, path = filesystem(location)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def remove_tree(folder: str) -> None:
    """Remove a folder and all below it; it is fine when it is gone already."""
    fs, path = filesystem(folder)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def remove_temporaries(folder: str) -> None:
    """Remove what killed runs left unfinished below a local folder (others leave nothing)."""
    if is_local(folder):
        for leftover in Path(folder).rglob(f".*{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
