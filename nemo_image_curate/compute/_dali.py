"""The one private name of DALI that this package touches; its test names it again."""

from __future__ import annotations

import sys


def release_memory() -> None:
    """Return the GPU memory that DALI holds but does not use, if this process has loaded it."""
    if backend := sys.modules.get("nvidia.dali.backend"):
        backend.ReleaseUnusedMemory()
