"""What workers that Dask's own commands start need in their environment."""

from __future__ import annotations


def worker_environment(threads: int = 1) -> dict[str, str]:
    """Environment variables with which ``dask worker`` and dask-jobqueue work as `get_client` does.

    Without them results may differ in their last bits, and forward passes take longer.

    Parameters
    ----------
    threads : int, default 1
        Of each forward pass. The last bits of results depend on it.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **dict.fromkeys(names, str(threads)),
        # Dask would have glibc give memory back at once: a third of a forward pass.
        "DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON": "{'MALLOC_TRIM_THRESHOLD_': None}",
    }
