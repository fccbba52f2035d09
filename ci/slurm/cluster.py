#!/usr/bin/env python3
"""A real Slurm of two nodes on this machine, for as long as a command runs.

    python ci/slurm/cluster.py COMMAND [ARGUMENTS ...]

For example: python ci/slurm/cluster.py sbatch --wait tutorials/slurm/curate.sbatch hostname

munge, slurmctld and two slurmd run as this user, with configuration, logs and sockets in a folder
that is removed afterwards, and on ports that are free. Each node has two fake GPUs, which Slurm
hands out as it does real ones. Debian and Ubuntu:

    apt-get install --no-install-recommends slurm-wlm munge
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NODES = ("node1", "node2")
CPUS_PER_NODE = 4
MEMORY_PER_NODE = 8000  # MB; of no effect but on what Slurm grants
# Debian has the daemons where a user's PATH does not look.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
# Slurm wants a device for each, and looks no closer.
_FAKE_GPUS = ("/dev/null", "/dev/zero")
_START_SECONDS = 30


class SlurmError(Exception):
    """Slurm is not installed, or does not start here."""


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs.

    Attributes
    ----------
    environment : dict of str to str
        In which Slurm's commands find it.
    local_folder : Path or None
        Of each node its own, like a disk in it. None where this user may not mount one.
    """

    environment: dict[str, str]
    local_folder: Path | None


def missing_programs() -> list[str]:
    """What would have to be installed."""
    return [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextlib.contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Start Slurm; end it with all its jobs.

    Raises
    ------
    SlurmError
        When it is not installed, or is not ready after 30 s: with the ends of its logs.
    """
    if missing := missing_programs():
        raise SlurmError(f"not installed here: {', '.join(missing)} (slurm-wlm and munge)")
    # Not in $TMPDIR: a socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as temporary:
        folder = Path(temporary)
        config = _configure(folder)
        environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(config)}
        local = folder / "local"
        local.mkdir()
        # A mount of its own for each slurmd, which its jobs inherit.
        mount = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t tmpfs none "$0" && exec "$@"',
            str(local),
        ]
        may_mount = subprocess.run([*mount, "true"], capture_output=True).returncode == 0
        commands: dict[str, list[str]] = {
            "munged": [
                *("munged", "--foreground", "--force", f"--socket={folder}/munge.socket"),
                *(f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid"),
                *(f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"),
            ],
            "slurmctld": ["slurmctld", "-D", "-c"],
            **{
                node: [*(mount if may_mount else []), "slurmd", "-D", "-c", "-N", node]
                for node in NODES
            },
        }
        daemons: list[subprocess.Popen[bytes]] = []
        try:
            for name, command in commands.items():
                with (folder / f"{name}.out").open("w") as out:
                    daemon = subprocess.Popen(
                        command, env=environment, stdout=out, stderr=out, start_new_session=True
                    )
                daemons.append(daemon)
                if name == "munged":
                    _wait_for(folder / "munge.socket", folder)
            _wait_for_nodes(environment, folder)
            yield Slurm(environment, local if may_mount else None)
        finally:
            _end_jobs(environment)
            for daemon in reversed(daemons):
                daemon.terminate()
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            _kill_what_is_left(config)


def _configure(folder: Path) -> Path:
    """Write slurm.conf, gres.conf and munge's key."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    user = getpass.getuser()
    ports = _free_ports(1 + len(NODES))
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in _FAKE_GPUS))
    (folder / "state").mkdir()
    # CredType's expiry is also how long a job waits that is requeued: 5 s, and not two minutes.
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        f"AuthInfo=socket={folder}/munge.socket,cred_expire=5",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        # Else a job that does not ask gets all, and no other runs beside it.
        f"DefMemPerCPU={MEMORY_PER_NODE // CPUS_PER_NODE}",
        "SlurmdParameters=config_overrides",
        "GresTypes=gpu",
        "ReturnToService=2",
        "SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1",
        "KillWait=5",
        # Else what became of a job is forgotten five minutes after its end.
        "MinJobAge=86400",
        *(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={CPUS_PER_NODE} RealMemory={MEMORY_PER_NODE} Gres=gpu:{len(_FAKE_GPUS)}"
            for node, port in zip(NODES, ports[1:], strict=True)
        ),
        f"PartitionName=test Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP",
    ]
    config = folder / "slurm.conf"
    config.write_text("\n".join(lines) + "\n")
    return config


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _wait_for(path: Path, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise SlurmError(f"no {path.name} after {_START_SECONDS} s.\n{_log_ends(folder)}")
        time.sleep(0.02)


def _wait_for_nodes(environment: dict[str, str], folder: Path) -> None:
    command = ["sinfo", "--noheader", "--format=%t %D"]
    deadline = time.monotonic() + _START_SECONDS
    while True:
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.stdout.split() == ["idle", str(len(NODES))]:
            return
        if time.monotonic() > deadline:
            raise SlurmError(
                f"nodes are not ready after {_START_SECONDS} s: {result.stdout}{result.stderr}\n"
                f"{_log_ends(folder)}"
            )
        time.sleep(0.1)


def _log_ends(folder: Path) -> str:
    logs = sorted([*folder.glob("*.out"), *folder.glob("*.log")])
    return "\n".join(f"{log.name}: {log.read_text()[-1000:]}" for log in logs)


def _end_jobs(environment: dict[str, str]) -> None:
    """Cancel all jobs and wait until nothing of them runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["scancel", f"--user={getpass.getuser()}"],
            env=environment,
            capture_output=True,
            timeout=10,
        )
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            jobs = subprocess.run(
                ["squeue", "--noheader"],
                env=environment,
                capture_output=True,
                text=True,
                timeout=10,
            )
            if not jobs.stdout.strip():
                return
            time.sleep(0.1)


def _kill_what_is_left(config: Path) -> None:
    """End what Slurm could not, such as jobs of a node that was down."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={config}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    # Ends all, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with running_slurm() as slurm:
            status = subprocess.run(sys.argv[1:], env=slurm.environment).returncode
    except SlurmError as error:
        sys.exit(f"error: {error}")
    sys.exit(status)
