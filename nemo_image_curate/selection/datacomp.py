"""`DataCompFilter`: DataComp's baselines, by name."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate import catalog, frames
from nemo_image_curate.dataset.sources import SHARD_COLUMN
from nemo_image_curate.dataset.threshold import Share, find_threshold
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.expressions.check import check
from nemo_image_curate.expressions.evaluate import condition
from nemo_image_curate.quality.captions import CHARACTERS, LANGUAGE, WORDS, CaptionStatistics
from nemo_image_curate.selection.imagenet_words import WORD, ImageNetWords
from nemo_image_curate.stages.base import Stage, no_effect

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

_TARGET = "is_near_target"


@dataclass(frozen=True)
class Recipe:
    """A published filter, as data.

    Attributes
    ----------
    about : str
        What it is.
    conditions : mapping of str to str
        By name, expressions that are true for the rows that stay. In braces: what a column holds.
    scores : tuple of str
        The columns that ``{score}`` may be, when none is named: the first there is.
    top : float, optional
        The fraction of rows with the highest score that ``{threshold}`` parts from the others.
    """

    about: str
    conditions: Mapping[str, str]
    scores: tuple[str, ...] = ()
    top: float | None = None

    def columns(self) -> set[str]:
        """What the conditions ask for."""
        texts = map(string.Formatter().parse, self.conditions.values())
        return {name for text in texts for _, name, _, _ in text if name} - {"threshold"}


_ENGLISH = {"english": "{language} == 'en'"}
_CAPTION = {**_ENGLISH, "words": "{words} > 1", "characters": "{characters} > 5"}
_NEAR_TARGET = {"target": "{target}"}
_BEST = {"clip_score": "{score} >= {threshold}"}
# As DataComp's own metadata call it, or as `ClipScore` does.
_L14 = ("clip_l14_similarity_score", "clip_score")
_B32 = ("clip_b32_similarity_score", "clip_score")

# After DataComp's ``baselines/apply_filter.py`` (Gadre et al., "DataComp: in search of the next
# generation of multimodal datasets", 2023). It has two rules for words: more than 2 in the basic
# filter, and more than 1 for captions in the image-based one.
RECIPES: dict[str, Recipe] = {
    "datacomp-basic": Recipe(
        "English, of some length; at least 200 pixels, at most 3 times as long as wide",
        {
            **_CAPTION,
            "words": "{words} > 2",
            "side": "{width} >= 200 and {height} >= 200",
            "aspect": "{width} <= 3 * {height} and {height} <= 3 * {width}",
        },
    ),
    "laion-2b": Recipe(
        "English, CLIP score of ViT-B/32 at least 0.28",
        {**_ENGLISH, "clip_score": "{score} >= 0.28"},
        _B32,
    ),
    "clip-score-l14-30": Recipe("the 30 % of the highest CLIP score of ViT-L/14", _BEST, _L14, 0.3),
    "image-based": Recipe(
        "English, of some length; in a cluster that an image of the target is in",
        {**_CAPTION, **_NEAR_TARGET},
    ),
    "image-based-clip-score": Recipe(
        "image-based, of the 30 % of the highest CLIP score of ViT-L/14: DataComp-1B",
        {**_CAPTION, **_NEAR_TARGET, **_BEST},
        _L14,
        0.3,
    ),
    "text-based": Recipe(
        "English, with a word that is the name of a class of ImageNet-21k",
        {**_ENGLISH, "imagenet_word": "{imagenet_word}.notna()"},
    ),
}


@dataclass(eq=False)
class DataCompFilter(Stage):
    """Adds columns that say which rows a published filter keeps, and which condition drops others.

    Parameters
    ----------
    recipe : str
        One of `RECIPES`: ``datacomp-basic``, ``laion-2b``, ``clip-score-l14-30``,
        ``image-based``, ``image-based-clip-score``, ``text-based``.
    caption_column : str, default "caption"
    language_column : str, optional
        Of languages such as ``en`` that are known already. Default: as `CaptionStatistics` finds
        them, whose columns are added.
    width_column, height_column : str, optional
        Default: ``original_width`` and ``original_height``, which img2dataset writes, where they
        are, else ``width`` and ``height``.
    score_column : str, optional
        Of the CLIP score. Default: ``clip_l14_similarity_score`` or, for ``laion-2b``,
        ``clip_b32_similarity_score``, where it is, else ``clip_score``.
    target : dataset, path or array, optional
        For the image-based ones, as `ClusterTarget` takes it: images of ImageNet. Not needed when
        there is a column ``is_near_target``.
    n_clusters, work_dir : optional
        Of `ClusterTarget`.
    embedding_column : str, default "image_embedding"
        Of `ClusterTarget`; DataComp's are of ViT-L/14.
    prefix : str, default ""
        Put before the names of the columns, to keep several filters apart.

    Columns
    -------
    passes_english, passes_words, passes_characters, passes_side, passes_aspect : bool
    passes_clip_score, passes_target, passes_imagenet_word : bool
        Those of the recipe: whether a row meets this condition; null where that is not known,
        because a column that it looks at is null.
    selected : bool
        Whether it meets all of them; False where that is not known.

    Notes
    -----
    What differs from DataComp's script: languages are told by the small form of its fastText
    model, for ``laion-2b`` too, where it takes CLD3; a word is what white space parts in both
    rules; for ``text-based`` see `ImageNetWords`.

    Thresholds are those of DataComp to the row: it keeps the rows from the score at index
    int(0.3 N) on, counted from 0, which is one row more than `TopFraction` keeps.

    Examples
    --------
    >>> ds = DataCompFilter("datacomp-basic")(ds)
    >>> ds = ds.filter("selected")
    """

    recipe: str
    caption_column: str = "caption"
    language_column: str | None = None
    width_column: str | None = None
    height_column: str | None = None
    score_column: str | None = None
    target: Any = None
    n_clusters: int | str = "auto"
    embedding_column: str = "image_embedding"
    work_dir: str | os.PathLike[str] | None = no_effect(None)
    prefix: str = ""

    def check(self) -> None:
        """Refuse unusable parameters with `ConfigError`."""
        if self.recipe not in RECIPES:
            raise ConfigError(f"recipe={self.recipe!r} should be one of {', '.join(RECIPES)}.")

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their type; those of other stages that are called are not among them."""
        names = [f"passes_{name}" for name in RECIPES[self.recipe].conditions]
        return {f"{self.prefix}{name}": pa.bool_() for name in (*names, "selected")}

    def config(self) -> dict[str, Any]:
        """Which recipe."""
        return {"recipe": self.recipe}

    def needs(self, dataset: ImageTextPairDataset) -> list[str]:
        """What the recipe looks at and other stages do not make."""
        recipe, there = RECIPES[self.recipe], dataset.metadata.columns
        columns = self._columns(recipe, there)
        added = {WORDS, CHARACTERS, WORD} | ({LANGUAGE} if self.language_column is None else set())
        captions = [self.caption_column] if added & set(columns.values()) else []
        if self.target is not None and _TARGET in columns.values():
            added.add(_TARGET)
            captions.append(self.embedding_column)
        return [*captions, *(name for name in columns.values() if name not in added)]

    def __call__(self, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with the columns; a threshold or clusters that are needed are found now.

        Raises
        ------
        ConfigError
            For unusable parameters or columns.
        ColumnNotFoundError
            When a column is missing.
        """
        self.check()
        if taken := {dataset.id_col, SHARD_COLUMN} & set(self.columns()):
            raise ConfigError(f"prefix={self.prefix!r} would overwrite the column {taken.pop()!r}.")
        recipe = RECIPES[self.recipe]
        columns = self._columns(recipe, dataset.metadata.columns)
        dataset = self._measured(recipe, dataset)
        frames.require_columns(dataset.metadata, *columns.values())
        values = {name: f"`{column}`" for name, column in columns.items()}
        facts: dict[str, Any] = {}
        if recipe.top is not None:
            share = Share(recipe.top, one_more=True)
            threshold = find_threshold(dataset.metadata, columns["score"], share)
            # Without a value there is nothing to be compared with it.
            values["threshold"] = repr(float("inf") if threshold.value is None else threshold.value)
            facts = threshold.facts()
        conditions = {
            f"{self.prefix}passes_{name}": text.format(**values)
            for name, text in recipe.conditions.items()
        }
        empty = frames.to_arrow(frames.empty(dataset.metadata[list(columns.values())]))
        for text in conditions.values():
            check(text, empty.column_names)
            condition(empty, text)
        record = self.record(conditions=list(conditions.values()), **facts)
        passes = Passes(conditions, f"{self.prefix}selected")
        return dataset.with_columns(passes, self.columns(), dict.fromkeys(self.columns(), record))

    def _columns(self, recipe: Recipe, there: Any) -> dict[str, str]:
        """The column that each name in the conditions stands for."""

        def first(named: str | None, *defaults: str) -> str:
            return named or next((name for name in defaults if name in there), defaults[-1])

        columns = {
            "language": first(self.language_column, LANGUAGE),
            "words": WORDS,
            "characters": CHARACTERS,
            "width": first(self.width_column, "original_width", "width"),
            "height": first(self.height_column, "original_height", "height"),
            "target": _TARGET,
            "imagenet_word": WORD,
        }
        if recipe.scores:
            columns["score"] = first(self.score_column, *recipe.scores)
        return {name: columns[name] for name in sorted(recipe.columns())}

    def _measured(self, recipe: Recipe, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
        """The dataset with what the conditions look at, as far as other stages make it."""
        needed = recipe.columns()
        detect_language = "language" in needed and self.language_column is None
        if detect_language or "words" in needed:
            dataset = _with_stage(CaptionStatistics(self.caption_column, detect_language), dataset)
        if "imagenet_word" in needed:
            dataset = _with_stage(ImageNetWords(self.caption_column), dataset)
        if "target" in needed and self.target is not None:
            dataset = catalog.load("ClusterTarget")(
                self.target,
                n_clusters=self.n_clusters,
                embedding_column=self.embedding_column,
                work_dir=self.work_dir,
            )(dataset)
        elif "target" in needed and _TARGET not in dataset.metadata.columns:
            raise ConfigError(
                f"recipe={self.recipe!r} needs target=, or the column {_TARGET!r} of ClusterTarget."
            )
        return dataset


def _with_stage(stage: Stage, dataset: ImageTextPairDataset) -> ImageTextPairDataset:
    """The dataset with the columns of a stage, unless it has them already."""
    is_there = all(
        dataset.provenance.get(name) == record for name, record in stage.provenance().items()
    )
    return dataset if is_there else stage(dataset)


class Passes:
    """Which conditions the rows of a partition meet, and which meet all; what Dask maps.

    Parameters
    ----------
    conditions : dict of str to str
        Expressions, by the columns that are made of them.
    selected : str
        The column of rows that meet all.
    """

    # What Dask's dashboard calls these tasks.
    __name__ = "passes"

    def __init__(self, conditions: dict[str, str], selected: str):
        self.conditions = conditions
        self.selected = selected

    def __dask_tokenize__(self) -> list[Any]:
        return self.content_token()

    def content_token(self) -> list[Any]:
        """What decides the values."""
        return ["Passes", *map(list, self.conditions.items()), self.selected]

    def __call__(self, frame: Any) -> dict[str, pa.Array]:
        names = [name for name in frame.columns if isinstance(name, str)]
        columns, meets_all = {}, pa.array([True] * len(frame), pa.bool_())
        for name, text in self.conditions.items():
            columns[name] = condition(frames.to_arrow(frame[check(text, names)]), text)
            meets_all = pc.and_(meets_all, pc.fill_null(columns[name], False))
        return {**columns, self.selected: meets_all}
