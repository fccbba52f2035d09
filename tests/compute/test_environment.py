from __future__ import annotations

import dask
import distributed  # noqa: F401 (has its defaults)

from nemo_image_curate.compute.environment import worker_environment


def test_dask_reads_what_it_is_told():
    environment = worker_environment(threads=3)
    told = dask.config.collect(paths=[], env=environment)
    merged = dask.config.merge(dask.config.config, told)
    # Dask sets none that is None, and takes the others from the environment where they are there.
    assert merged["distributed"]["nanny"]["pre-spawn-environ"]["MALLOC_TRIM_THRESHOLD_"] is None
    assert "OMP_NUM_THREADS" in merged["distributed"]["nanny"]["pre-spawn-environ"]
    assert environment["OMP_NUM_THREADS"] == "3"
