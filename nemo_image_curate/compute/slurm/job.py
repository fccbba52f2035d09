"""Run a command beside a Dask cluster of all nodes of this Slurm job."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from nemo_image_curate.compute.slurm.node import NodeSettings
from nemo_image_curate.compute.slurm.steps import describe_nodes, start_workers, variable
from nemo_image_curate.errors import BackendError, ConfigError

logger = logging.getLogger(__name__)

# How long processes have to end when they are asked to.
_END_SECONDS = 10
_TELL_SECONDS = 10
# A script may shut its cluster down before it ends.
_LOST_SECONDS = 5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_in_job(
    command: Sequence[str],
    settings: NodeSettings,
    wait: float = 300,
    grace: float = 60,
) -> int:
    """Run a command that finds a Dask cluster of all nodes of this Slurm job.

    The scheduler runs here, on the job's first node, workers on all nodes. The command gets
    ``DASK_SCHEDULER_ADDRESS``, which `get_client` and Dask's own ``Client`` follow, and
    ``DASK_SCHEDULER_FILE``. SIGTERM and SIGINT are passed on to it. When it was stopped by
    SIGTERM before Slurm ended the job, as ``sbatch --signal=B:TERM@120`` asks for, the job is
    queued again.

    Parameters
    ----------
    command : sequence of str
    settings : NodeSettings
        Its folder exists, is this run's own, and is seen by all nodes: see `job_folder`.
    wait : float, default 300
        Seconds until all workers must be there. The command starts with fewer, but not with none.
    grace : float, default 60
        Seconds that the command has to stop after a signal.

    Returns
    -------
    int
        The command's exit status; 128 + signal when one ended it; 1 when it was stopped because
        all workers or the scheduler had ended.

    Raises
    ------
    ConfigError
        When there is no such command; outside of a Slurm job; when nodes have other versions, or
        do not see the folder.
    BackendError
        When nodes, the scheduler or all workers do not start.
    """
    if shutil.which(command[0]) is None:
        raise ConfigError(f"there is no program {command[0]!r} to be run.")
    with _signals_noted() as noted:
        expected = sum(node.workers for node in describe_nodes(settings))
        status = _run_beside_cluster(command, settings, expected, noted, wait, grace)
    if signal.SIGTERM in noted and status:
        _queue_again()
    return status


def _run_beside_cluster(
    command: Sequence[str],
    settings: NodeSettings,
    expected: int,
    noted: list[int],
    wait: float,
    grace: float,
) -> int:
    with contextlib.ExitStack() as helpers:
        # Workers end by themselves when their scheduler does.
        scheduler, workers = _start_scheduler(settings), start_workers(settings)
        helpers.callback(_end, workers, after=_END_SECONDS)
        helpers.callback(_end, scheduler)
        running = {"scheduler": scheduler, "workers": workers}
        address = _wait_for_workers(settings, expected, wait, running, noted)
        if address is None:
            return 128 + noted[0]
        environment = {
            **os.environ,
            "DASK_SCHEDULER_ADDRESS": address,
            "DASK_SCHEDULER_FILE": settings.scheduler_file,
        }
        # A group of its own, so that a signal reaches all that the command started.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return _supervise(process, running, noted, settings.folder, grace)
        finally:
            _kill_group(process, signal.SIGKILL)


@contextlib.contextmanager
def job_folder(work_dir: str) -> Iterator[str]:
    """A new folder for this run of this job, so that no scheduler file of another one is there.

    Logs stay; the scheduler file and keys go. Only the user may read it.
    """
    job, restart = variable("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    # An interactive job may run several commands.
    folder = tempfile.mkdtemp(prefix=f"slurm-{job}-{restart}-", dir=os.path.abspath(work_dir))
    try:
        yield folder
    finally:
        for path in Path(folder).iterdir():
            if path.suffix in (".json", ".pem"):
                path.unlink()
        with contextlib.suppress(OSError):
            os.rmdir(folder)


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collect signals instead of dying of them."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes], after: float = 0) -> None:
    """End a process that may take `after` seconds to end by itself."""
    for ask, seconds in ((process.terminate, after), (process.kill, _END_SECONDS)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
        ask()
    process.wait()


def _start_scheduler(settings: NodeSettings) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "dask", "scheduler", "--port=0", "--dashboard-address=:0"),
        f"--scheduler-file={settings.scheduler_file}",
        *([f"--interface={settings.interface}"] if settings.interface else []),
    ]
    with open(f"{settings.folder}/scheduler.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def _wait_for_workers(
    settings: NodeSettings,
    expected: int,
    seconds: float,
    running: Mapping[str, subprocess.Popen[bytes]],
    noted: list[int],
) -> str | None:
    """Wait until all workers are there, or some after `seconds`, saying so.

    Returns
    -------
    str or None
        The scheduler's address; None after a signal.
    """
    from distributed import Client

    began = last_told = time.monotonic()
    logger.info("waiting for the scheduler (log: %s/scheduler.log)", settings.folder)
    while not os.path.exists(settings.scheduler_file):
        if noted:
            return None
        _require_running(running, settings.folder)
        if time.monotonic() > began + seconds:
            raise BackendError(f"no scheduler after {seconds:.0f} s: see {settings.folder}")
        time.sleep(0.05)
    try:
        with Client(scheduler_file=settings.scheduler_file, set_as_default=False) as client:
            address = str(client.scheduler.address)
            logger.info("scheduler: %s, dashboard: %s", address, client.dashboard_link)
            logger.info("waiting for %d workers", expected)
            while (count := len(client.scheduler_info(n_workers=-1)["workers"])) < expected:
                if noted:
                    return None
                _require_running(running, settings.folder)
                now = time.monotonic()
                if now > began + seconds:
                    break
                if now > last_told + _TELL_SECONDS:
                    last_told = now
                    logger.info("waiting for workers: %d of %d are there", count, expected)
                time.sleep(0.1)
    except OSError as error:
        raise BackendError(
            f"the scheduler does not answer ({error}): see the logs in {settings.folder}"
        ) from error
    if not count:
        raise BackendError(f"no worker after {seconds:.0f} s: see the logs in {settings.folder}")
    if count < expected:
        logger.warning(
            "after %.0f s %d of %d workers are there: going on with these. Others may still come; "
            "their logs are in %s",
            *(seconds, count, expected, settings.folder),
        )
    else:
        logger.info("%d workers are there after %.1f s", count, time.monotonic() - began)
    return address


def _require_running(running: Mapping[str, subprocess.Popen[bytes]], folder: str) -> None:
    for name, process in running.items():
        if process.poll() is not None:
            raise BackendError(f"the {name} ended at once: see the logs in {folder}")


def _supervise(
    process: subprocess.Popen[bytes],
    running: Mapping[str, subprocess.Popen[bytes]],
    noted: list[int],
    folder: str,
    grace: float,
) -> int:
    """Wait for the command; stop it after a signal, or when the cluster is gone."""
    passed_on = 0
    lost_at = kill_at = float("inf")
    is_stopped = False
    while process.poll() is None:
        now = time.monotonic()
        for number in noted[passed_on:]:
            name = signal.Signals(number).name
            logger.warning("%s: the command has %.0f s to stop", name, grace)
            _kill_group(process, number)
            kill_at = min(kill_at, now + grace)
        passed_on = len(noted)
        lost = [name for name, helper in running.items() if helper.poll() is not None]
        if lost:
            lost_at = min(lost_at, now)
        if now > lost_at + _LOST_SECONDS and not is_stopped:
            is_stopped = True
            logger.error(
                "the %s ended; the command is stopped. See the logs in %s", lost[0], folder
            )
            _kill_group(process, signal.SIGTERM)
            kill_at = min(kill_at, now + grace)
        if now > kill_at:
            _kill_group(process, signal.SIGKILL)
        time.sleep(0.1)
    if is_stopped:
        return 1
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _kill_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _queue_again() -> None:
    """Have Slurm start this job again, unless it is ending it."""
    job = os.environ["SLURM_JOB_ID"]
    state = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True
    ).stdout.strip()
    # Of a job that was cancelled, or is at the end of its time, nothing is left to be done.
    if state != "RUNNING" or "SLURM_TASK_PID" not in os.environ:
        return
    logger.warning("queued again: what is done is not done again")
    requeued = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if requeued.returncode:
        logger.warning(
            "Slurm does not queue job %s again: %s. Submit it again to go on.",
            *(job, requeued.stderr.strip()),
        )
