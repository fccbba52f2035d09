"""A run is killed with SIGKILL at random moments and started again until it is done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.make_data import make_dataset

REPOSITORY = Path(__file__).parents[1]
KILLS = 20


def _start(root: Path, output: Path, log: Path, run: int, workers: int) -> subprocess.Popen:
    arguments = [str(root), str(output), str(log), str(run), str(workers)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.kill_job", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # The workers belong to the group and die with it.
        start_new_session=True,
    )


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _finished(output: Path) -> dict[str, int]:
    """Files under their final names, by inode: one that is written again gets another."""
    wanted = output.glob("*/*.parquet")
    return {str(path.relative_to(output)): path.stat().st_ino for path in wanted}


def _batches(log: Path) -> list[tuple[int, str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    # A line of a killed writer may be cut off.
    whole = [line for line in lines if line.endswith("]")]
    return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in whole]


def test_killed_runs_end_as_an_undisturbed_one(tmp_path):
    truth = make_dataset(tmp_path / "in", sizes=[3] * 24)
    broken = tmp_path / "in" / "00003.tar"
    broken.write_bytes(broken.read_bytes()[:-3000])
    calm, calm_log = tmp_path / "calm", tmp_path / "calm.log"
    began = time.monotonic()
    process = _start(truth.root, calm, calm_log, 0, workers=0)
    assert "finished" in process.communicate()[0]
    whole_run = time.monotonic() - began

    chance = random.Random(7)
    stormy, log = tmp_path / "stormy", tmp_path / "stormy.log"
    kills, run, done_before = 0, 0, {}
    interrupted = 0
    while True:
        run += 1
        # Every third run has worker processes, which are killed with their driver.
        workers = 2 if run % 3 == 0 else 0
        process = _start(truth.root, stormy, log, run, workers)
        longest = whole_run if workers == 0 else whole_run + 4
        try:
            process.wait(chance.uniform(0.3 * longest, longest) if kills < KILLS else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        finished = _finished(stormy)
        for name, inode in done_before.items():
            assert finished[name] == inode, f"{name} was finished and written again"
        interrupted += 0 < len(finished) - len(done_before) < 24
        done_before = finished
        if kills >= KILLS and process.returncode == 0:
            break
        if process.returncode == 0:
            # Finished early: the remaining kills begin again from nothing.
            assert _content(stormy) == _content(calm)
            stormy, log = tmp_path / f"stormy-{run}", tmp_path / f"stormy-{run}.log"
            done_before = {}

    assert interrupted, "no kill fell into the work; the test would prove nothing"
    assert _content(stormy) == _content(calm)
    assert not list(stormy.rglob(".*")), "temporary files were left"
    calm_batches = sorted(batch for _, batch in _batches(calm_log))
    stormy_batches = sorted({batch for _, batch in _batches(log)})
    assert stormy_batches == sorted(set(calm_batches))
    rows = sum(pq.read_metadata(path).num_rows for path in stormy.glob("metadata/*.parquet"))
    assert rows == len(truth.rows)


def test_nothing_finished_is_computed_twice(tmp_path):
    truth = make_dataset(tmp_path / "in", sizes=[3] * 24)
    output, log = tmp_path / "out", tmp_path / "log"
    process = _start(truth.root, output, log, 1, workers=0)
    while len(list(output.glob("metadata/*.parquet"))) < 5:
        time.sleep(0.01)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(output.glob("metadata/*.parquet")))
    assert 5 <= done < 24
    process = _start(truth.root, output, log, 2, workers=0)
    assert "finished" in process.communicate()[0]
    again = [batch for run, batch in _batches(log) if run == 2]
    assert len(again) == 24 - done
    process = _start(truth.root, output, log, 3, workers=0)
    assert "finished" in process.communicate()[0]
    assert [batch for run, batch in _batches(log) if run == 3] == []
