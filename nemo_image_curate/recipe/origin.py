"""The recipe that made something: of a run's record, and of what datasets say of their columns."""

from __future__ import annotations

import json
from collections.abc import Iterable

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.recipe.recipe import Recipe
from nemo_image_curate.recipe.records import RUN_FILE


def read_recipe(path: str, settings: Iterable[str] = ()) -> Recipe:
    """A recipe from its file, by its name, or from what a run wrote.

    Parameters
    ----------
    path : str
        As `Recipe.read` takes it; or a folder or ``_run.json`` that a run wrote.
    settings : iterable of str
        ``PATH=VALUE`` each, as `Recipe.read` takes them.

    Raises
    ------
    ConfigError
    """
    location = storage.normalise(path)
    if storage.is_dir(location):
        location = storage.join(location, RUN_FILE)
    if not location.endswith(".json"):
        return Recipe.read(path, settings)
    try:
        content = json.loads(storage.read_bytes(location))["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{location} holds no recipe: {error!r}.") from error
    return Recipe.parse(content, location, settings)
