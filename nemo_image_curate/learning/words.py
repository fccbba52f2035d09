"""`Words`: the words of captions, counted beside what a text encoder makes of their meaning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# A word that fewer captions have teaches nothing.
_FEWEST_CAPTIONS = 5
_MOST_WORDS = 2000
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Words:
    """A vocabulary with the weight of each word.

    Attributes
    ----------
    words : tuple of str
        In lower case, in alphabetical order.
    weights : numpy.ndarray of float32, shape (n,)
        The logarithm of how many captions there are for each that has the word (Spärck Jones, "A
        statistical interpretation of term specificity and its application in retrieval", 1972).
    """

    words: tuple[str, ...]
    weights: np.ndarray

    @classmethod
    def of(cls, captions: Iterable[str]) -> Words:
        """The words that 5 captions or more have; of more than 2,000 the most frequent."""
        counts: Counter[str] = Counter()
        total = 0
        for caption in captions:
            counts.update(_words(caption))
            total += 1
        frequent = [word for word, count in counts.items() if count >= _FEWEST_CAPTIONS]
        words = sorted(sorted(frequent, key=lambda word: (-counts[word], word))[:_MOST_WORDS])
        weights = [np.log(total / counts[word]) for word in words]
        return cls(tuple(words), np.array(weights, np.float32))

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Which words texts have, (n, words), of unit length; zero where none is known."""
        columns = {word: column for column, word in enumerate(self.words)}
        vectors = np.zeros((len(texts), len(columns)), np.float32)
        for row, text in enumerate(texts):
            known = [columns[word] for word in _words(text) if word in columns]
            vectors[row, known] = self.weights[known]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
