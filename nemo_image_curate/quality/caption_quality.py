"""`CaptionQuality`: captions that are names of files, boilerplate, or no words at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nemo_image_curate.quality.caption_patterns import (
    BOILERPLATE,
    FILE_NAMES,
    WHITE_SPACE,
    check_patterns,
    matches,
    normalised,
)
from nemo_image_curate.quality.captions import captions_of
from nemo_image_curate.stages.base import ColumnStage

LETTERS = "caption_letters"
IS_FILE_NAME, IS_BOILERPLATE = "is_filename_caption", "is_boilerplate_caption"
# Marks are letters, too: vowels of many scripts are.
_NO_LETTER = r"[^\p{L}\p{M}]+"


@dataclass(eq=False)
class CaptionQuality(ColumnStage):
    """Adds flags of captions that tell nothing of their image.

    Parameters
    ----------
    caption_column : str, default "caption"
    boilerplate : sequence of str, default ()
        More patterns of boilerplate, as regular expressions of RE2, which are looked for in
        captions in lower case and with one space between words: ``["^buy .* online$"]``.

    Columns
    -------
    caption_letters : float32
        The part of its characters that are letters, white space left out: 0 to 1; null where
        there is no other character.
    is_filename_caption : bool
        The caption is the name of a file as cameras and websites give it, or an address.
    is_boilerplate_caption : bool
        It is what publishing systems, cameras and buttons say, such as ``click to enlarge``.

    Flags are null where there is no caption. The patterns and where each was met are data:
    `nemo_image_curate.quality.caption_patterns`. Of Flickr8k's first 7,500 captions, which people
    wrote, none is flagged.

    Examples
    --------
    >>> ds = CaptionQuality()(ds)  # doctest: +SKIP
    >>> ds = ds.filter("not is_filename_caption and caption_letters > 0.5")  # doctest: +SKIP
    """

    caption_column: str = "caption"
    boilerplate: Sequence[str] = ()

    def check(self) -> None:
        """Refuse unusable patterns with `ConfigError`."""
        check_patterns(self.boilerplate)

    def columns(self) -> dict[str, pa.DataType]:
        """The columns and their types."""
        return {LETTERS: pa.float32(), IS_FILE_NAME: pa.bool_(), IS_BOILERPLATE: pa.bool_()}

    def inputs(self) -> list[str]:
        """The captions."""
        return [self.caption_column]

    def config(self) -> dict[str, Any]:
        """The captions, and all patterns."""
        return {
            "caption_column": self.caption_column,
            "file_names": [pattern.regex for pattern in FILE_NAMES],
            "boilerplate": self._boilerplate(),
        }

    def _boilerplate(self) -> list[str]:
        return [*(pattern.regex for pattern in BOILERPLATE), *self.boilerplate]

    def run(self, frame: Any) -> dict[str, Any]:
        """The columns of a computed partition."""
        captions = captions_of(frame, self.caption_column)
        texts = normalised(captions)
        return {
            LETTERS: _letters(captions),
            IS_FILE_NAME: matches(texts, [pattern.regex for pattern in FILE_NAMES]),
            IS_BOILERPLATE: matches(texts, self._boilerplate()),
        }


def _letters(captions: pa.Array) -> pa.Array:
    def left(pattern: str) -> pa.Array:
        rest = pc.replace_substring_regex(captions, pattern, "")
        return pc.cast(pc.utf8_length(rest), pa.float64())

    characters = left(WHITE_SPACE)
    divisor = pc.if_else(pc.equal(characters, 0), pa.scalar(None, pa.float64()), characters)
    return pc.cast(pc.divide(left(_NO_LETTER), divisor), pa.float32())
