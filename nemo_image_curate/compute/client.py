"""Dask clients: of this machine's cores or GPUs, or of a running scheduler."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from nemo_image_curate import frames, storage
from nemo_image_curate.compute import _dask, workers
from nemo_image_curate.compute.devices import usable_cores
from nemo_image_curate.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 30
# Names the file in which a worker leaves word.
_WORD = "NEMO_IMAGE_CURATE_WORD"
_UNGUARDED = (
    "get_client was called while a worker process imported this script, as each does when it "
    "starts. Put what the script does below: if __name__ == '__main__':"
)
# Dask has glibc give memory back at once, whereupon each forward pass asks the system for its
# activations again (a third of EfficientNet's time here), and each batch for its files.
_KEEP_FREED = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}


def get_client(
    kind: str = "auto",
    scheduler_address: str | None = None,
    scheduler_file: str | None = None,
    n_workers: int | None = None,
    wait: float = 300,
    check_versions: bool = True,
    **options: Any,
) -> Client:
    """A Dask client for this machine's CPU or GPUs, or for a running scheduler.

    Parameters
    ----------
    kind : {"auto", "cpu", "gpu"}
        ``auto`` takes the GPUs when they work. ``cpu`` starts a ``LocalCluster`` with one process
        per core, since a model's forward pass scales better over processes than over threads;
        ``env={"OMP_NUM_THREADS": "4"}`` gives each more, when memory allows only few.
        ``gpu`` starts a ``LocalCUDACluster`` with one worker of two threads per GPU, cuDF spilling
        and RMM's asynchronous allocator, which leaves torch the memory that cuDF does not use.
    scheduler_address, scheduler_file : str, optional
        Connect to this scheduler instead of starting one. Default: that of Dask's configuration
        (``scheduler-address``, environment variable ``DASK_SCHEDULER_ADDRESS``), if there is one
        and `n_workers` is not given.
    n_workers : int, optional
        Default: the number of cores (``cpu``) or GPUs (``gpu``).
    wait : float, default 300
        Seconds to wait for the scheduler's file and for a worker of a running scheduler.
    check_versions : bool, default True
        Refuse workers that have other versions of what values depend on.
    **options
        Passed on to the cluster, or to ``Client`` when connecting.

    Returns
    -------
    distributed.Client
        Close it, or use it in a ``with`` statement; a started cluster ends with it.

    Raises
    ------
    ConfigError
        For contradicting arguments; for a script that calls this when it is imported, and for one
        that worker processes cannot import.
    BackendError
        When ``gpu`` is asked for and no GPU works.
    ClusterError
        When no scheduler answers, or it has no worker after so many seconds.

    Examples
    --------
    >>> with get_client("cpu", n_workers=2) as client:  # doctest: +SKIP
    ...     ds = ds.save_metadata("scored/")
    """
    _refuse_while_imported()
    if scheduler_address and scheduler_file:
        raise ConfigError("give scheduler_address or scheduler_file, not both.")
    if not (scheduler_address or scheduler_file or n_workers):
        scheduler_address = configured_scheduler()
    if scheduler_address or scheduler_file:
        if n_workers is not None:
            raise ConfigError("n_workers belongs to a new cluster, not to a running scheduler.")
        client = _connected(scheduler_address, scheduler_file, wait, options)
        if not check_versions:
            workers.allow_versions(client)
        return client
    if frames.resolve_backend(kind) == "gpu":
        return _start_cuda(n_workers, options)
    from distributed import LocalCluster

    # One thread for each forward pass, however many workers: the last bits of a result depend on
    # how its sums are split over threads, and must not depend on the number of workers.
    if options.get("processes", True):
        options["env"] = {"OMP_NUM_THREADS": "1", **options.get("env", {})}
    defaults = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with _processes_start(options.get("processes", True)):
        cluster = LocalCluster(n_workers=n_workers or usable_cores(), **(defaults | options))
    return _owned(cluster)


def configured_scheduler() -> str | None:
    """The address of the scheduler that Dask's configuration names, as in a job of Slurm."""
    address: str | None = dask.config.get("scheduler-address", None)
    return address


def _connected(
    address: str | None, scheduler_file: str | None, wait: float, options: dict[str, Any]
) -> Client:
    """A client of a running scheduler that has a worker."""
    from distributed import Client

    until = time.monotonic() + wait
    if scheduler_file:
        _await(
            lambda: _is_written(scheduler_file),
            *(until, wait, f"the scheduler's file {scheduler_file}"),
            "Start the scheduler with --scheduler-file",
        )
    where = address or f"{_address_in(str(scheduler_file))} (of {scheduler_file})"
    options = {"timeout": min(max(wait, 1), _CONNECT_SECONDS), **options}
    try:
        client = Client(address=address, scheduler_file=scheduler_file, **options)
    except OSError as error:
        stale = " Delete the file if it was left by an earlier one." if scheduler_file else ""
        raise ClusterError(f"no Dask scheduler answers at {where}.{stale}") from error
    try:
        _await(
            lambda: bool(client.scheduler_info(n_workers=-1)["workers"]),
            *(until, wait, f"a worker of the scheduler at {where}"),
            "Start workers, such as by: dask worker",
        )
    except BaseException:
        client.close()
        raise
    return client


def _is_written(scheduler_file: str) -> bool:
    try:
        return bool(_address_in(scheduler_file))
    except (OSError, ValueError, KeyError):
        return False


def _address_in(scheduler_file: str) -> str:
    return str(storage.parse_json(Path(scheduler_file).read_text())["address"])


def _await(condition: Callable[[], bool], until: float, wait: float, what: str, how: str) -> None:
    """Wait for a condition, saying for what."""
    has_told = False
    while not condition():
        if time.monotonic() > until:
            raise ClusterError(
                f"waited {wait:g} s for {what}. {how}, or wait longer: get_client(wait=SECONDS), "
                "--wait SECONDS."
            )
        if not has_told:
            logger.warning("waiting up to %g s for %s.", wait, what)
            has_told = True
        time.sleep(_POLL_SECONDS)


def _start_cuda(n_workers: int | None, options: dict[str, Any]) -> Client:
    from dask_cuda import LocalCUDACluster
    from dask_cuda.utils import get_n_gpus

    # Dask-CUDA itself notices only when its scheduler is running.
    if n_workers is not None and n_workers > (gpus := get_n_gpus()):
        raise ConfigError(
            f"n_workers={n_workers}: there is one worker for each GPU, and {gpus} here. Leave it "
            "out, or use kind='cpu'."
        )
    defaults: dict[str, Any] = {
        # While one partition is read or written, the GPU works on the other.
        "threads_per_worker": 2,
        "enable_cudf_spill": True,
        "dashboard_address": ":0",
    }
    if not any(name.startswith("rmm_") for name in options):
        # Takes what cuDF needs and gives it back, so that torch can keep its own allocator. One
        # that it shared with RMM would raise no OutOfMemoryError, hence batches could not shrink,
        # and could hold no CUDA graph (pytorch issues 133280 and 163257).
        defaults |= {"rmm_async": True, "rmm_release_threshold": 0.1}
    with _processes_start():
        cluster = LocalCUDACluster(n_workers=n_workers, **(defaults | options))
    return _owned(cluster)


@contextlib.contextmanager
def _processes_start(are_processes: bool = True) -> Iterator[None]:
    """Settings for the start of worker processes, which import the user's script once more.

    A script that starts a cluster whenever it is imported would have each worker start another
    one. There, `get_client` ends the worker and leaves word in a file.

    Raises
    ------
    ConfigError
        When the script starts a cluster as it is imported, or cannot be imported.
    """
    if not are_processes or dask.config.get("distributed.worker.multiprocessing-method") == "fork":
        with dask.config.set(_KEEP_FREED):
            yield
        return
    _require_script()
    with tempfile.NamedTemporaryFile(prefix="nemo-image-curate-") as word:
        # Not by Dask's configuration: it sets the variable in this process for good, and what is
        # there has precedence the next time.
        os.environ[_WORD] = word.name
        try:
            with dask.config.set(_KEEP_FREED):
                yield
        except Exception:
            if word.read():
                raise ConfigError(_UNGUARDED) from None
            raise
        finally:
            os.environ.pop(_WORD, None)


def _refuse_while_imported() -> None:
    """End a worker process whose start has come to `get_client`, or refuse in any other one."""
    # What multiprocessing looks at itself when it refuses to start a process from there.
    if not getattr(multiprocessing.current_process(), "_inheriting", False):
        return
    place = os.environ.get(_WORD, "")
    if os.path.isfile(place):
        # The same from each worker, and possible on a full disk.
        os.truncate(place, 1)
        sys.exit(1)
    raise ConfigError(_UNGUARDED)


def _require_script() -> None:
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    is_module = getattr(main, "__spec__", None) is not None
    # Notebooks, prompts and `python -c` have no file, and workers need none.
    if path is None or is_module or os.path.isfile(path):
        return
    raise ConfigError(
        f"this program was read from {path}, where worker processes cannot read it once more. Save "
        "it as a file and run that, or take threads: get_client(processes=False)."
    )


def _owned(cluster: Any) -> Client:
    from distributed import Client

    client = Client(cluster)
    _dask.own_cluster(client)
    return client


def current_client() -> Client | None:
    """The Dask client of this process, or None."""
    from distributed import get_client as active_client

    try:
        return active_client()
    except ValueError:
        return None


def describe(client: Client) -> str:
    """One line of how many workers a client has, where, and where to watch them."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threads = sum(worker["nthreads"] for worker in workers.values())
    hosts = len({worker["host"] for worker in workers.values()})
    return (
        f"{len(workers)} workers with {threads} threads on {hosts} hosts, "
        f"dashboard: {client.dashboard_link}"
    )


def parallelism() -> int:
    """How many tasks run at once: the threads of all workers, or the cores without a client."""
    client = current_client()
    return sum(client.nthreads().values()) if client else usable_cores()
