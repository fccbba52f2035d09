"""Import timm where PyPI's CUDA torchvision sits beside a CPU torch."""

from __future__ import annotations

import re
import sys
import threading
from typing import Any

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
# torchvision 0.28 asks for two (nms, qnms); the bound only keeps a future one from looping.
_MAX_OPERATORS = 16

# An operator lives only as long as the Library object that defined it.
_LIBRARIES: list[Any] = []
_LOCK = threading.Lock()


def import_timm() -> Any:
    """The ``timm`` module, imported even where torchvision's own operators cannot load.

    PyPI's torchvision is a CUDA build. Beside a CPU torch its C library does not load, and
    ``import torchvision`` (hence ``import timm``) fails with ``operator torchvision::nms does not
    exist``, then with ``qnms``. Only when that happens, the operator named is declared without an
    implementation and the import starts over: timm's models never call it.

    Returns
    -------
    module
        ``timm``.

    Raises
    ------
    RuntimeError, ImportError
        What the import raised, when it is anything else than a missing operator.
    """
    with _LOCK:
        declared: set[str] = set()
        while True:
            try:
                import timm

                return timm
            except RuntimeError as error:
                missing = _MISSING_OPERATOR.search(str(error))
                if missing is None or missing[1] in declared or len(declared) == _MAX_OPERATORS:
                    raise
                declared.add(missing[1])
                _declare(missing[1])
                _forget("timm", "torchvision")


def _declare(operator: str) -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"{operator}() -> ()")
    _LIBRARIES.append(library)


def _forget(*packages: str) -> None:
    # The failed import leaves submodules behind that refer to a torchvision that is gone.
    for module in list(sys.modules):
        if module.partition(".")[0] in packages:
            del sys.modules[module]
