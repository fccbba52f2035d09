"""Parameters of selectors, refused by one wording."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from nemo_image_curate.errors import ConfigError


def is_integer(value: Any, least: int) -> bool:
    """Whether a value is an integer of at least `least`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_whole and int(value) >= least


def check_integer(name: str, value: Any, least: int) -> None:
    """Refuse what is no integer of at least `least`.

    Raises
    ------
    ConfigError
    """
    if not is_integer(value, least):
        raise ConfigError(f"{name}={value!r} should be an integer of at least {least}.")


def check_positive(name: str, value: Any, most: float = float("inf")) -> None:
    """Refuse what is no number above 0, and `most` at most.

    Raises
    ------
    ConfigError
    """
    if not _is_number(value) or not 0 < float(value) <= most:
        limit = f" and {most:g} at most" if most != float("inf") else ""
        raise ConfigError(f"{name}={value!r} should be a number above 0{limit}.")


def check_not_negative(name: str, value: Any) -> None:
    """Refuse what is no number of at least 0.

    Raises
    ------
    ConfigError
    """
    if not _is_number(value) or not float(value) >= 0:
        raise ConfigError(f"{name}={value!r} should be a number of at least 0.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse what is none of some texts.

    Raises
    ------
    ConfigError
    """
    if value not in choices:
        raise ConfigError(f"{name}={value!r} should be one of {', '.join(map(repr, choices))}.")
