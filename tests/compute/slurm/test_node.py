from __future__ import annotations

import pytest

from nemo_image_curate.compute.slurm.node import (
    NodeSettings,
    memory_per_worker,
    visible_gpus,
    worker_command,
    workers_on_node,
)


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ({"CUDA_VISIBLE_DEVICES": "1,3"}, ["1", "3"]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-7c2,MIG-81f"}, ["MIG-7c2", "MIG-81f"]),
    ],
)
def test_gpus_that_slurm_gave(environment, gpus):
    assert visible_gpus(environment) == gpus


@pytest.mark.parametrize(
    ("given", "environment", "workers"),
    [
        ({}, {"SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"threads": 3}, {"SLURM_CPUS_ON_NODE": "8"}, 2),
        ({"threads": 16}, {"SLURM_CPUS_ON_NODE": "8"}, 1),
        ({"workers_per_node": 1}, {"SLURM_CPUS_ON_NODE": "8"}, 1),
        ({}, {"SLURM_CPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1"}, 2),
    ],
)
def test_number_of_workers(given, environment, workers):
    assert workers_on_node(NodeSettings("folder", **given), environment) == workers


@pytest.mark.parametrize(
    ("environment", "workers", "limit"),
    [
        ({"SLURM_MEM_PER_NODE": "1000"}, 2, "450MiB"),
        ({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4"}, 4, "90MiB"),
        ({"SLURM_MEM_PER_GPU": "1000", "CUDA_VISIBLE_DEVICES": "0,1"}, 2, "900MiB"),
        # All that the node has.
        ({"SLURM_MEM_PER_NODE": "0"}, 2, "auto"),
        ({}, 2, "auto"),
    ],
)
def test_memory_of_a_worker(environment, workers, limit):
    assert memory_per_worker(environment, workers) == limit


@pytest.mark.parametrize(
    ("given", "environment", "place"),
    [
        ({}, {}, "/tmp"),
        ({}, {"TMPDIR": "/scratch"}, "/scratch"),
        ({}, {"TMPDIR": "/scratch", "SLURM_TMPDIR": "/scratch/7"}, "/scratch/7"),
        ({"local_directory": "/nvme"}, {"TMPDIR": "/scratch"}, "/nvme"),
    ],
)
def test_where_workers_spill(given, environment, place):
    command = worker_command(NodeSettings("folder", **given), environment)
    assert f"--local-directory={place}" in command
