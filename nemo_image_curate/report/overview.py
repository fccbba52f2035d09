"""What the dataset is, what its columns were made by, and how the report was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nemo_image_curate import html, storage
from nemo_image_curate.compute import workers
from nemo_image_curate.dataset.looking.summary_view import bytes_text
from nemo_image_curate.dataset.manifest import RUN_FILE
from nemo_image_curate.report.album import Album, Rows
from nemo_image_curate.report.settings import Settings
from nemo_image_curate.version import __version__

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset

TITLE = "Dataset"
# Hexadecimal digits of a file's SHA-256, which tell files apart.
_SHA_DIGITS = 12


@dataclass(frozen=True)
class Overview:
    """What the section shows.

    Attributes
    ----------
    rows, shards : int
    n_bytes : int or None
        Of all tars; None where one does not say.
    backend : str
    provenance : dict of str to dict
    run : dict
        What the last command wrote that changed the dataset; empty where none did.
    settings : Settings
    """

    rows: int
    shards: int
    n_bytes: int | None
    backend: str
    provenance: dict[str, Any]
    settings: Settings
    run: dict[str, Any] = field(default_factory=dict)


def gather(dataset: ImageTextPairDataset, settings: Settings) -> Overview:
    """Count rows and bytes, and read what made the columns."""
    _, sources = dataset.source()
    sizes = [source.tar.size for source in sources if source.tar is not None]
    return Overview(
        rows=len(dataset),
        shards=len(dataset.tar_files),
        n_bytes=sum(sizes) if len(sizes) == len(dataset.tar_files) else None,
        backend=dataset.backend,
        provenance=dataset.provenance,
        settings=settings,
        run=_run(dataset.metadata_path),
    )


def _run(folder: str) -> dict[str, Any]:
    """What the last command left beside the metadata; nothing where that is not to be read."""
    location = storage.join(folder, RUN_FILE)
    if storage.stat(location) is None:
        return {}
    try:
        run = storage.parse_json(storage.read_bytes(location))
    except ValueError:
        return {}
    return run if isinstance(run, dict) else {}


def pictures(data: Overview) -> Iterable[Rows]:
    """None."""
    return ()


def render(data: Overview, album: Album) -> str:
    """The section as HTML."""
    settings = data.settings
    size = "unknown" if data.n_bytes is None else bytes_text(data.n_bytes)
    figures = [("rows", f"{data.rows:,}"), ("shards", f"{data.shards:,}"), ("bytes of tars", size)]
    tiles = "".join(f"<div><dd>{value}</dd><dt>{name}</dt></div>" for name, value in figures)
    sizes = (
        f"Strips of {settings.pictures}, a random sample of {settings.sample}, seed "
        f"{settings.seed}; {len(album):,} pictures in all."
    )
    return (
        f"<dl class=figures>{tiles}</dl><p class=note>{sizes}</p>"
        f"{_provenance(data.provenance)}{_seconds(data.run)}{_versions(data)}"
    )


def _provenance(provenance: dict[str, Any]) -> str:
    """What each column was made by; columns of one stage stand together."""
    groups: dict[str, list[str]] = {}
    for column, record in provenance.items():
        if isinstance(record, dict) and "stage" in record:
            groups.setdefault(json.dumps(record, sort_keys=True), []).append(column)
    if not groups:
        return ""
    rows = []
    for text, columns in groups.items():
        record = json.loads(text)
        sha = str(record.get("weights_sha256") or record.get("sha256") or "")
        details = html.Markup(
            f"<details><summary>all</summary><pre>{html.escape(_pretty(record))}</pre></details>"
        )
        model = record.get("model") or record.get("model_name") or ""
        rows.append([", ".join(columns), record["stage"], model, sha[:_SHA_DIGITS], details])
    heads = ["columns", "stage", "model", "weights' SHA-256", "settings"]
    return "<h3>What the columns are made by</h3>" + html.table(heads, rows)


def _pretty(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True)


def _seconds(run: dict[str, Any]) -> str:
    """The jobs of the last command, with the seconds that each took."""
    stages = [stage for stage in run.get("stages") or [] if isinstance(stage, dict)]
    rows = [[stage.get("job", ""), stage["seconds"]] for stage in stages if stage.get("seconds")]
    if not rows:
        return ""
    title = f"The last command: {run.get('command')}"
    return f"<h3>{html.escape(title)}</h3>" + html.table(["job", "seconds"], rows)


def _versions(data: Overview) -> str:
    known = {"nemo_image_curate": __version__, **workers.versions()}
    versions = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    return f"<p class=note>Made with {html.escape(versions)}; frames on {data.backend}.</p>"
