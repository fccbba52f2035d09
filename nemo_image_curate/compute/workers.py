"""Whether workers may do a job: they have our versions, and see the files that the client sees.

Each job asks all workers once before it begins. A worker that comes later finds out with its first
task, which carries what to look at.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_image_curate import locks, storage
from nemo_image_curate.compute import _dask
from nemo_image_curate.errors import ClusterError, CurateError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)
# What values depend on, and what Dask's parts must have in common.
_PACKAGES = (
    *("dask", "distributed", "numpy", "pandas", "pyarrow", "scipy", "pillow", "torch", "timm"),
    *("open_clip_torch", "faiss-cpu", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "cudf-cu13"),
)
# What Dask's nannies set, and why it is bad: see `client`.
_TRIMMING = "65536"
# A worker that does not answer by then is busy or gone; it looks again when it has a task.
_ANSWER_SECONDS = 60
_NAMED = 5


@dataclass
class _Known:
    """What is known of a client's workers."""

    # By address.
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    check_versions: bool = True


# Of the jobs that this process, a worker, may do.
_passed: set[str] = set()
_clients: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Expected:
    """What a worker is to have and to see.

    Attributes
    ----------
    token : str
        Of the job.
    versions : dict of str to str or None
        Those of all workers; empty when they do not matter.
    folders : tuple of Lock
        That are written to.
    inputs : tuple of (str, int or None)
        Files with their sizes in bytes; None where that may change.
    """

    token: str
    versions: Mapping[str, str | None]
    folders: tuple[locks.Lock, ...]
    inputs: tuple[tuple[str, int | None], ...]

    def require(self) -> None:
        """Look whether this process may do the job; runs in a worker that came later.

        Raises
        ------
        ClusterError
        """
        worker = f"a worker on host {socket.gethostname()}"
        if differing := _differences(versions(), self.versions):
            raise _mixed([f"{worker} {differing}"])
        problem, marks = self.look()
        for mark in marks:
            storage.remove(mark)
        if problem:
            raise _unshared([f"{worker} {problem}"])

    def look(self) -> tuple[str | None, list[str]]:
        """What this process does not see, and the files that it wrote into the folders."""
        problem, marks = self._unseen()
        if problem is None:
            _passed.add(self.token)
        return problem, marks

    def _unseen(self) -> tuple[str | None, list[str]]:
        marks: list[str] = []
        for lock in self.folders:
            if storage.is_local(lock.folder):
                mark = f"{lock.location}{storage.TEMPORARY}{uuid.uuid4().hex}"
                try:
                    # Also has NFS look at the folder anew.
                    Path(mark).touch()
                except OSError as error:
                    return f"cannot write to {lock.folder}: {error.strerror}", marks
                marks.append(mark)
            try:
                is_same = lock.is_whole()
            except Exception as error:
                return f"cannot read from {lock.folder}: {error}", marks
            if not is_same:
                return (
                    f"does not see the client's {lock.folder}: it has another one, or none",
                    marks,
                )
        for location, size in self.inputs:
            try:
                info = storage.stat(location)
            except CurateError as error:
                return str(error), marks
            if info is None:
                return f"does not see {location}", marks
            if size is not None and info.size != size:
                return f"has {info.size:,} bytes in {location}, not {size:,}", marks
        return None, marks


class Guarded:
    """A function for workers that first looks whether its process may do the job.

    Parameters
    ----------
    function : callable
    expected : Expected
    """

    def __init__(self, function: Callable[..., Any], expected: Expected):
        self.function = function
        self.expected = expected
        # What Dask's dashboard calls these tasks.
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.expected.token not in _passed:
            self.expected.require()
        return self.function(*arguments, **options)


@functools.cache
def versions() -> dict[str, str | None]:
    """The versions of this process that workers are to have, too; None for what is not there."""
    installed: dict[str, str | None] = _reader()(_PACKAGES)["versions"]
    return installed


def allow_versions(client: Client) -> None:
    """Let workers of a client have other versions than it has."""
    _clients.setdefault(client, _Known()).check_versions = False


def hindrance(client: Any) -> str | None:
    """What keeps a client's workers from going on, if something does."""
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except Exception:
        return "the scheduler does not answer"
    if not workers:
        return "no worker is connected to the scheduler"
    if all(worker["status"] == "paused" for worker in workers):
        return f"all {len(workers)} workers are paused, because their memory is full"
    return None


def check(client: Client, inputs: Sequence[tuple[str, int | None]] = ()) -> Expected:
    """Look whether all workers may do a job.

    Parameters
    ----------
    client : distributed.Client
    inputs : sequence of (str, int or None)
        Files that are read, with their sizes in bytes; None where that may change.

    Returns
    -------
    Expected
        What workers that come later are to be asked.

    Raises
    ------
    ClusterError
        Naming hosts, and versions or paths.
    """
    known = _clients.setdefault(client, _Known())
    _ask(client, known)
    versions: dict[str, str | None] = {}
    if known.check_versions and known.facts:
        _require_versions(known.facts)
        versions = next(iter(known.facts.values()))["versions"]
    folders = tuple(lock for lock in locks.held() if lock.shared)
    expected = Expected(uuid.uuid4().hex, versions, folders, tuple(inputs))
    if folders or inputs:
        _require_sight(client, known, expected)
    return expected


def _ask(client: Client, known: _Known) -> None:
    """Learn the facts of the workers that are new, and warn of what is slow or not repeatable."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    for gone in known.facts.keys() - workers.keys():
        del known.facts[gone]
    new = [address for address in workers if address not in known.facts]
    if not new:
        return
    answers = _dask.run(client, _reader(), _PACKAGES, workers=new, seconds=_ANSWER_SECONDS)
    if answers is None:
        logger.warning(
            "some workers did not answer within %d s, and are asked again when they have a task.",
            _ANSWER_SECONDS,
        )
        return
    known.facts |= {address: facts for address, facts in answers.items() if type(facts) is dict}
    slow = {facts["host"] for facts in answers.values() if facts["trim"] == _TRIMMING}
    if slow:
        logger.warning(
            "workers on %s give memory back to the system at once, which takes up to a third of "
            "their time. Start them with DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__"
            "MALLOC_TRIM_THRESHOLD_=134217728.",
            _listed(sorted(slow)),
        )
    threads = Counter(facts["threads"] for facts in known.facts.values())
    if len(threads) > 1:
        logger.warning(
            "workers compute with different numbers of threads (%s): the last bits of values "
            "depend on which worker made them. Start all with the same OMP_NUM_THREADS.",
            ", ".join(f"{count} with {number}" for number, count in sorted(threads.items())),
        )


def _reader() -> Callable[[Sequence[str]], dict[str, Any]]:
    """What reads a worker's facts; a function of no module, so that all workers understand it."""

    def read(packages: Sequence[str]) -> dict[str, Any]:
        import importlib.metadata
        import os
        import socket
        import sys

        versions: dict[str, str | None] = {"python": "{}.{}".format(*sys.version_info)}
        try:
            from nemo_image_curate.version import __version__

            versions["nemo_image_curate"] = __version__
        except ImportError:
            versions["nemo_image_curate"] = None
        for name in packages:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = None
        return {
            "host": socket.gethostname(),
            "versions": versions,
            "threads": int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))),
            "trim": os.environ.get("MALLOC_TRIM_THRESHOLD_"),
        }

    return read


def _require_versions(facts: Mapping[str, dict[str, Any]]) -> None:
    expected = versions()
    first = next(iter(facts.values()))["versions"]
    # A client may lack what it does not use, and have no GPU where workers have one.
    expected = {
        name: first[name] if not version or _public(version) == _public(first[name]) else version
        for name, version in expected.items()
    }
    problems = [
        f"worker {address} on host {worker['host']} {differing}"
        for address, worker in facts.items()
        if (differing := _differences(worker["versions"], expected))
    ]
    if problems:
        raise _mixed(problems)


def _public(version: str | None) -> str:
    """A version without what tells builds apart: 2.13.0 of 2.13.0+cu130."""
    return (version or "").partition("+")[0]


def _differences(versions: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> str:
    """How versions differ from those that are wanted, as the end of a sentence."""
    differing = [
        f"{name} {versions.get(name) or 'not installed'}, not {version or 'without it'}"
        for name, version in wanted.items()
        if versions.get(name) != version
    ]
    return f"has {'; '.join(differing)}" if differing else ""


def _require_sight(client: Client, known: _Known, expected: Expected) -> None:
    asked = list(known.facts)
    answers = _dask.run(client, Expected.look, expected, workers=asked, seconds=_ANSWER_SECONDS)
    if answers is None:
        return
    problems, marks = [], []
    for address, answer in answers.items():
        worker = f"worker {address} on host {known.facts[address]['host']}"
        if not isinstance(answer, tuple):
            raise _mixed([f"{worker} runs other code of this package than the client: {answer}"])
        problem, written = answer
        unseen = [mark for mark in written if not os.path.exists(mark)]
        if unseen and problem is None:
            problem = (
                f"does not write to the client's {os.path.dirname(unseen[0])}, but to another one"
            )
        if problem:
            problems.append(f"{worker} {problem}")
        marks += written
    for mark in marks:
        storage.remove(mark)
    if problems:
        raise _unshared(problems)


def _mixed(problems: Sequence[str]) -> ClusterError:
    return ClusterError(
        f"{_listed(problems, '. ')}. Values of both would be mixed. Install the same on all hosts, "
        "or allow it: get_client(check_versions=False), --allow-version-mismatch."
    )


def _unshared(problems: Sequence[str]) -> ClusterError:
    return ClusterError(
        f"{_listed(problems, '. ')} (the client is on host {socket.gethostname()}). What is read "
        "and written must lie on a file system that all hosts share, under the same path."
    )


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more
