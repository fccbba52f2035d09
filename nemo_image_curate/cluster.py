"""Dask clients, jobs with progress, and what one worker process keeps between its tasks."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dask
from tqdm import tqdm

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError, CurateError, JobError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

# Models and decoders kept per process: enough for a few encoders in one job, each with its
# classifiers and a decoder for either thread of a GPU's worker; else each partition would load
# anew what the one before it dropped.
_KEEP = 16
_kept: OrderedDict[str, Any] = OrderedDict()
_kept_lock = threading.Lock()
# One at a time, as some use torch's random numbers; and one may build another.
_build_lock = threading.RLock()
# Dask has glibc give memory back at once, whereupon each forward pass asks the system for its
# activations again (a third of EfficientNet's time here), and each batch for its files.
_KEEP_FREED = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}


def get_client(
    kind: str = "auto",
    scheduler_address: str | None = None,
    scheduler_file: str | None = None,
    n_workers: int | None = None,
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
        Connect to this scheduler instead of starting one.
    n_workers : int, optional
        Default: the number of cores (``cpu``) or GPUs (``gpu``).
    **options
        Passed on to the cluster, or to ``Client`` when connecting.

    Returns
    -------
    distributed.Client
        Close it, or use it in a ``with`` statement; a started cluster ends with it.

    Raises
    ------
    ConfigError
        For contradicting arguments.
    BackendError
        When ``gpu`` is asked for and no GPU works.
    """
    from distributed import Client

    if scheduler_address and scheduler_file:
        raise ConfigError("give scheduler_address or scheduler_file, not both.")
    if scheduler_address or scheduler_file:
        if n_workers is not None:
            raise ConfigError("n_workers belongs to a new cluster, not to a running scheduler.")
        return Client(address=scheduler_address, scheduler_file=scheduler_file, **options)
    if frames.resolve_backend(kind) == "gpu":
        return _start_cuda(n_workers, options)
    from distributed import LocalCluster

    # One thread for each forward pass, however many workers: the last bits of a result depend on
    # how its sums are split over threads, and must not depend on the number of workers.
    if options.get("processes", True):
        options["env"] = {"OMP_NUM_THREADS": "1", **options.get("env", {})}
    defaults = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with dask.config.set(_KEEP_FREED):
        cluster = LocalCluster(n_workers=n_workers or _cores(), **(defaults | options))
    return _owned(cluster)


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
    with dask.config.set(_KEEP_FREED):
        return _owned(LocalCUDACluster(n_workers=n_workers, **(defaults | options)))


def _owned(cluster: Any) -> Client:
    from distributed import Client

    client = Client(cluster)
    # What Client() sets for a cluster of its own making: closing the client closes the cluster.
    client._start_arg = None
    return client


def _cores() -> int:
    """Cores this process may use: containers and Slurm give fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def kept(token: str, build: Callable[[], Any]) -> Any:
    """An object that this process builds once and keeps while it is in use.

    Parameters
    ----------
    token : str
        Hash of the full configuration that the object was built from, not a mere name.
    build : callable
    """
    found = _find(token)
    if found is not None:
        return found
    with _build_lock:
        # Another thread may have built it meanwhile.
        found = _find(token)
        if found is None:
            found = build()
            with _kept_lock:
                _kept[token] = found
                while len(_kept) > _KEEP:
                    _kept.popitem(last=False)
        return found


def _find(token: str) -> Any:
    with _kept_lock:
        if token in _kept:
            _kept.move_to_end(token)
        return _kept.get(token)


def forget() -> None:
    """Drop everything this process keeps, and return cached GPU memory to the device."""
    with _kept_lock:
        _kept.clear()
    # Models may lie in cycles of references.
    gc.collect()
    release_memory()


def forget_on_workers() -> None:
    """`forget` in this process and in all workers of its client."""
    forget()
    if client := current_client():
        client.run(forget)


def release_memory() -> None:
    """Return the GPU memory that torch and DALI hold but do not use; each has a pool of its own."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        if dali := sys.modules.get("nvidia.dali.backend"):
            dali.ReleaseUnusedMemory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the host, has too little memory.

    torch, RMM and DALI each have their own kind, and some only a text.
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower().replace("_", " ").replace("allocation", "alloc")
    signs = ("out of memory", "bad alloc", "alloc failed", "allocate memory", "can't allocate")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def compute_all(
    tasks: Sequence[Any],
    labels: Sequence[str],
    what: str,
    progress: bool | None = None,
    done: Callable[[Any], None] | None = None,
    shared: bool = False,
) -> list[Any]:
    """Compute Dask tasks, showing progress; a failing one does not stop the others.

    Parameters
    ----------
    tasks : sequence of dask.delayed.Delayed
    labels : sequence of str
        What each task works on, for messages.
    what : str
        What is being done, for the progress bar.
    progress : bool, optional
        Default: only when standard error is a terminal.
    done : callable, optional
        Called with each result as it arrives.
    shared : bool, default False
        The tasks need common results, such as those of a shuffle. Without a client a cluster of
        one thread is started for them: it computes each once and spills to disk.

    Returns
    -------
    list
        Results in the order of `tasks`.

    Raises
    ------
    JobError
        After all others have finished, naming those that failed and why. When each failed with
        the same error of ours, that error.
    """
    if shared and current_client() is None:
        with get_client("cpu", n_workers=1, processes=False):
            return compute_all(tasks, labels, what, progress, done)
    if progress is None:
        progress = sys.stderr.isatty()
    results: list[Any] = [None] * len(tasks)
    failures: dict[int, BaseException] = {}
    with tqdm(total=len(tasks), desc=what, unit="part", disable=not progress) as bar:
        for position, value, error in _each(tasks):
            bar.update()
            if error is not None:
                failures[position] = error
                logger.warning("%s: %s: %s", what, labels[position], error)
                continue
            results[position] = value
            if done is not None:
                done(value)
    if failures:
        raise _summarise(failures, labels, what, len(tasks))
    return results


def _each(tasks: Sequence[Any]) -> Any:
    """Yield (position, value, error) as tasks end."""
    client = current_client()
    if client is not None:
        from distributed import as_completed

        futures = client.compute(list(tasks))
        positions = {future.key: position for position, future in enumerate(futures)}
        for future in as_completed(futures):
            error = future.exception() if future.status != "finished" else None
            yield positions[future.key], None if error else future.result(), error
            future.release()
        return

    # Without a cluster: one partition at a time, each using all cores in its forward pass.
    for position, task in enumerate(tasks):
        try:
            yield position, dask.compute(task)[0], None
        except Exception as error:
            yield position, None, error


def parallelism() -> int:
    """How many tasks run at once: the threads of all workers, or the cores without a client."""
    client = current_client()
    return sum(client.nthreads().values()) if client else _cores()


def has_bfloat16(device: str) -> bool:
    """Whether this process's device multiplies bfloat16 matrices natively, not by emulation."""
    import torch

    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def current_client() -> Client | None:
    """The Dask client of this process, or None."""
    from distributed import get_client as active_client

    try:
        return active_client()
    except ValueError:
        return None


def _summarise(
    failures: dict[int, BaseException], labels: Sequence[str], what: str, total: int
) -> CurateError:
    errors = list(failures.values())
    same = {(type(error), str(error)) for error in errors}
    if len(same) == 1 and isinstance(errors[0], CurateError):
        return errors[0]
    shown = [
        f"  {labels[position]}: {type(error).__name__}: {error}"
        for position, error in sorted(failures.items())[:10]
    ]
    more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
    summary = JobError(
        f"{what}: {len(failures)} of {total} partitions failed; the others are done and kept. "
        "Run the same job again after mending the cause:\n" + "\n".join(shown) + more
    )
    summary.__cause__ = errors[0]
    return summary
