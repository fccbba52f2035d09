"""The bar, on a real terminal of two sizes."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading

import pytest

from nemo_image_curate.compute import progress
from nemo_image_curate.compute.bar import fitted
from nemo_image_curate.compute.progress import Progress


class Terminal:
    """A pseudo-terminal as standard error, and all that was written to it."""

    def __init__(self, columns: int):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.file = os.fdopen(slave, "w")
        self.written = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        try:
            while part := os.read(self.master, 4096):
                self.written += part
        except OSError:
            # Nobody writes any more.
            pass

    def close(self) -> list[str]:
        """The states of its lines, one after the other."""
        self.file.close()
        self.reader.join(10)
        os.close(self.master)
        return [state for state in re.split(r"[\r\n]+", self.written.decode()) if state.strip()]


def shown(columns: int, monkeypatch, **settings) -> list[str]:
    terminal = Terminal(columns)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal.file)
        patched.setattr(progress, "settings", progress.Settings(**settings))
        with progress.stage("embed", 2, 3), Progress("save", 8, None).running() as job:
            for _ in range(8):
                job.end({"rows": 90, "errors": {"decode": 3, "missing": 1}})
                job._bar.refresh()
    return terminal.close()


def test_a_bar_with_its_stage_and_what_was_rejected(monkeypatch):
    states = shown(160, monkeypatch, quiet_seconds=0)
    assert all(len(state) <= 160 for state in states)
    last = states[-1]
    assert last.startswith("embed 2 of 3, save 100% |█")
    assert "8 of 8 partitions, 720 rows, " in last
    assert "rejected 32 (24 decode, 8 missing)" in last
    assert any(" 50% |" in state for state in states)


@pytest.mark.parametrize("columns", [50, 80, 100])
def test_it_fits_narrow_terminals_and_keeps_a_bar(monkeypatch, columns):
    for state in shown(columns, monkeypatch, quiet_seconds=0):
        assert len(state) <= columns, state
        assert re.search(r"\|[█▏▎▍▌▋▊▉ #]{8,}\|", state), state


def test_short_jobs_show_nothing(monkeypatch):
    terminal = Terminal(80)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal.file)
        with Progress("save", 2, None, about=lambda: "workers").running() as job:
            job.end({"rows": 90})
    assert terminal.close() == []


def test_what_has_no_room_is_left_out():
    parts = ["3 of 8 partitions", "720 rows", "rejected 32 (24 decode, 8 missing)"]
    assert fitted(parts, 100) == ", ".join(parts)
    assert fitted(parts, 30) == "3 of 8 partitions, 720 rows"
    assert fitted(parts, 45) == "3 of 8 partitions, 720 rows, rejected 32 (24…"
    assert fitted(parts, 5) == ""
