"""Makes nemo_image_curate/selection/imagenet_words.json of WordNet 3.0 and the list of classes.

.venv/bin/python ci/imagenet_words.py [/usr/share/wordnet]    (Debian's package wordnet-base)

Of WordNet's 57,000 nouns in one word it keeps those that are classes, and as many others and
irregular plurals as it takes to look up every word, and every plural, as in all of WordNet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.selection.imagenet_words import PLURALS, WORDS_FILE, noun_forms

Irregular = Mapping[str, list[str]]


def lines(file: Path) -> Iterator[list[str]]:
    """The fields of each line; the licence is indented."""
    return (line.split() for line in file.read_text().splitlines() if not line.startswith(" "))


def licence(file: Path) -> str:
    """What WordNet asks to stand in all copies."""
    numbered = [line.split(maxsplit=1) for line in file.read_text().splitlines() if line[0] == " "]
    return " ".join(word for _, *text in numbered for word in " ".join(text).split())


def noun_of(word: str, irregular: Irregular, nouns: Container[str]) -> str | None:
    """The noun that a word is a form of."""
    return next((form for form in noun_forms(word, irregular) if form in nouns), None)


def plurals(words: Iterable[str]) -> set[str]:
    """All words that become one of these when an ending is taken off."""
    return {
        word.removesuffix(singular) + plural
        for word in words
        for plural, singular in PLURALS
        if word.endswith(singular)
    }


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/wordnet")
    import_timm()
    from timm.data import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-22k")
    class_numbers = {int(name[1:]) for name in info.label_names()}
    # lemma, part of speech, number of senses, and at the end as many synsets: wndb(5WN)
    first_sense = {
        fields[0]: int(fields[-int(fields[2])]) for fields in lines(folder / "index.noun")
    }
    all_irregular = {word: singulars for word, *singulars in lines(folder / "noun.exc")}
    single = {word for word in first_sense if "_" not in word}
    classes = {word for word in single if first_sense[word] in class_numbers}
    once = plurals(classes)
    words = sorted(
        single | once | plurals(once) | {word for word in all_irregular if "_" not in word}
    )
    others: set[str] = set()
    irregular: dict[str, list[str]] = {}

    def wrong_words() -> Iterator[tuple[str, str | None]]:
        known = classes | others
        for word in words:
            noun = noun_of(word, all_irregular, first_sense)
            is_class = noun is not None and first_sense[noun] in class_numbers
            if (noun_of(word, irregular, known) in classes) != is_class:
                yield word, noun

    while wrong := list(wrong_words()):
        for word, noun in wrong:
            if word in all_irregular:
                irregular[word] = all_irregular[word]
            if noun is not None:
                # One irregular plural is that of two words, which stand nowhere else.
                (classes if first_sense[noun] in class_numbers else others).add(noun)
    text = json.dumps(
        {
            "licence": licence(folder / "index.noun"),
            "classes": " ".join(sorted(classes)),
            "others": " ".join(sorted(others)),
            "irregular": {word: " ".join(irregular[word]) for word in sorted(irregular)},
        },
        indent=1,
    )
    WORDS_FILE.write_text(text + "\n")
    print(f"{len(classes):,} classes, {len(others):,} others, {len(irregular):,} irregular plurals")


if __name__ == "__main__":
    main()
