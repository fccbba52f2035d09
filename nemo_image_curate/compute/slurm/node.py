"""One node of a Slurm job: it tells about itself, or becomes Dask workers.

`steps` runs this once on each node:

    python -m nemo_image_curate.compute.slurm.node describe|work SETTINGS
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from nemo_image_curate.compute.environment import worker_environment
from nemo_image_curate.compute.workers import versions

# The rest is for the system, and on the first node for the scheduler and the command.
_WORKERS_SHARE = 0.9


@dataclass(frozen=True)
class NodeSettings:
    """What nodes are told.

    Attributes
    ----------
    folder : str
        Seen by all nodes; holds ``scheduler.json`` and a log of each node.
    workers_per_node : int or None
        None: a worker for each GPU, or for `threads` cores.
    threads : int
        OMP_NUM_THREADS of each worker. The last bits of results depend on it.
    local_directory : str or None
        Where workers spill. None: ``$SLURM_TMPDIR``, ``$TMPDIR`` or ``/tmp``.
    interface : str or None
        A network interface, such as ``ib0``.
    """

    folder: str
    workers_per_node: int | None = None
    threads: int = 1
    local_directory: str | None = None
    interface: str | None = None

    @property
    def scheduler_file(self) -> str:
        """Where the scheduler says its address."""
        return f"{self.folder}/scheduler.json"


@dataclass(frozen=True)
class NodeDescription:
    """What a node tells.

    Attributes
    ----------
    node : str
    sees_folder : bool
        Whether the folder in the settings is there.
    versions : dict of str to str or None
    gpus : str
        ``CUDA_VISIBLE_DEVICES``, or nothing.
    workers : int
    command : list of str
        What starts the workers.
    """

    node: str
    sees_folder: bool
    versions: dict[str, str | None]
    gpus: str
    workers: int
    command: list[str]


def node_name(environment: Mapping[str, str]) -> str:
    """What Slurm calls this node; its host name outside of jobs."""
    return environment.get("SLURMD_NODENAME", platform.node())


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that Slurm gave to a task, as CUDA counts or names them."""
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [gpu for gpu in gpus if gpu and gpu != "NoDevFiles"]


def workers_on_node(settings: NodeSettings, environment: Mapping[str, str]) -> int:
    """How many workers a node gets."""
    if gpus := visible_gpus(environment):
        return len(gpus)
    if settings.workers_per_node:
        return settings.workers_per_node
    return max(1, int(environment.get("SLURM_CPUS_ON_NODE", 1)) // settings.threads)


def memory_per_worker(environment: Mapping[str, str], workers: int) -> str:
    """Each worker's share of the memory that Slurm granted on a node, for ``--memory-limit``."""
    for name, count in (
        ("SLURM_MEM_PER_NODE", 1),
        ("SLURM_MEM_PER_CPU", int(environment.get("SLURM_CPUS_ON_NODE", 1))),
        ("SLURM_MEM_PER_GPU", len(visible_gpus(environment))),
    ):
        # Slurm's megabytes are 2^20 bytes; 0 is all that the node has.
        if megabytes := int(environment.get(name) or 0) * count:
            return f"{int(megabytes * _WORKERS_SHARE / workers)}MiB"
    return "auto"


def worker_command(settings: NodeSettings, environment: Mapping[str, str]) -> list[str]:
    """The command that starts all workers of a node."""
    workers = workers_on_node(settings, environment)
    temporary = environment.get("SLURM_TMPDIR") or environment.get("TMPDIR") or "/tmp"
    if visible_gpus(environment):
        # What `get_client("gpu")` gives its workers.
        kind = ["cuda", "worker", "--nthreads=2", "--enable-cudf-spill", "--rmm-async"]
        kind.append("--rmm-release-threshold=0.1")
    else:
        kind = ["worker", f"--nworkers={workers}", "--nthreads=1"]
    command = [
        *(sys.executable, "-m", "dask", *kind),
        f"--scheduler-file={settings.scheduler_file}",
        f"--name={node_name(environment)}:worker",
        f"--memory-limit={memory_per_worker(environment, workers)}",
        f"--local-directory={settings.local_directory or temporary}",
        "--dashboard-address=:0",
    ]
    return [*command, f"--interface={settings.interface}"] if settings.interface else command


def describe(settings: NodeSettings, environment: Mapping[str, str]) -> NodeDescription:
    """What this node has and would start."""
    return NodeDescription(
        node=node_name(environment),
        sees_folder=os.path.isdir(settings.folder),
        versions=versions(),
        gpus=environment.get("CUDA_VISIBLE_DEVICES", ""),
        workers=workers_on_node(settings, environment),
        command=worker_command(settings, environment),
    )


def _run() -> None:
    task, text = sys.argv[1:]
    settings = NodeSettings(**json.loads(text))
    if task == "describe":
        print(json.dumps(asdict(describe(settings, os.environ))), flush=True)  # noqa: T201
        return
    command = worker_command(settings, os.environ)
    log = os.open(f"{settings.folder}/{node_name(os.environ)}.log", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.execve(command[0], command, {**os.environ, **worker_environment(settings.threads)})


if __name__ == "__main__":
    _run()
