"""The recipe that made something: of a run's record, and of what datasets say of their columns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from nemo_image_curate import storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.dataset.manifest import RUN_FILE
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.recipe.places import location_of
from nemo_image_curate.recipe.provenance import steps_of
from nemo_image_curate.recipe.recipe import Recipe
from nemo_image_curate.recipe.steps import Step

# Where the recipe of a dataset that lies beside its tars saves it.
_OUTPUT = "curated"
# Runs that are followed back, each of what the next one was given.
_MOST_RUNS = 20


def read_recipe(path: str, settings: Iterable[str] = ()) -> Recipe:
    """A recipe from its file, by its name, or from what was made.

    Parameters
    ----------
    path : str
        As `Recipe.read` takes it; or a ``_run.json``, or a dataset: see `recipe_of`.
    settings : iterable of str
        ``PATH=VALUE`` each, as `Recipe.read` takes them.

    Raises
    ------
    ConfigError
    """
    location = storage.normalise(path)
    if storage.is_dir(location):
        dataset = ImageTextPairDataset.from_webdataset(location, backend="cpu")
        return Recipe.parse(recipe_of(dataset).to_yaml(), path, settings)
    if not location.endswith(".json"):
        return Recipe.read(path, settings)
    run = _read_run(location)
    if run is None:
        raise ConfigError(f"{location} holds no run of this package.")
    folder = storage.parent(location)
    recipe = _of_run(run, folder, _MOST_RUNS)
    if recipe is None:
        dataset = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
        recipe = recipe_of(dataset)
    return Recipe.parse(recipe.to_yaml(), path, settings)


def recipe_of(dataset: ImageTextPairDataset) -> Recipe:
    """The recipe that gives what a dataset holds.

    As the run recorded it that wrote the dataset; else made of what is recorded of each column,
    and of the conditions that the commands recorded which wrote it, or that are set on it.

    Parameters
    ----------
    dataset : ImageTextPairDataset

    Returns
    -------
    Recipe
        Its `notes` say what cannot be told, such as stages of your own.
    """
    folder = dataset.metadata_path
    run = _read_run(storage.join(folder, RUN_FILE))
    known = _of_run(run, folder, _MOST_RUNS) if run else None
    conditions = [Step("filter", {"condition": condition}) for condition in dataset.unfiltered()[1]]
    if known is not None and not conditions:
        return known
    base = known or _of_columns(dataset)
    steps = [*base.steps, *conditions]
    if known is None:
        place = dataset.home or _OUTPUT
        steps.append(Step("save", {"path": place}))
    return dataclasses.replace(base, steps=tuple(steps))


def _of_columns(dataset: ImageTextPairDataset) -> Recipe:
    columns = [str(name) for name in dataset.metadata.columns]
    steps, notes = steps_of(columns, dataset.provenance)
    opened: dict[str, Any] = {"path": dataset.path}
    if dataset.id_col != "key":
        opened["id_col"] = dataset.id_col
    if dataset.image_member is not None:
        opened["image_member"] = dataset.image_member
    return Recipe(opened, tuple(steps), notes=tuple(notes))


def _read_run(location: str) -> dict[str, Any] | None:
    try:
        run = storage.parse_json(storage.read_bytes(location))
    except (OSError, DatasetError, ValueError):
        return None
    return run if isinstance(run, dict) and "command" in run else None


def _of_run(run: Mapping[str, Any], folder: str, most: int) -> Recipe | None:
    """The recipe of a record of a run; None where it has to be told from the columns."""
    if isinstance(run.get("recipe"), str):
        recipe = Recipe.parse(run["recipe"], storage.join(folder, RUN_FILE))
        return dataclasses.replace(recipe, steps=_until(recipe.steps, folder))
    if run.get("command") == "filter" and most:
        return _of_filter(run, folder, most)
    return None


def _until(steps: tuple[Step, ...], folder: str) -> tuple[Step, ...]:
    """The steps up to the one that writes a folder; all where none does."""
    for number, step in enumerate(steps, 1):
        if step.name in ("save", "export") and location_of(step) == folder:
            return steps[:number]
    return steps


def _of_filter(run: Mapping[str, Any], folder: str, most: int) -> Recipe:
    """The recipe of the command filter: that of its input, the conditions, and the export."""
    config = run["config"]
    source = ImageTextPairDataset.from_webdataset(
        config["dataset"], backend="cpu", image_member=config.get("image_member")
    )
    before = _read_run(storage.join(source.metadata_path, RUN_FILE))
    base = _of_run(before, source.metadata_path, most - 1) if before else None
    if base is None:
        base = _of_columns(source)
    steps = list(base.steps)
    export: dict[str, Any] = {"path": folder}
    if config.get("selection"):
        steps.append(Step("SelectionFile", {"path": os.fspath(config["selection"])}))
        steps.append(Step("filter", {"condition": "selected"}))
    if config.get("where"):
        steps.append(Step("filter", {"condition": config["where"]}))
    for option, name in (
        ("multiplicity", "multiplicity"),
        ("samples_per_shard", "samples_per_shard"),
        ("old_id_column", "old_id_col"),
    ):
        if config.get(option) is not None:
            export[name] = config[option]
    return dataclasses.replace(base, steps=(*steps, Step("export", export)))
