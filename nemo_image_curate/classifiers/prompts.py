"""Labels and prompt templates: what zero-shot classification asks of a text encoder."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from nemo_image_curate.errors import ConfigError

PLACE = "{}"


@functools.cache
def template_sets() -> dict[str, list[str]]:
    """The named sets of templates; ``prompt_templates.json`` says where each is from."""
    data = resources.files(__package__).joinpath("prompt_templates.json").read_text("utf-8")
    return {name: entry["templates"] for name, entry in json.loads(data).items()}


def read_templates(templates: str | Sequence[str]) -> list[str]:
    """The templates of a named set, or a list of one's own after a check.

    Parameters
    ----------
    templates : str or sequence of str
        ``one``, ``simple-7``, ``openai-80``, or templates with one ``{}`` each for the label.

    Raises
    ------
    ConfigError
        For another name, an empty list, or a template that does not hold exactly one ``{}``.
    """
    if isinstance(templates, str):
        named = template_sets()
        if templates not in named:
            raise ConfigError(
                f"templates={templates!r} should be one of {', '.join(named)}, or a list of "
                "templates such as ['a photo of a {}.']."
            )
        return list(named[templates])
    if not templates:
        raise ConfigError("templates is empty; give at least one, such as ['a photo of a {}.'].")
    for template in templates:
        if not isinstance(template, str) or template.count(PLACE) != 1:
            raise ConfigError(
                f"template {template!r} should be a text that holds exactly one {PLACE}, the "
                "place of the label."
            )
    return list(templates)


def read_labels(labels: Sequence[str] | Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    """Each label with the words that stand for it in prompts, in the order given.

    Parameters
    ----------
    labels : sequence of str, or mapping of str to (sequence of) str
        Names, which are their own words; or the words of each name.

    Raises
    ------
    ConfigError
        When there are none, or one is empty, no text, or there twice.
    """
    if isinstance(labels, str):
        raise ConfigError(f"labels={labels!r} should be a list of labels, not one text.")
    if not labels:
        raise ConfigError("labels is empty; give at least two to choose from.")
    entries = labels.items() if isinstance(labels, Mapping) else [(name, [name]) for name in labels]
    read: dict[str, list[str]] = {}
    for name, value in entries:
        words = [value] if isinstance(value, str) else list(value)
        for text in (name, *words):
            if not isinstance(text, str) or not text.strip():
                raise ConfigError(f"label {name!r}: {text!r} should be a text that is not empty.")
        if not words:
            raise ConfigError(f"label {name!r} has no words to ask for.")
        if name in read or len(set(words)) < len(words):
            raise ConfigError(f"label {name!r}: the same name or word is there twice.")
        read[name] = words
    return read


def prompts(words: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every word in every template, the words outermost."""
    return [template.replace(PLACE, word) for word in words for template in templates]


def column_name(label: str) -> str:
    """A label as a part of a column name that filter expressions can use without quotes.

    All but letters and digits become underscores: ``golden retriever`` becomes
    ``golden_retriever``.

    Raises
    ------
    ConfigError
        When it has no letter or digit at all.
    """
    # Letters that both Python's parser, which takes this form of them, and pandas' know as such;
    # neither takes vowel signs that are characters of their own, as those of Hindi.
    plain = unicodedata.normalize("NFKC", label)
    spaced = "".join(c if c.isalnum() and f"_{c}".isidentifier() else " " for c in plain)
    name = "_".join(spaced.split())
    if not name:
        raise ConfigError(
            f"label {label!r} has no letters or digits to name a column after. Name it: "
            f"labels={{'name': {label!r}}}"
        )
    return name


def label_columns(prefix: str, labels: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """The label of each of their columns, which are named PREFIX_LABEL.

    Parameters
    ----------
    prefix : str
    labels : iterable of str
    taken : iterable of str
        Names of other columns.

    Raises
    ------
    ConfigError
        When two would have one name, or one has none.
    """
    label_of: dict[str, str] = {}
    for label in labels:
        name = f"{prefix}_{column_name(label)}"
        if name in label_of or name in taken:
            other = f"labels {label_of[name]!r} and" if name in label_of else "the scores and label"
            raise ConfigError(
                f"{other} {label!r} would both be the column {name!r}. Name one of them "
                f"otherwise: labels={{'other name': {label!r}}}"
            )
        label_of[name] = label
    return label_of
