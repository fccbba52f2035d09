"""`ImageNetWords`: captions with a word that is the name of a class of ImageNet."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nemo_image_curate import storage
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.quality.captions import texts_of
from nemo_image_curate.stages.base import ColumnStage

WORD = "imagenet_word"
# What timm calls them. Of the former 21,841 synsets, those that DataComp asks for.
_CLASSES = {"imagenet-21k": "imagenet-22k", "imagenet-1k": "imagenet-1k"}
# How plurals end, and the singular: morphy(7WN), and -ves as NLTK has it.
_PLURALS = (
    *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch")),
    *(("shes", "sh"), ("men", "man"), ("ies", "y")),
)


@dataclass(eq=False)
class ImageNetWords(ColumnStage):
    """Adds the first word of each caption that is the name of a class of ImageNet.

    DataComp's rule (Gadre et al., 2023, text-based filter): words are what white space parts, with
    their punctuation, in any case; a word counts when the first of its synsets in WordNet 3.0 is
    a class. Plurals are reduced as WordNet does it.

    Parameters
    ----------
    caption_column : str, default "caption"
    classes : {"imagenet-21k", "imagenet-1k"}
        The 21,841 synsets that DataComp asks for, or the 1,000.
    wordnet : str or path, optional
        A folder with ``index.noun`` and ``noun.exc`` of WordNet 3.0, such as
        ``/usr/share/wordnet`` of Debian's ``wordnet-base``, which every worker sees. Default: the
        names of the classes as timm has them, which needs no file.

    Columns
    -------
    imagenet_word : string
        As the caption has it; null where there is none.

    Notes
    -----
    Without `wordnet` a word counts when any of its senses is a class, and plurals that are no rule
    ("geese") do not. With it nouns alone are looked up: DataComp's script compares offsets of
    verbs and adjectives, too, which mean other synsets.
    """

    caption_column: str = "caption"
    classes: str = "imagenet-21k"
    wordnet: str | os.PathLike[str] | None = None

    def check(self) -> None:
        """Refuse unusable parameters with `ConfigError`."""
        if self.classes not in _CLASSES:
            raise ConfigError(f"classes={self.classes!r} should be one of {', '.join(_CLASSES)}.")

    def columns(self) -> dict[str, pa.DataType]:
        """The column and its type."""
        return {WORD: pa.string()}

    def inputs(self) -> list[str]:
        """The captions."""
        return [self.caption_column]

    def config(self) -> dict[str, Any]:
        """What is looked for, and in what."""
        words = "timm" if self.wordnet is None else storage.normalise(self.wordnet)
        return {"classes": self.classes, "words": words, "caption_column": self.caption_column}

    def run(self, frame: Any) -> dict[str, Any]:
        """The column of a computed partition."""
        folder = None if self.wordnet is None else storage.normalise(self.wordnet)
        is_class = class_test(self.classes, folder)
        captions = texts_of(frame, self.caption_column)
        words = [
            next((word for word in (text or "").split() if is_class(word.lower())), None)
            for text in captions
        ]
        return {WORD: pa.array(words, pa.string())}


@functools.lru_cache(4)
def class_test(classes: str, wordnet: str | None) -> Callable[[str], bool]:
    """What tells of a word in lower case whether it is the name of a class.

    Raises
    ------
    NotFoundError
        When the files of WordNet are not there.
    """
    import_timm()
    from timm.data import ImageNetInfo

    info = ImageNetInfo(_CLASSES[classes])
    synsets = [int(name[1:]) for name in info.label_names()]
    if wordnet is None:
        nouns = {
            word.lower(): synset
            for place, synset in enumerate(synsets)
            for word in info.index_to_description(place).split(", ")
        }
        irregular: Mapping[str, list[str]] = {}
    else:
        nouns = dict(_first_senses(wordnet))
        irregular = {word: singular for word, *singular in _lines(wordnet, "noun.exc")}
    wanted = frozenset(synsets)

    @functools.lru_cache(1 << 16)
    def is_class(word: str) -> bool:
        noun = next((form for form in _forms(word, irregular, nouns) if form in nouns), None)
        return noun is not None and nouns[noun] in wanted

    return is_class


def _lines(folder: str, name: str) -> Iterator[list[str]]:
    """The fields of each line; the licence is indented."""
    content = storage.read_bytes(storage.join(folder, name)).decode()
    return (line.split() for line in content.splitlines() if not line.startswith(" "))


def _first_senses(folder: str) -> Iterator[tuple[str, int]]:
    """Each noun with the first of its synsets, the most frequent one: wndb(5WN)."""
    for fields in _lines(folder, "index.noun"):
        # lemma, part of speech, number of senses, and at the end as many offsets
        yield fields[0], int(fields[-int(fields[2])])


def _forms(
    word: str, irregular: Mapping[str, list[str]], nouns: Mapping[str, int]
) -> Iterator[str]:
    """What a word may be a form of, first itself: Morphy, the rules that WordNet looks words up by.

    Endings are taken off again as long as nothing is a noun.
    """
    yield word
    if word in irregular:
        yield from irregular[word]
        return
    forms = [word]
    while forms := [
        form.removesuffix(plural) + singular
        for form in forms
        for plural, singular in _PLURALS
        if form.endswith(plural)
    ]:
        yield from forms
