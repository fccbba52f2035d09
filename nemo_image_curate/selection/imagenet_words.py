"""`ImageNetWords`: captions with a word that is the name of a class of ImageNet."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from nemo_image_curate.quality.captions import texts_of
from nemo_image_curate.stages.base import ColumnStage

WORD = "imagenet_word"
# Made by ci/imagenet_words.py of WordNet 3.0.
WORDS_FILE = Path(__file__).with_name("imagenet_words.json")
# How plurals end, and the singular: morphy(7WN), and -ves as NLTK has it.
PLURALS = (
    *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch")),
    *(("shes", "sh"), ("men", "man"), ("ies", "y")),
)


@dataclass(eq=False)
class ImageNetWords(ColumnStage):
    """Adds the first word of each caption that is the name of a class of ImageNet-21k.

    The rule of DataComp's text-based filter (Gadre et al., 2023): words are what white space
    parts, with their punctuation, in any case; one counts when it is a noun whose first, most
    frequent sense in WordNet 3.0 is one of the 21,841 classes. Plurals are reduced as WordNet does
    it. DataComp's script looks up other words, too, by numbers that among verbs and adjectives
    mean something else.

    Parameters
    ----------
    caption_column : str, default "caption"

    Columns
    -------
    imagenet_word : string
        As the caption has it; null where there is none.

    Examples
    --------
    >>> ds = ImageNetWords()(ds)
    >>> ds = ds.filter("imagenet_word.notna()")
    """

    caption_column: str = "caption"

    def columns(self) -> dict[str, pa.DataType]:
        """The column and its type."""
        return {WORD: pa.string()}

    def inputs(self) -> list[str]:
        """The captions."""
        return [self.caption_column]

    def config(self) -> dict[str, Any]:
        """What is looked for."""
        return {"classes": "imagenet-21k", "caption_column": self.caption_column}

    def run(self, frame: Any) -> dict[str, Any]:
        """The column of a computed partition."""
        is_class = class_test()
        words = [
            next((word for word in (text or "").split() if is_class(word.lower())), None)
            for text in texts_of(frame, self.caption_column)
        ]
        return {WORD: pa.array(words, pa.string())}


@functools.cache
def class_test() -> Callable[[str], bool]:
    """What tells of a word in lower case whether it is the name of a class."""
    stored = json.loads(WORDS_FILE.read_text("utf-8"))
    classes, others = frozenset(stored["classes"].split()), frozenset(stored["others"].split())
    irregular = {word: singulars.split() for word, singulars in stored["irregular"].items()}

    # Captions of the web have few words often, and many once.
    @functools.lru_cache(1 << 16)
    def is_class(word: str) -> bool:
        nouns = (form for form in noun_forms(word, irregular) if form in classes or form in others)
        return next(nouns, None) in classes

    return is_class


def noun_forms(word: str, irregular: Mapping[str, list[str]]) -> Iterator[str]:
    """What a word may be a form of, first itself; the first that is a noun is what it is.

    Morphy, WordNet's rules: endings are taken off again as long as nothing is a noun.

    Parameters
    ----------
    word : str
        In lower case.
    irregular : mapping of str to list of str
        The singulars of plurals that follow no rule.
    """
    yield word
    if word in irregular:
        yield from irregular[word]
        return
    forms = [word]
    while forms := [
        form.removesuffix(plural) + singular
        for form in forms
        for plural, singular in PLURALS
        if form.endswith(plural)
    ]:
        yield from forms
