"""Where a recipe reads and writes: told to be unusable before any work."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

from nemo_image_curate import storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.outputs import NUL, nul_message, why_unusable
from nemo_image_curate.recipe.parameters import parameters_of
from nemo_image_curate.recipe.steps import Problem, Step


def location_of(step: Step) -> str | None:
    """Where a step writes to, if it does."""
    action = step.action
    if action is None or action.writes is None:
        return None
    return storage.normalise(step.options["path"])


def why_no_work_dir(work_dir: str) -> Iterator[str]:
    """Why a folder cannot be that of intermediate files."""
    for text in why_unusable(storage.normalise(work_dir), is_folder=True):
        yield f"work_dir: {text}"


def problems_of(steps: Sequence[Step], dataset: ImageTextPairDataset) -> list[Problem]:
    """What is wrong with the places that steps write to and read from."""
    problems = []
    folders_read, files_read = _read(steps, dataset)
    folders: dict[str, int] = {}
    seen: dict[str, int] = {}
    for number, step in enumerate(steps, 1):
        label = f"step {number} ({step.name})"
        texts = list(_missing(step))
        if work_dir := step.options.get("work_dir"):
            texts += why_no_work_dir(work_dir)
        if (target := location_of(step)) is not None and step.action is not None:
            location = _real(target)
            is_folder = step.action.writes == "folder"
            if location in seen:
                texts.append(f"{location} is what step {seen[location]} writes, too.")
            for other, first in folders.items():
                if location != other and (is_folder and _below(location, other)):
                    texts.append(f"{location} lies in the folder that step {first} writes.")
                if _below(other, location):
                    texts.append(f"{location} holds the folder that step {first} writes.")
            if location in files_read:
                texts.append(f"{target} would overwrite this file of the input.")
            for folder in sorted(folders_read):
                if location == folder or _below(folder, location):
                    texts.append(f"{location} would overwrite the input {folder}.")
                elif is_folder and _below(location, folder):
                    texts.append(
                        f"{location} lies in the input {folder}, and would be a part of it the "
                        "next time. Choose a folder beside it."
                    )
            texts += why_unusable(location, is_folder)
            seen[location] = number
            if is_folder:
                folders[location] = number
        problems += [Problem(step.place, label, text) for text in dict.fromkeys(texts)]
    return problems


def _read(steps: Sequence[Step], dataset: ImageTextPairDataset) -> tuple[set[str], set[str]]:
    """The folders and the files that are read, without symbolic links."""
    places = {storage.normalise(place) for step in steps for _, place in inputs_of(step)}
    folders = {dataset.path, dataset.metadata_path, *filter(storage.is_dir, places)}
    sources = dataset.source()[1]
    data = [info.location for source in sources for info in (source.tar, source.sidecar) if info]
    # Shards are many, and lie in few folders.
    real = {parent: _real(parent) for parent in map(storage.parent, data)}
    files = {real[storage.parent(path)] + path.removeprefix(storage.parent(path)) for path in data}
    return set(map(_real, folders)), files | set(map(_real, places - folders))


def _real(location: str) -> str:
    is_plain = storage.is_local(location) and NUL not in location
    return os.path.realpath(location) if is_plain else location


def inputs_of(step: Step) -> Iterator[tuple[str, str]]:
    """Names and values of options that say where something is that is read."""
    if step.action is not None:
        return
    parameters = parameters_of(step.stage_class or object)
    for name, value in step.options.items():
        if isinstance(value, Step):
            yield from inputs_of(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, Step):
                    yield from inputs_of(item)
        if name in parameters.inputs:
            places = value.values() if isinstance(value, dict) else [value]
            yield from ((name, place) for place in places if isinstance(place, str))


def _missing(step: Step) -> Iterator[str]:
    for name, value in inputs_of(step):
        if NUL in value:
            yield f"{name}: {nul_message(value)}"
            continue
        location = storage.normalise(value)
        # Patterns stand for files, and what is listed in braces, too.
        is_plain = glob.escape(value) == value and "{" not in value and "::" not in value
        is_there = storage.stat(location) is not None or storage.is_dir(location)
        if is_plain and not is_there:
            yield f"{name}: there is no {value}."


def _below(location: str, folder: str) -> bool:
    return location.startswith(folder.rstrip("/") + "/")
