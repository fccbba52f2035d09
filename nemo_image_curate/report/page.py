"""A report: what sections gather of a dataset, put into one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from nemo_image_curate import html, storage
from nemo_image_curate.dataset.looking import scatter
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.outputs import check_output
from nemo_image_curate.report.album import Album
from nemo_image_curate.report.compare import names_of
from nemo_image_curate.report.sections import SECTIONS, Section
from nemo_image_curate.report.settings import Settings

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.selection.subsets.result import SubsetComparison

# Each uses only what comes before it.
SCRIPTS = ("elements", "pictures", "axis", "columns", "eps", "map", "recipe")
# Bytes in which an HTML file says what it is, after comments at most.
_PAGES_BEGIN = 4096


def write_report(
    dataset: ImageTextPairDataset,
    path: str | os.PathLike[str],
    *,
    against: ImageTextPairDataset | None = None,
    references: Mapping[str, ImageTextPairDataset] | None = None,
    comparison: SubsetComparison | str | os.PathLike[str] | None = None,
    where: str | Sequence[str] = (),
    columns: Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    pictures: int = 12,
    seed: int = 0,
    progress: bool | None = None,
) -> None:
    """Write what a dataset looks like as one HTML file that needs no other.

    Parameters
    ----------
    dataset : ImageTextPairDataset
        What `dataset.filter` dropped is shown, too, as dropped.
    path : str or path
        Of the file; it may be a URL.
    against : ImageTextPairDataset, optional
        Another dataset, or another run, to compare with.
    references : mapping of str to ImageTextPairDataset, optional
        What `Decontaminate` compared with, by the names there: leaks are shown beside pictures of
        those that are given.
    comparison : SubsetComparison or path, optional
        What `compare_subsets` gave, or the file that it was saved in, to be shown.
    where : str or sequence of str, optional
        Further conditions, as `dataset.filter` takes them; the page shows what each would drop.
    columns : sequence of str, optional
        Columns that get a section of their own. Default: all of numbers or few values.
    thresholds : mapping of str to float, optional
        Where to look for the borderline of a column. Default: where conditions draw it, else at
        the median.
    pictures : int, default 12
        How many pictures each strip has.
    seed : int, default 0
        Of the random choices.
    progress : bool, optional
        Show progress bars. Default: on a terminal.

    Raises
    ------
    ColumnNotFoundError, ConfigError
        When a column or a condition is unusable.
    """
    before, conditions = dataset.unfiltered()
    conditions += (where,) if isinstance(where, str) else tuple(where)
    settings = Settings(
        conditions=conditions,
        columns=tuple(columns),
        thresholds=dict(thresholds or {}),
        seed=seed,
        pictures=pictures,
        against=against,
        references=dict(references or {}),
        comparison=_comparison(comparison),
        progress=progress,
    )
    settings.check(dataset)
    location = storage.normalise(path)
    _check_place(location)
    text = report_page(dataset.replace(before), settings)
    storage.write_bytes(location, text.encode())


def _comparison(
    comparison: SubsetComparison | str | os.PathLike[str] | None,
) -> SubsetComparison | None:
    """A comparison of subsets, read where its file is named."""
    if isinstance(comparison, str | os.PathLike):
        from nemo_image_curate.selection.subsets.result import SubsetComparison

        return SubsetComparison.load(comparison)
    return comparison


def _check_place(location: str) -> None:
    """Refuse a place that cannot be written to, and to replace what is no page, such as a shard."""
    check_output(location, is_folder=False)
    there = storage.stat(location)
    if there is None or not there.size:
        return
    with storage.open_read(location) as file:
        start = file.read(_PAGES_BEGIN)
    if b"<html" not in start.lower():
        raise ConfigError(f"{location} exists and is no HTML file. Choose another name.")


def report_page(dataset: ImageTextPairDataset, settings: Settings) -> str:
    """The page as HTML.

    Parameters
    ----------
    dataset : ImageTextPairDataset
        Before the conditions of `settings`.
    settings : Settings
    """
    album = Album(settings)
    gathered: list[tuple[Section, Any]] = []
    for section in SECTIONS:
        if (data := section.gather(dataset, settings)) is not None:
            gathered.append((section, data))
            for rows in section.pictures(data):
                album.add(rows)
    album.read()
    # Runs on the same shards differ by where their metadata are.
    place = dataset.metadata_path
    name = place.rstrip("/").rpartition("/")[2] or place
    subtitle = place if place == dataset.path else f"{place}, images in {dataset.path}"
    if settings.against is not None:
        name = " against ".join(names_of(dataset, settings.against))
        subtitle += f"; against {settings.against.metadata_path}"
    parts = [
        (_identifier(section.TITLE), section.TITLE, section.render(data, album))
        for section, data in gathered
    ]
    parts.append(("pictures", "All pictures", _entries(album)))
    links = "".join(f'<a href="#{anchor}">{html.escape(title)}</a>' for anchor, title, _ in parts)
    sections = "".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">'
        f"{html.escape(title)}</h2>{body}</section>"
        for anchor, title, body in parts
    )
    body = (
        f"<header><h1>{html.escape(name)}</h1>"
        f"<p class=note>{html.escape(subtitle)}</p></header>"
        f'<nav aria-label="Sections">{links}</nav><main>{sections}</main>{album.symbols()}'
    )
    return html.page(f"{name}: report", body, _script(), _file("page.css") + _file("sections.css"))


def _entries(album: Album) -> str:
    """All entries, folded; a link to one opens them."""
    if not len(album):
        return "<p>None.</p>"
    summary = f"{len(album):,} pictures with all that is known of them, by shard and key"
    return f"<details><summary>{summary}</summary>{album.entries()}</details>"


def _identifier(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _script() -> str:
    """All scripts as one, whose names no other script sees."""
    scripts = (_file(f"scripts/{name}.js") for name in SCRIPTS)
    code = "\n".join([scatter.script("choosing"), *scripts])
    return f'(() => {{\n"use strict";\n{code}}})();\n'


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
