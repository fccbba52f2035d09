"""Job steps with a task on each node of this Slurm job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from nemo_image_curate.compute.slurm.node import (
    NodeDescription,
    NodeSettings,
    node_name,
)
from nemo_image_curate.compute.workers import versions
from nemo_image_curate.errors import BackendError, ConfigError

# Steps run one task on each node, with all that the job has there, whatever the job's own tasks
# should get: what it says of tasks must not reach them by the environment.
_OF_TASKS = (
    *("SLURM_CPUS_PER_TASK", "SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND", "SLURM_NTASKS_PER_GPU"),
    *("SLURM_TRES_PER_TASK", "SRUN_CPUS_PER_TASK"),
)


def describe_nodes(settings: NodeSettings) -> list[NodeDescription]:
    """What each node of the job has and would start, when all fit together.

    Raises
    ------
    ConfigError
        Outside of a Slurm job; when nodes have other versions, or do not see the folder.
    BackendError
        When this Python cannot be started on all nodes.
    """
    step = subprocess.run(
        _step("describe", settings),
        env=_step_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    lines = [line for line in step.stdout.splitlines() if line.startswith("{")]
    nodes = sorted((NodeDescription(**json.loads(line)) for line in lines), key=lambda d: d.node)
    count = int(variable("SLURM_JOB_NUM_NODES"))
    if len(nodes) < count:
        raise BackendError(
            f"{count - len(nodes)} of {count} nodes cannot run {sys.executable} with this "
            f"package; each needs the same environment at the same path.\n{step.stderr.strip()}"
        )
    here, expected = node_name(os.environ), versions()
    for node in nodes:
        if not node.sees_folder:
            raise ConfigError(
                f"{node.node} does not see {settings.folder}, which was made on {here}. Give a "
                "--work-dir that all nodes share."
            )
        differing = [
            f"{name} {version or 'not installed'} instead of {expected[name] or 'none'}"
            for name, version in node.versions.items()
            if version != expected[name]
        ]
        if differing:
            raise ConfigError(
                f"{node.node} has another environment than {here}: {', '.join(differing)}. Give "
                "all nodes the same one."
            )
    return nodes


def start_workers(settings: NodeSettings) -> subprocess.Popen[bytes]:
    """Start workers on all nodes; the process ends when all of them have."""
    return subprocess.Popen(
        _step("work", settings),
        env=_step_environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def variable(name: str) -> str:
    """A variable that Slurm sets.

    Raises
    ------
    ConfigError
        Outside of a Slurm job.
    """
    if value := os.environ.get(name):
        return value
    raise ConfigError(
        f"this is no Slurm job: {name} is not set. Use it in a script given to sbatch, or in a "
        "shell of salloc."
    )


def _step(task: str, settings: NodeSettings) -> list[str]:
    """The command of a job step with a task on each node."""
    nodes = variable("SLURM_JOB_NUM_NODES")
    # Else a task would get its own share of the node's GPUs.
    by_task = "SLURM_GPUS_PER_TASK" in os.environ
    gpus = [f"--gpus-per-node={variable('SLURM_GPUS_ON_NODE')}"] if by_task else []
    return [
        # Beside other steps; a node that fails or a task that ends takes no other with it.
        *("srun", "--overlap", "--no-kill", "--kill-on-bad-exit=0", "--wait=0"),
        # One task with one CPU would be bound to that one.
        *("--cpu-bind=none", "--mpi=none", "--export=ALL"),
        *(f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *gpus,
        *(sys.executable, "-m", "nemo_image_curate.compute.slurm.node"),
        *(task, json.dumps(asdict(settings))),
    ]


def _step_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OF_TASKS}
