"""The exceptions users meet: one small tree, each message with file, row and remedy."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class CurateError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(CurateError, ValueError):
    """An argument or a combination of arguments is not usable."""


class BackendError(CurateError, RuntimeError):
    """The requested device or frame backend does not work on this machine."""


class DatasetError(CurateError, ValueError):
    """A dataset, shard or sidecar cannot be read as what it claims to be."""


class NotFoundError(DatasetError):
    """A file is not where it should be: it was moved, or its disk is not mounted here."""


class ForbiddenError(DatasetError):
    """A file is there and may not be read."""


class UnavailableError(DatasetError):
    """The disk, server or network that holds a file does not answer, or failed."""


class DamagedError(DatasetError):
    """A file was read, and is not what it should be."""


class ChangedError(DatasetError):
    """A file is not what it was when the work on it began."""


class SchemaError(DatasetError):
    """Sidecars disagree about a column in a way that has no common type."""


class ImageError(CurateError, ValueError):
    """An image could not be decoded and the caller asked for ``on_error="raise"``."""


class WeightsError(CurateError, RuntimeError):
    """Model weights are missing, broken, or not the published file."""


class EncoderMismatchError(CurateError, ValueError):
    """A classifier was given embeddings of another encoder than it was trained on."""


class JobError(CurateError, RuntimeError):
    """Some partitions of a job failed; the finished ones are kept."""


class ClusterError(CurateError, RuntimeError):
    """Dask's scheduler or its workers are not there, or cannot do what the client asks of them."""


class ColumnNotFoundError(CurateError, KeyError):
    """A column does not exist; the message lists those that do and the closest name.

    And what to do, where that is known.
    """

    def __init__(self, missing: str, columns: Iterable[str], remedy: str = ""):
        self.missing = missing
        self.columns = [str(column) for column in columns]
        self.remedy = remedy
        super().__init__(missing, self.columns, remedy)

    def __str__(self) -> str:
        close = difflib.get_close_matches(self.missing, self.columns, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"no column {self.missing!r}.{remedy}{hint} Columns: {', '.join(self.columns)}"


def require(module: str, extra: str, user: str) -> None:
    """Refuse to go on without an optional module.

    Parameters
    ----------
    module : str
    extra : str
        Which of this package's extras brings it.
    user : str
        What needs it, as the begin of the message.

    Raises
    ------
    ConfigError
    """
    try:
        installed = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        installed = False
    if not installed:
        raise ConfigError(
            f"{user} needs the module {module}: pip install 'nemo_image_curate[{extra}]'"
        )
