"""Captions from a table of file names, and which image each of its lines means."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
import posixpath
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.shards.loose import SHOWN, LooseImage
from nemo_image_curate.shards.texts import decode_text, guess_encodings

_FILE_NAMES = ("image", "file", "filename", "file_name", "path")
CAPTION_NAMES = ("caption", "text")
_DELIMITERS = ",\t;"
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)

logger = logging.getLogger(__name__)


def read_captions(
    path: str | os.PathLike[str], encoding: str | None = None
) -> dict[str, list[str]]:
    """Captions by file name from a CSV or TSV file with a header, such as ``image,caption``.

    An image may have several lines, one caption each. Other columns are left out, which is
    logged.

    Parameters
    ----------
    path : str or path
    encoding : str, optional
        Default: what a byte order mark says, else UTF-8.

    Raises
    ------
    ConfigError
        When there is no such encoding.
    DatasetError
        Naming the file and the columns it has, when the needed ones are missing; the lines, when
        they have more or fewer fields than the header or a quote is not closed; line and byte,
        when it is written in another encoding.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
    rows = _rows(_of_table(content, path, encoding), path)
    names = [name.strip() for name in rows[0][1]] if rows else []
    image = next((at for at, name in enumerate(names) if name.lower() in _FILE_NAMES), None)
    caption = next((at for at, name in enumerate(names) if name.lower() in CAPTION_NAMES), None)
    if image is None or caption is None:
        raise DatasetError(
            f"{path}: needs a column of file names ({' or '.join(_FILE_NAMES)}) and one of "
            f"captions ({' or '.join(CAPTION_NAMES)}); it has: {', '.join(names)}."
        )
    others = [name for at, name in enumerate(names) if at not in (image, caption)]
    if others:
        logger.warning("%s: columns that are left out: %s", path, ", ".join(others))
    captions: dict[str, list[str]] = {}
    for _, row in rows[1:]:
        captions.setdefault(row[image], []).append(row[caption])
    return captions


def check_encoding(encoding: str | None) -> None:
    """Refuse the name of an encoding that Python does not know.

    Raises
    ------
    ConfigError
    """
    try:
        b"a".decode(encoding or "utf-8")
    except LookupError as error:
        raise ConfigError(
            f"encoding={encoding!r} is no encoding of texts. Examples: latin-1, cp1252, shift_jis, "
            "gb18030, utf-16-le."
        ) from error
    except UnicodeDecodeError:
        # Its letters have several bytes.
        return


def decoded(content: bytes, encoding: str | None) -> str | None:
    """The text of a file, or None when it is not in that encoding, or in no certain one."""
    if encoding is None or content.startswith(_MARKS):
        return decode_text(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _of_table(content: bytes, path: str | os.PathLike[str], encoding: str | None) -> str:
    check_encoding(encoding)
    text = decoded(content, encoding)
    # No table holds zero bytes, but every second byte of English in UTF-16 is one.
    if text is not None and "\0" not in text:
        return text
    guesses = guess_encodings(content) or ["latin-1"]
    start = content.find(0)
    if start >= 0:
        guesses = ["utf-16-le" if start % 2 else "utf-16-be"]
    else:
        try:
            content.decode(encoding or "utf-8")
        except UnicodeDecodeError as error:
            start = error.start
    line = content.count(b"\n", 0, start) + 1
    raise DatasetError(
        f"{path}: line {line} holds the byte 0x{content[start]:02x}, which is not "
        f"{encoding or 'UTF-8'}. Say what it is written in (--encoding NAME; it could be "
        f"{', '.join(guesses)}) or convert it: iconv -f {guesses[0].upper()} -t UTF-8 '{path}' "
        "> utf8.csv"
    )


def _rows(text: str, path: str | os.PathLike[str]) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, with their numbers, all with as many fields as the first."""
    header = text.split("\n", 1)[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=header.count), strict=True
    )
    limit = csv.field_size_limit(sys.maxsize)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            f"{path}: line {line}: a quote is not closed, or something stands behind the closing "
            f"one ({error}). A quote inside a quoted caption is written twice."
        ) from error
    finally:
        csv.field_size_limit(limit)
    odd = [(number, len(row)) for number, row in rows if len(row) != len(rows[0][1])]
    if odd:
        lines = ", ".join(f"line {number} ({fields})" for number, fields in odd[:SHOWN])
        raise DatasetError(
            f"{path}: {len(odd):,} of {len(rows) - 1:,} rows have more or fewer fields than the "
            f"{len(rows[0][1])} of the header: {lines}. A caption that holds the separator goes "
            'into quotes: 0.jpg,"A dog, running"'
        )
    return rows


@dataclass
class Matches:
    """Which captions go to which images.

    Attributes
    ----------
    captions : dict of int to sequence of str
        By the image's number.
    unmatched : list of str
        Names that no image goes by.
    ambiguous : list of str
        Names that several images go by, or that mean an image which another name means, too.
    """

    captions: dict[int, list[str]] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)


def match_names(images: Sequence[LooseImage], captions: Mapping[str, Sequence[str]]) -> Matches:
    """Find the image that each name of a table means.

    A name is that of an image as it is, or with other folders before it, backslashes, letters in
    the other case, or without ending, where only one image and one name go together so.
    """
    matches = Matches()
    spellings = [_Spelling(images, *how) for how in ((_plain, False), (_folded, False))]
    spellings += [_Spelling(images, *how) for how in ((_plain, True), (_folded, True))]
    exact: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        exact.setdefault(image.name, []).append(number)
    names: dict[int, list[str]] = {}
    for name in captions:
        hits = exact.get(name) or next(
            filter(None, (spelling.hits(name) for spelling in spellings)), []
        )
        if len(hits) == 1:
            names.setdefault(hits[0], []).append(name)
        else:
            (matches.ambiguous if hits else matches.unmatched).append(name)
    for number, rivals in names.items():
        # The image's very name counts more than what it could mean, too.
        chosen = [name for name in rivals if name == images[number].name] or rivals
        if len({_plain(name) for name in chosen}) > 1:
            chosen = []
        texts = [text for name in chosen for text in captions[name]]
        if texts:
            matches.captions[number] = texts
        matches.ambiguous += [name for name in rivals if name not in chosen]
    return matches


class _Spelling:
    """One way to compare names, with the images by it; made when it is first needed."""

    def __init__(
        self, images: Sequence[LooseImage], fold: Callable[[str], str], without_ending: bool
    ):
        self.images = images
        self.fold = fold
        self.without_ending = without_ending
        self.by_base: dict[str, list[int]] | None = None

    def hits(self, name: str) -> list[int]:
        """The images that a name can mean."""
        if self.by_base is None:
            self.by_base = {}
            for number, image in enumerate(self.images):
                base = posixpath.basename(self._image(image.name))
                self.by_base.setdefault(base, []).append(number)
        wanted = self.fold(name)
        candidates = self.by_base.get(posixpath.basename(wanted), [])
        return [number for number in candidates if self._goes_with(self.images[number], wanted)]

    def _goes_with(self, image: LooseImage, wanted: str) -> bool:
        """Whether a name says the end of the image's path, or the image's name the name's end."""
        place = self._image(os.path.abspath(image.path))
        name = self._image(image.name)
        return f"/{place}".endswith(f"/{wanted}") or f"/{wanted}".endswith(f"/{name}")

    def _image(self, name: str) -> str:
        folded = self.fold(name)
        return posixpath.splitext(folded)[0] if self.without_ending else folded


def _plain(name: str) -> str:
    """With slashes, and with letters composed, which macOS takes apart."""
    name = unicodedata.normalize("NFC", name.strip().replace("\\", "/"))
    return posixpath.normpath(name).lstrip("/") if name else ""


def _folded(name: str) -> str:
    return _plain(name).casefold()
