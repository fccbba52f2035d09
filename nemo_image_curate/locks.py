"""Locks of folders that are written to; they lie there, so they hold for all hosts that see them.

A lock is a file that only one process can create, also on NFS and in object stores that know
conditional writes (S3). It says whose it is. Its holder touches it every few seconds. On the same
machine the system tells whether a holder lives; of one elsewhere a lock that was not touched for a
minute, by the clock of who watches it, is dead.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.errors import DatasetError

logger = logging.getLogger(__name__)
_BEAT_SECONDS = 5.0
# A holder elsewhere may stand still for so long, as when its network or its disk does.
_DEAD_SECONDS = 60.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds.

    Attributes
    ----------
    folder : str
    location : str
        Its file.
    record : bytes
        What the file holds: no other lock has the same.
    shared : bool
        Whether workers write to the folder.
    """

    folder: str
    location: str
    record: bytes
    shared: bool

    def is_whole(self) -> bool:
        """Whether the file is there and this lock's, as seen from this process."""
        state = _read(self.location)
        return state is not None and state[0] == self.record


_held: list[Lock] = []


def held() -> list[Lock]:
    """The locks that this process holds."""
    return list(_held)


@contextlib.contextmanager
def exclusive(folder: str, name: str = "", shared: bool = True) -> Iterator[None]:
    """Keep other processes, on whatever host, from writing to a folder meanwhile.

    The folder is created. A lock whose holder was killed is taken over: at once on the same
    machine, after a minute on another one.

    Parameters
    ----------
    folder : str
    name : str, optional
        Of the file in it that is written. Default: all of the folder.
    shared : bool, default True
        Whether workers write to it, and so must see it.

    Raises
    ------
    DatasetError
        When another process holds it, naming that; when the folder cannot be written to; at the
        end, when this process stood still for so long that another one took the lock.
    """
    is_new = storage.is_local(folder) and not os.path.isdir(folder)
    storage.make_dirs(folder)
    location = storage.join(folder, (name and f".{name}") + storage.LOCK_ENDING)
    lock = Lock(folder, location, _record(), shared)
    _acquire(lock)
    stop, lost = threading.Event(), threading.Event()
    beat = threading.Thread(target=_keep, args=(lock, stop, lost), daemon=True, name="lock")
    beat.start()
    _held.append(lock)
    try:
        yield
    finally:
        stop.set()
        beat.join()
        release(lock)
        if is_new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    if lost.is_set():
        raise DatasetError(
            f"this process stood still for more than {_DEAD_SECONDS:.0f} s, and another one began "
            f"to write to {folder}. When that has ended, run the same again: what is whole is kept."
        )


def release(lock: Lock) -> None:
    """Remove the file of a lock, unless another process has taken it."""
    with contextlib.suppress(ValueError):
        _held.remove(lock)
    with contextlib.suppress(Exception):
        if lock.is_whole():
            storage.remove(lock.location)


@atexit.register
def release_all() -> None:
    """Release what this process holds; for one that ends at once."""
    for lock in held():
        # A forked process has a copy of the list.
        if json.loads(lock.record)["pid"] == os.getpid():
            release(lock)


def _acquire(lock: Lock) -> None:
    watched: tuple[bytes, float] | None = None
    since = time.monotonic()
    while not _created(lock):
        state = _read(lock.location)
        if state is None:
            continue
        holder = _holder(state[0])
        if _has_ended(holder):
            _take_away(lock.location, state[0])
            continue
        if watched is None:
            watched = state
            if holder.get("machine") == _machine():
                raise _refusal(lock.folder, holder)
            logger.warning(
                "%s is locked by %s. Waiting up to %.0f s to see whether that still runs.",
                *(lock.folder, _described(holder), _DEAD_SECONDS),
            )
        elif state != watched:
            raise _refusal(lock.folder, holder)
        elif time.monotonic() - since > _DEAD_SECONDS:
            _take_away(lock.location, state[0])
            continue
        time.sleep(_POLL_SECONDS)


def _created(lock: Lock) -> bool:
    try:
        return storage.create(lock.location, lock.record)
    except OSError as error:
        raise DatasetError(
            f"cannot write to {lock.folder}: {error.strerror or error}. Choose a place with space "
            "that you may write to; inputs may be read-only when the output is a folder of its own."
        ) from error


def _refusal(folder: str, holder: dict[str, Any]) -> DatasetError:
    return DatasetError(
        f"another process is writing to {folder}: {_described(holder)}. Wait for it, stop it, or "
        "choose another folder."
    )


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return "a process that left no name"
    return f"process {holder['pid']} on host {holder['host']}, since {holder['since']}"


def _record() -> bytes:
    """What tells this lock from all others, and its holder from other processes."""
    record = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "machine": _machine(),
        "started": _start_time(os.getpid()),
        "lock": uuid.uuid4().hex,
    }
    return json.dumps(record).encode()


def _holder(record: bytes) -> dict[str, Any]:
    """Who a lock is of; nothing when its file was not written whole."""
    try:
        return dict(storage.parse_json(record))
    except (TypeError, ValueError):
        return {}


def _machine() -> str:
    """What processes have in common that see each other's numbers: a boot and a namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"


def _start_time(pid: int) -> int | None:
    """When a process of this machine was started, in ticks since boot; None when it has ended."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    is_dead = fields[0] in "ZX"
    return None if is_dead else int(fields[19])


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder of this machine is known to have ended."""
    is_here = holder.get("machine") == _machine()
    return is_here and _start_time(holder["pid"]) != holder["started"]


def _read(location: str) -> tuple[bytes, float] | None:
    """What a lock's file holds, and when it was touched last; None when there is none."""
    try:
        if not storage.is_local(location):
            info = storage.stat(location)
            return (storage.read_bytes(location), info.mtime) if info else None
        # NFS asks the server anew when a file is opened.
        with open(location, "rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _take_away(location: str, record: bytes) -> None:
    """Remove a dead lock, and no other."""
    if not storage.is_local(location):
        state = _read(location)
        if state is not None and state[0] == record:
            storage.remove(location)
        return
    aside = f"{location}{storage.TEMPORARY}{uuid.uuid4().hex}"
    try:
        os.rename(location, aside)
    except FileNotFoundError:
        return
    try:
        if Path(aside).read_bytes() != record:
            # Another process was quicker, and this lock is its own.
            with contextlib.suppress(FileExistsError):
                os.link(aside, location)
    finally:
        os.remove(aside)


def _keep(lock: Lock, stop: threading.Event, lost: threading.Event) -> None:
    """Touch a lock until it is released, or found to be another's."""
    while not stop.wait(_BEAT_SECONDS):
        # Places that are not reached now may be at the next beat.
        with contextlib.suppress(Exception):
            if not lock.is_whole():
                logger.error("another process took the lock of %s", lock.folder)
                lost.set()
                return
            if storage.is_local(lock.location):
                os.utime(lock.location)
            else:
                storage.write_bytes(lock.location, lock.record)
