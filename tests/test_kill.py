"""A run is killed with SIGKILL at random moments and started again until it is done."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.forked import REPOSITORY, Forked
from tests.make_data import make_dataset

# Of these so many of runs with worker processes, which take longest to start.
KILLS, KILLS_OF_WORKERS = 12, 2


def _start(root: Path, output: Path, log: Path, run: int, workers: int) -> Forked:
    """The job, begun. Its workers belong to its group, and die with it."""
    process = Forked("tests.kill_job:run", "kill_job", root, output, log, run, workers)
    while "began" not in process.stdout():
        assert process.wait(0.01) is None
    return process


def _finish(process: Forked) -> float:
    """Let it run to its end; the seconds of its work."""
    _, finished, seconds = process.communicate()[0].split()
    assert finished == "finished"
    return float(seconds)


def _run_anew(root: Path, output: Path, log: Path, run: int) -> None:
    """Run the job in a new process, whose hashes have another seed."""
    command = [sys.executable, "-m", "tests.kill_job", root, output, log, run, 0]
    subprocess.run(
        [*map(str, command)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        stdout=subprocess.DEVNULL,
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
    anew, anew_log = tmp_path / "anew", tmp_path / "anew.log"
    seconds = _finish(_start(truth.root, calm, calm_log, 0, 0))
    _run_anew(truth.root, anew, anew_log, 0)
    assert _content(anew) == _content(calm)

    chance = random.Random(7)
    stormy, log = tmp_path / "stormy", tmp_path / "stormy.log"
    kills, run, done_before = 0, 0, {}
    # By the number of workers: kills of runs that had finished something, and not all.
    interrupted = {0: 0, 2: 0}
    while True:
        run += 1
        assert run < 4 * KILLS, "no kill falls into the work; the test would prove nothing"
        enough = kills >= KILLS and interrupted[2] >= KILLS_OF_WORKERS
        # Some runs have worker processes, which are killed with their driver.
        workers = 2 if run % 4 == 0 and interrupted[2] < KILLS_OF_WORKERS else 0
        process = _start(truth.root, stormy, log, run, workers)
        while workers and _finished(stormy) == done_before and process.wait(0.01) is None:
            # Workers import the libraries first, which takes longer than their work.
            pass
        if process.wait(None if enough else chance.uniform(0, seconds)) is None:
            process.kill()
            kills += 1
        finished = _finished(stormy)
        for name, inode in done_before.items():
            assert finished[name] == inode, f"{name} was finished and written again"
        interrupted[workers] += process.returncode != 0 and len(finished) > len(done_before)
        done_before = finished
        if enough and process.returncode == 0:
            break
        if process.returncode == 0:
            # Finished early: the remaining kills begin again from nothing.
            assert _content(stormy) == _content(calm)
            stormy, log = tmp_path / f"stormy-{run}", tmp_path / f"stormy-{run}.log"
            done_before = {}

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
    process = _start(truth.root, output, log, 1, 0)
    while len(list(output.glob("metadata/*.parquet"))) < 5:
        assert process.wait(0.01) is None
    process.kill()
    done = len(list(output.glob("metadata/*.parquet")))
    assert 5 <= done < 24
    _run_anew(truth.root, output, log, 2)
    again = [batch for run, batch in _batches(log) if run == 2]
    assert len(again) == 24 - done
    _finish(_start(truth.root, output, log, 3, 0))
    assert [batch for run, batch in _batches(log) if run == 3] == []
