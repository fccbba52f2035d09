"""What one worker process keeps between its tasks: models, tokenizers, decoders."""

from __future__ import annotations

import gc
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from nemo_image_curate.compute.client import current_client
from nemo_image_curate.compute.devices import release_memory

# Models and decoders kept per process: enough for a few encoders in one job, each with its
# classifiers and a decoder for either thread of a GPU's worker; else each partition would load
# anew what the one before it dropped.
MOST_KEPT = 16
Kept = TypeVar("Kept")

_objects: OrderedDict[str, Any] = OrderedDict()
_objects_lock = threading.Lock()
# One at a time, as some use torch's random numbers; and one may build another.
_build_lock = threading.RLock()


def get_or_build(token: str, build: Callable[[], Kept]) -> Kept:
    """An object that this process builds once and keeps while it is in use.

    Parameters
    ----------
    token : str
        Hash of the full configuration that the object was built from, not a mere name.
    build : callable
    """
    existing: Kept | None = _find(token)
    if existing is not None:
        return existing
    with _build_lock:
        # Another thread may have built it meanwhile.
        existing = _find(token)
        if existing is None:
            existing = build()
            with _objects_lock:
                _objects[token] = existing
                while len(_objects) > MOST_KEPT:
                    _objects.popitem(last=False)
        return existing


def _find(token: str) -> Any:
    with _objects_lock:
        if token in _objects:
            _objects.move_to_end(token)
        return _objects.get(token)


def scratch_folder() -> str | None:
    """The folder of this process's Dask worker, which is removed with it; None without one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return str(get_worker().local_directory)
    except ValueError:
        return None


def clear() -> None:
    """Drop everything this process keeps, and return cached GPU memory to the device."""
    with _objects_lock:
        _objects.clear()
    # Models may lie in cycles of references.
    gc.collect()
    release_memory()


def clear_on_workers() -> None:
    """`clear` in this process and in all workers of its client."""
    clear()
    if client := current_client():
        client.run(clear)
