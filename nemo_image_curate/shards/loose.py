"""Which files of folders are images, told by their bytes, and which texts stand beside them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nemo_image_curate.errors import DatasetError
from nemo_image_curate.shards.index import IMAGE_EXTENSIONS
from nemo_image_curate.shards.signatures import SIGNATURE_BYTES, image_ending

# Endings of the files that describe the image beside them: the first two give the caption, in this
# order, the others further columns.
BESIDE = ("txt", "caption", "json", "cls")
# Marks a folder of shards that were packed.
PACKED_MARK = "_pack.json"
_JUNK = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin"}
    | {"lost+found", "system volume information"}
)
# Their bytes say TIFF, but what a reader of TIFF finds in them is a thumbnail or nothing.
_RAW = frozenset("3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef".split())
_RAW |= frozenset("raf raw rw2 rwl sr2 srf srw x3f".split())
# Of these names hardly any file is something else, and if it is, decoding says so.
_PLAIN = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
_CANON_RAW = b"CR"
# As many names stand in a message.
SHOWN = 3


class LooseImage(NamedTuple):
    """An image file, the name that it goes by, and the files that describe it."""

    path: Path
    name: str
    beside: tuple[Path, ...] = ()
    # What its bytes say that it is; None where they say nothing or were not looked at.
    ending: str | None = None

    @property
    def extension(self) -> str:
        """What it is called in a tar; what it is, its bytes tell."""
        suffix = ending_of(self.path.name)
        return suffix if suffix in IMAGE_EXTENSIONS else self.ending or "jpg"


@dataclass
class LooseFiles:
    """What was found: each file is an image, or stands beside one, or was left out.

    Attributes
    ----------
    images : list of LooseImage
    beside : int
        How many texts stand beside an image.
    left_out : Counter
        How many files of each kind were left out; a folder that was not looked into counts as one.
    unreadable : list of str
        What went wrong, for each.
    """

    images: list[LooseImage] = field(default_factory=list)
    beside: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[LooseImage]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)


def find_images(paths: Sequence[str | os.PathLike[str]]) -> LooseFiles:
    """The image files that some paths name, and the texts beside them.

    Images are known by their bytes, whatever they are called; what is called as one is taken, too,
    and decoding will give the reason if it is none. ``NAME.txt``, ``NAME.caption``, ``NAME.json``
    and ``NAME.cls`` belong to the image ``NAME.*`` in their folder. Links are followed. Hidden
    files and those of file managers are left out.

    Parameters
    ----------
    paths : sequence of str or path
        Files, and folders of which all files are looked at.

    Returns
    -------
    LooseFiles
        In the order of `paths`, in a folder in that of names.

    Raises
    ------
    DatasetError
        When a path does not exist or there is no image at all.
    """
    search = _Search()
    for path in map(Path, paths):
        if path.is_dir():
            search.walk(path, path, ())
        elif os.path.lexists(path):
            search.look_at(path, path.name)
        else:
            raise DatasetError(f"{path} does not exist.")
    files = search.grouped({path.parent for path in map(Path, paths) if not path.is_dir()})
    if not files.images:
        places = ", ".join(printable(os.fspath(path)) for path in paths)
        raise DatasetError(f"no images in {places}: {told_left_out(files) or 'there is nothing'}.")
    return files


def told_left_out(files: LooseFiles) -> str:
    """What was left out, in words; empty when nothing was."""
    kinds = [f"{count:,} {kind}" for kind, count in sorted(files.left_out.items())]
    unreadable = [f"{len(files.unreadable):,} unreadable: {'; '.join(files.unreadable[:SHOWN])}"]
    parts = kinds + (unreadable if files.unreadable else [])
    return f"left out: {', '.join(parts)}" if parts else ""


def printable(name: str) -> str:
    r"""A file's name with the bytes escaped that are no UTF-8 (``caf\xe9``), as in `index`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def ending_of(name: str) -> str:
    """What stands behind the last dot of a name, in lower case."""
    return os.path.splitext(name)[1].lower().removeprefix(".")


class _Search:
    """Gathers files, then brings texts to their images."""

    def __init__(self) -> None:
        self.files = LooseFiles()
        # By the path without ending, and the ending.
        self.texts: dict[tuple[str, str], Path] = {}
        self.seen: set[str] = set()

    def walk(self, folder: Path, root: Path, above: tuple[tuple[int, int], ...]) -> None:
        """Look at all files of a folder in the order of their names; `above` it are these."""
        try:
            status = os.stat(folder)
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self._unreadable(folder, error)
            return
        identity = status.st_dev, status.st_ino
        if identity in above:
            self.files.left_out["link to a folder above it"] += 1
            return
        if above and any(entry.name == PACKED_MARK for entry in entries):
            self.files.left_out["folder of packed shards"] += 1
            return
        prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        for entry in entries:
            is_folder = _is_folder(entry)
            if _is_junk(entry.name):
                kind = "hidden or system folder" if is_folder else "hidden or system file"
                self.files.left_out[kind] += 1
            elif is_folder:
                self.walk(Path(entry.path), root, (*above, identity))
            else:
                self.look_at(Path(entry.path), prefix + entry.name, self._is_plain(entry.name))

    @staticmethod
    def _is_plain(name: str) -> bool:
        """Whether a name in a folder is believed: opening a file costs as much as packing it."""
        ending = ending_of(name)
        return ending in BESIDE or ending in _PLAIN

    def look_at(self, path: Path, name: str, is_plain: bool = False) -> None:
        """Decide what one file is; if `is_plain`, by its name and size."""
        place = os.path.abspath(path)
        if place in self.seen:
            self.files.left_out["named twice"] += 1
            return
        self.seen.add(place)
        ending = ending_of(path.name)
        try:
            status = os.stat(path)
            # Opening a pipe would wait for ever.
            if not stat.S_ISREG(status.st_mode):
                self.files.left_out["pipe or device"] += 1
                return
            if is_plain and status.st_size:
                head = b"not looked at"
            else:
                with open(path, "rb") as file:
                    head = file.read(SIGNATURE_BYTES)
        except OSError as error:
            self._unreadable(path, error)
            return
        kind = None if is_plain else image_ending(head)
        is_raw = ending in _RAW and kind in (None, "tif")
        if is_raw or (kind == "tif" and head[8:10] == _CANON_RAW):
            self.files.left_out[f"{ending} (camera raw: convert to TIFF or JPEG)"] += 1
        elif kind is not None or (ending in IMAGE_EXTENSIONS and head):
            self.files.images.append(LooseImage(path, printable(name), ending=kind))
        elif ending in BESIDE:
            self.texts[os.path.splitext(place)[0], ending] = path
        elif not head:
            self.files.left_out["empty"] += 1
        else:
            self.files.left_out[ending or "without ending"] += 1

    def grouped(self, folders: set[Path]) -> LooseFiles:
        """All files, texts with their images; images of `folders` have theirs looked for there."""
        taken: set[Path] = set()
        for row, image in enumerate(self.files.images if self.texts or folders else ()):
            beside = [
                path
                for ending in BESIDE
                if (path := self._text_of(image.path, ending, image.path.parent in folders))
            ]
            taken.update(beside)
            self.files.images[row] = image._replace(beside=tuple(beside))
        self.files.beside = len(taken)
        for (_, ending), path in self.texts.items():
            if path not in taken:
                self.files.left_out[f"{ending} (no image of that name)"] += 1
        return self.files

    def _text_of(self, path: Path, ending: str, on_disk: bool) -> Path | None:
        place = os.path.abspath(path)
        for stem in dict.fromkeys((os.path.splitext(place)[0], place)):
            text = self.texts.get((stem, ending))
            if text is None and on_disk and os.path.isfile(f"{stem}.{ending}"):
                text = Path(f"{stem}.{ending}")
            if text is not None:
                return text
        return None

    def _unreadable(self, path: Path, error: OSError) -> None:
        self.files.unreadable.append(f"{printable(str(path))} ({error.strerror or error})")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK
