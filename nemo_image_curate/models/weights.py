"""Where model weights come from: a file of the user, the cache, or one checked download."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import filelock

from nemo_image_curate.errors import WeightsError
from nemo_image_curate.models.download import MIN_BYTES_PER_SECOND, DownloadError, download

_HOME_VARIABLE = "NEMO_IMAGE_CURATE_HOME"
_HASHES: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class WeightsFile:
    """A published weights file.

    Attributes
    ----------
    name
        File name in the cache.
    url
        Where it is published (http or https).
    sha256
        Hexadecimal digest of the published file.
    size
        Its length in bytes.
    """

    name: str
    url: str
    sha256: str
    size: int


def home() -> Path:
    """The weights cache: ``NEMO_IMAGE_CURATE_HOME``, else ``~/.cache/nemo_image_curate``."""
    folder = os.environ.get(_HOME_VARIABLE) or "~/.cache/nemo_image_curate"
    return Path(folder).expanduser()


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file, read once as long as its size and time stay the same.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    path = Path(path).absolute()
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _HASHES:
        with path.open("rb") as handle:
            _HASHES[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return _HASHES[key]


def fetch(weights: WeightsFile, model_path: str | None = None, timeout: float = 60.0) -> Path:
    """A local copy of published weights.

    Looked for in this order: `model_path`, the file of that name in :func:`home` if its SHA-256
    is the published one, the network. A download happens once per node (the others wait at a file
    lock), goes to a temporary name and is renamed only when length and SHA-256 are right, so that
    the cache never shows half a file. A wrong file in the cache is downloaded again.

    Parameters
    ----------
    weights
        The published file.
    model_path
        The user's own copy. Used as it is: it may be a head the user trained, so its hash is
        not compared; :func:`sha256_of` gives it for the record.
    timeout
        Seconds that the server may be silent. The whole download has `timeout` plus the time that
        its size takes at 32 KiB/s; waiting for another process that downloads, twice that.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    WeightsError
        Naming the URL, what went wrong and both ways to provide the file by hand.
    """
    if model_path is not None:
        path = Path(model_path).expanduser()
        if not path.is_file():
            state = "is not a file" if path.exists() else "does not exist"
            raise _error(weights, f"model_path={str(model_path)!r} {state}")
        return path
    target = home() / weights.name
    if _is_published(weights, target):
        return target

    patience = 2 * (timeout + weights.size / MIN_BYTES_PER_SECOND)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target.with_name(f".{target.name}.lock"), timeout=patience):
            if not _is_published(weights, target):  # another process may have been faster
                _download(weights, target, timeout)
    except filelock.Timeout as error:
        problem = f"another process held {error.lock_file} for {patience:.0f} s"
        raise _error(weights, problem) from error
    except OSError as error:
        raise _error(weights, f"cannot write to {target.parent}: {error}") from error
    return target


def _download(weights: WeightsFile, target: Path, timeout: float) -> None:
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", suffix=".part", delete=False
    ) as handle:
        part = Path(handle.name)
        try:
            download(weights.url, handle, weights.size, timeout)
            handle.flush()
            os.fsync(handle.fileno())
            digest = sha256_of(part)
            if digest != weights.sha256:
                raise DownloadError(f"its sha256 is {digest}, not the published {weights.sha256}")
            part.chmod(0o644)  # a temporary file is private; the cache may serve several users
            part.replace(target)
        except DownloadError as error:
            raise _error(weights, f"the download failed: {error}") from error
        finally:
            part.unlink(missing_ok=True)


def _is_published(weights: WeightsFile, path: Path) -> bool:
    try:
        return path.stat().st_size == weights.size and sha256_of(path) == weights.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _error(weights, f"cannot read {path}: {error}") from error


def _error(weights: WeightsFile, problem: str) -> WeightsError:
    target = home() / weights.name
    present = ""
    with contextlib.suppress(OSError):
        present = f" (the file there now has sha256 {sha256_of(target)})"
    return WeightsError(
        f"cannot get {weights.name} from {weights.url}: {problem}. On a machine without internet, "
        f"pass model_path= with a copy of the file, or set {_HOME_VARIABLE} to a folder that "
        f"holds it; with the present setting it is looked for at {target}{present}, sha256 "
        f"{weights.sha256}."
    )
