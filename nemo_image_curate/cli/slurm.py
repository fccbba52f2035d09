"""The command slurm."""

from __future__ import annotations

import logging
import shlex

import click

from nemo_image_curate.cli.base import main


# What follows the first word is COMMAND's.
@main.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--workers-per-node",
    type=click.IntRange(min=1),
    help="Default: one for each GPU, or for --threads cores.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of each worker's forward passes. The last bits of results depend on it.",
)
@click.option("--interface", metavar="NAME", help="Network interface of Dask, such as ib0.")
@click.option(
    "--local-directory",
    metavar="DIR",
    help="Where workers spill, on each node. Default: $SLURM_TMPDIR, $TMPDIR or /tmp.",
)
@click.option(
    "--work-dir",
    metavar="DIR",
    default=".",
    help="Seen by all nodes: logs and the scheduler file are written here. Default: this folder.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    help="Seconds until COMMAND starts with the workers that are there.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    help="Seconds that COMMAND has to stop after a signal.",
)
@click.option("--tls", is_flag=True, help="Encrypt, with keys that only this job has.")
@click.option("--dry-run", is_flag=True, help="Show what each node would run.")
@click.argument("command", nargs=-1, required=True)
@click.pass_context
def slurm(
    context: click.Context,
    command: tuple[str, ...],
    workers_per_node: int | None,
    threads: int,
    interface: str | None,
    local_directory: str | None,
    work_dir: str,
    wait: float,
    grace: float,
    tls: bool,
    dry_run: bool,
) -> None:
    """Run COMMAND with a Dask cluster of all nodes of a Slurm job.

    For a script given to sbatch, or a shell of salloc. Commands of nemo-image-curate and scripts
    that call get_client() find the cluster by themselves. The exit status is COMMAND's.
    """
    from nemo_image_curate.compute.slurm import job, keys, steps
    from nemo_image_curate.compute.slurm.node import NodeSettings

    logging.getLogger("nemo_image_curate.compute.slurm").setLevel(logging.INFO)
    with job.job_folder(work_dir) as folder:
        settings = NodeSettings(folder, workers_per_node, threads, local_directory, interface)
        if dry_run:
            for node in steps.describe_nodes(settings):
                gpus = f"CUDA_VISIBLE_DEVICES={node.gpus} " if node.gpus else ""
                click.echo(f"{node.node}: {gpus}{shlex.join(node.command)}")
            return
        if tls:
            keys.use_tls(folder)
        context.exit(job.run_in_job(command, settings, wait, grace))
