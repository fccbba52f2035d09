"""The one private name of torch that this package touches; its test names it again."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def constant_floats(constant: bool) -> AbstractContextManager[Any]:
    """While code is compiled for all sizes: whether floats are part of it, or inputs as sizes are.

    Parameters
    ----------
    constant : bool
        True: there is code for each value that a float has.
    """
    import torch

    context: AbstractContextManager[Any] = torch._dynamo.config.patch(specialize_float=constant)
    return context
