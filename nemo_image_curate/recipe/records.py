"""What a run did: in ``_run.json`` beside what it wrote, by which the same run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.dataset.accounting import Account
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.fingerprints import describe, fingerprint
from nemo_image_curate.dataset.manifest import RUN_FILE, read_manifest
from nemo_image_curate.dataset.opening import EXPORT_MANIFEST
from nemo_image_curate.errors import DatasetError
from nemo_image_curate.recipe.places import inputs_of, location_of
from nemo_image_curate.recipe.steps import Problem, Step
from nemo_image_curate.stages.base import Stage
from nemo_image_curate.version import __version__

# What of a folder is data.
_DATA = (".parquet", ".tar", ".idx", ".json")


@dataclass(frozen=True)
class Done:
    """A step that wrote something.

    Attributes
    ----------
    number : int
    name : str
    fingerprint : str
        Of the inputs and all that was done up to it.
    written : str
        Of the files that it wrote: names, sizes and times.
    result : dict
        What came of it.
    """

    number: int
    name: str
    fingerprint: str
    written: str
    result: dict[str, Any]


def fingerprints(
    dataset: ImageTextPairDataset, steps: Sequence[Step], stages: Sequence[Stage | None]
) -> list[str]:
    """For each step one of the inputs and all that is done up to it, itself included.

    Where things are written, and that something is saved on the way, changes no result.
    """
    sources = dataset.source()[1]
    files = [info for source in sources for info in (source.tar, source.sidecar) if info]
    read = [[info.token for info in files], [source.identity(False) for source in sources]]
    so_far = fingerprint(
        "recipe", __version__, dataset.path, dataset.id_col, dataset.image_member, read
    )
    prints = []
    for step, stage in zip(steps, stages, strict=True):
        if stage is not None:
            others = [[name, _listing(storage.normalise(place))] for name, place in inputs_of(step)]
            so_far = fingerprint(so_far, describe(stage), others)
            prints.append(so_far)
            continue
        options = sorted((name, value) for name, value in step.options.items() if name != "path")
        print_ = fingerprint(so_far, step.name, options)
        prints.append(print_)
        if step.name in ("filter", "select") or (
            step.name == "save" and step.options.get("columns")
        ):
            so_far = print_
    return prints


def home_of(steps: Sequence[Step], number: int, dataset: ImageTextPairDataset) -> str:
    """The folder whose ``_run.json`` tells of a step, counted from 1.

    That which it writes, or the last one written before it; else that of its file.
    """
    for step in reversed(steps[:number]):
        location = location_of(step)
        if location is not None and step.action is not None and step.action.writes == "folder":
            return location
    location = location_of(steps[number - 1])
    return dataset.metadata_path if location is None else storage.parent(location)


def read_done(
    steps: Sequence[Step], dataset: ImageTextPairDataset, prints: Sequence[str]
) -> list[Done | None]:
    """For each step what an earlier run did of it, where that is as it was left."""
    known: dict[str, dict[int, Done]] = {}
    records: list[Done | None] = []
    for number, (step, print_) in enumerate(zip(steps, prints, strict=True), 1):
        done = None
        if step.name == "index" or location_of(step) is not None:
            home = home_of(steps, number, dataset)
            if home not in known:
                known[home] = _read(home)
            done = known[home].get(number)
            if done and (done.fingerprint, done.written) != (print_, written_by(step, done.result)):
                done = None
        records.append(done)
    return records


def foreign_exports(
    steps: Sequence[Step], prints: Sequence[str], done: Sequence[Done | None]
) -> Iterator[Problem]:
    """Exports that would be refused, because their folder holds another one."""
    for number, (step, print_, finished) in enumerate(zip(steps, prints, done, strict=True), 1):
        location = location_of(step)
        if step.name != "export" or location is None or finished or not storage.is_dir(location):
            continue
        others = [other for other in _read(location).values() if other.name == "export"]
        held = "an export of other rows or settings, or of inputs that have changed since"
        if any(other.fingerprint != print_ for other in others):
            text = f"{location} holds {held}. Choose another folder, or delete this one."
        elif not others and not _is_export(location) and storage.find(location, ".tar"):
            text = f"{location} already holds .tar files. Choose an empty folder."
        else:
            continue
        yield Problem(step.place, f"step {number} ({step.name})", text)


def _is_export(location: str) -> bool:
    return storage.stat(storage.join(location, EXPORT_MANIFEST)) is not None


def _read(home: str) -> dict[int, Done]:
    try:
        run = storage.parse_json(storage.read_bytes(storage.join(home, RUN_FILE)))
        return {entry["number"]: Done(**entry) for entry in run["recipe_steps"]}
    except (OSError, DatasetError, ValueError, KeyError, TypeError):
        # There is none, or another command's.
        return {}


def read_account(home: str) -> Account | None:
    """The account of its input that a run recorded in a folder."""
    try:
        run = storage.parse_json(storage.read_bytes(storage.join(home, RUN_FILE)))
        names = [field.name for field in fields(Account)]
        counts = {**run["account"], "named": run["named"]}
        return Account.from_record({name: counts[name] for name in names})
    except (OSError, DatasetError, ValueError, KeyError, TypeError):
        return None


def written_by(step: Step, result: dict[str, Any]) -> str:
    """A fingerprint of the files that a step wrote."""
    location = location_of(step)
    if step.name != "save":
        return _listing(str(result.get("path")) if location is None else location)
    try:
        # Others may put files into the folder, such as an index.
        _, sources, _, _ = read_manifest(location or "", None)
    except DatasetError:
        return ""
    return fingerprint([source.sidecar and source.sidecar.token for source in sources])


def _listing(location: str) -> str:
    """A fingerprint of a file, or of the data in a folder: names, sizes and times."""
    if not storage.is_dir(location):
        info = storage.stat(location)
        return "" if info is None else fingerprint(info.token)
    files = [file for file in storage.find(location, _DATA) if not file.location.endswith(RUN_FILE)]
    return fingerprint([(storage.relative(file.location, location), file.token) for file in files])


def write_done(home: str, recipe: str, done: Sequence[Done], **more: Any) -> None:
    """Write ``_run.json`` into a folder.

    Parameters
    ----------
    home : str
    recipe : str
        The YAML text.
    done : sequence of Done
        All steps that are done.
    **more
        Further entries.
    """
    run = {"command": "run", "version": __version__, **run_record(recipe, done), **more}
    content = json.dumps(run, indent=1, ensure_ascii=False, default=str)
    location = storage.join(home, RUN_FILE)
    storage.write_bytes(location, content.encode("utf-8", "backslashreplace"))


def run_record(recipe: str, done: Sequence[Done]) -> dict[str, Any]:
    """What ``_run.json`` holds of a recipe: its text, and what is done of it."""
    return {"recipe": recipe, "recipe_steps": [asdict(step) for step in done]}
