"""One process at a time writes to a folder, wherever the processes are."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_image_curate import locks, storage
from nemo_image_curate.errors import DatasetError

# Holds a lock until its input ends.
_HOLDER = """
import sys
import threading
from nemo_image_curate import locks
locks._BEAT_SECONDS = 0.1
with locks.exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
# Another machine, as far as processes can tell.
_ELSEWHERE = ["unshare", "--pid", "--fork", "--kill-child", "--uts", "--mount-proc"]
_ELSEWHERE += ["sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]


@pytest.fixture
def hold() -> Iterator[Callable[..., Any]]:
    """Starts processes that hold the lock of a folder."""
    processes = []

    def start(folder: object, *prefix: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _HOLDER, str(folder)],
            **dict.fromkeys(("stdin", "stdout"), subprocess.PIPE),
            # Its own folder for temporary files, as each host has.
            env={**os.environ, "TMPDIR": "/var/tmp"},
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def elsewhere() -> list[str]:
    """What makes a command run as on another machine."""
    if subprocess.run([*_ELSEWHERE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make namespaces")
    return _ELSEWHERE


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(locks, "_BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "_DEAD_SECONDS", 2.0)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.1)


def test_a_second_process_is_refused_and_told_who_holds_the_lock(hold, tmp_path):
    holder = hold(tmp_path)
    with (
        pytest.raises(DatasetError, match=rf"writing to {tmp_path}: process {holder.pid} on host "),
        locks.exclusive(str(tmp_path)),
    ):
        pass
    holder.communicate()
    with locks.exclusive(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_of_this_machine_is_no_hindrance(hold, tmp_path):
    # It is not waited for either, so that the system still knows its number.
    hold(tmp_path).send_signal(signal.SIGKILL)
    time.sleep(0.1)
    assert list(tmp_path.iterdir())
    began = time.monotonic()
    with locks.exclusive(str(tmp_path)):
        assert time.monotonic() - began < locks._DEAD_SECONDS / 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast")
def test_a_holder_elsewhere_that_lives_and_one_that_was_killed(hold, tmp_path, elsewhere, caplog):
    holder = hold(tmp_path, *elsewhere)
    with pytest.raises(DatasetError, match="on host elsewhere"), locks.exclusive(str(tmp_path)):
        pass
    holder.kill()
    caplog.clear()
    with locks.exclusive(str(tmp_path)):
        assert "Waiting up to 2 s to see whether that still runs" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast")
def test_a_lock_that_was_not_written_whole(tmp_path):
    (tmp_path / ".curate-lock").write_bytes(b"")
    with locks.exclusive(str(tmp_path)):
        assert json.loads((tmp_path / ".curate-lock").read_bytes())["pid"] == os.getpid()


@pytest.mark.usefixtures("fast")
def test_a_holder_that_stood_still_too_long_is_told(tmp_path):
    def stand_still() -> None:
        with locks.exclusive(str(tmp_path)):
            (tmp_path / ".curate-lock").write_bytes(b"of another one")
            (beat,) = (thread for thread in threading.enumerate() if thread.name == "lock")
            beat.join(timeout=10)

    with pytest.raises(DatasetError, match="stood still"):
        stand_still()
    assert (tmp_path / ".curate-lock").read_bytes() == b"of another one"


def test_locks_are_no_data_and_folders_made_for_them_do_not_stay(tmp_path):
    folder = tmp_path / "new" / "folder"
    with locks.exclusive(str(folder)), locks.exclusive(str(folder), "captions.db"):
        assert len(list(folder.iterdir())) == 2
        assert storage.find(str(tmp_path), "") == []
        assert storage.glob(str(folder / ".*")) == []
        # What a run that was killed left is removed by one that goes on.
        storage.remove_temporaries(str(folder))
        assert [lock.is_whole() for lock in locks.held()] == [True, True]
    assert not folder.exists()
    assert locks.held() == []


def test_a_folder_without_permission_is_told_before_any_work(tmp_path):
    if subprocess.run(["chattr", "+i", str(tmp_path)], capture_output=True, check=False).returncode:
        pytest.skip("cannot make a folder that root may not write to")
    try:
        with (
            pytest.raises(DatasetError, match=rf"cannot write to {re.escape(str(tmp_path))}: "),
            locks.exclusive(str(tmp_path)),
        ):
            pass
    finally:
        subprocess.run(["chattr", "-i", str(tmp_path)], check=True)


@pytest.mark.usefixtures("fast")
def test_object_stores_are_locked_too(bucket):
    folder = f"{bucket()}/out"
    with locks.exclusive(folder):
        place = locks.held()[0].location
        with (
            pytest.raises(DatasetError, match=f"process {os.getpid()} on"),
            locks.exclusive(folder),
        ):
            pass
    assert storage.stat(place) is None
    # The file of a process that has ended.
    ended = {"host": "h", "pid": 2**22, "since": "then", "machine": locks._machine(), "started": 1}
    storage.write_bytes(place, json.dumps(ended).encode())
    with locks.exclusive(folder):
        assert json.loads(storage.read_bytes(place))["pid"] == os.getpid()
    # Of one elsewhere that does not touch it any more.
    storage.write_bytes(place, json.dumps({**ended, "machine": "another"}).encode())
    with locks.exclusive(folder):
        pass


def test_two_that_find_the_same_dead_lock(tmp_path):
    place = str(tmp_path / ".curate-lock")
    Path(place).write_bytes(b"of another one")
    locks._take_away(place, b"a dead one's")
    assert Path(place).read_bytes() == b"of another one"
    assert os.listdir(tmp_path) == [".curate-lock"]
