"""Places to write to: told to be unusable before any work."""

from __future__ import annotations

import os
from collections.abc import Iterator

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError

# What ends a name for the operating system.
NUL = "\0"


def nul_message(location: str) -> str:
    """What is wrong with a name that has this character."""
    return f"{location!r} has the character NUL, which no name of a file has."


def why_unusable(location: str, is_folder: bool) -> Iterator[str]:
    """Why a local place cannot be written to; nothing for places elsewhere.

    Parameters
    ----------
    location : str
        Normalised.
    is_folder : bool
        Whether a folder is to be written, not a file.
    """
    if NUL in location:
        yield nul_message(location)
        return
    if not storage.is_local(location):
        return
    if is_folder and os.path.isfile(location):
        yield f"{location} is a file; give a folder."
        return
    if not is_folder and os.path.isdir(location):
        yield f"{location} is a folder; give a file."
        return
    there = location
    while not os.path.lexists(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    if there != location and not os.path.isdir(there):
        yield f"{location} cannot be made: {there} is no folder."
    elif not os.access(there, os.W_OK):
        yield f"{location} cannot be written: {there} is not writable."


def check_output(location: str, is_folder: bool) -> None:
    """Refuse a local place that cannot be written to; see `why_unusable`.

    Raises
    ------
    ConfigError
    """
    for problem in why_unusable(location, is_folder):
        raise ConfigError(problem)
