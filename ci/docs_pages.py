"""What mkdocs makes of `nemo_image_curate/catalog.py` while it builds the documentation.

A hook of mkdocs.yml. docs/api.md, which ci/public_names.py writes, is the table of all public
names. For each folder of the package a page is added here, with the docstring of each name, and
the names in the table become links to them. So is the page of commands (docs_commands.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docs_commands import commands_page
from mkdocs.structure.files import File, Files

from nemo_image_curate import catalog

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "nemo_image_curate"
TABLE = "api.md"
# Not public names of the package itself, but of a folder or module.
MORE = {
    "decode": ["decode.batch.DecodedBatch", "decode.header.ImageHeader"],
    "errors": ["errors"],
    "frames": [
        "frames.to_arrow",
        "frames.embedding_array",
        "frames.embedding_column",
        "frames.embedding_type",
        "frames.scatter",
    ],
    "serve": ["serve.app.create_app", "serve.server.run_service", "serve.settings.Settings"],
    "stages": ["stages.base.no_effect"],
}
# What lies outside docs/ and is part of the documentation, too.
OUTSIDE = {
    "changelog.md": "CHANGELOG.md",
    "how-to/slurm.md": "tutorials/slurm/README.md",
    "how-to/curate.sbatch": "tutorials/slurm/curate.sbatch",
}


def identifiers() -> dict[str, list[str]]:
    """What each page documents, by the folder that it is of."""
    pages: dict[str, list[str]] = {}
    for name, entry in sorted(catalog.PUBLIC.items()):
        pages.setdefault(entry.module.partition(".")[0], []).append(f"{entry.module}.{name}")
    for folder, names in MORE.items():
        pages.setdefault(folder, []).extend(names)
    return dict(sorted(pages.items()))


def page(folder: str, names: list[str]) -> str:
    """The Markdown of a page of the reference."""
    parts = [f"# {folder}"]
    for name in names:
        parts.append(f"::: {PACKAGE}.{name}")
    return "\n\n".join(parts) + "\n"


def on_config(config: Any) -> Any:
    """Put the pages below the table in the navigation."""
    for section in config.nav:
        if isinstance(section, dict) and "Reference" in section:
            entries = section["Reference"]
            place = entries.index(TABLE) + 1
            entries[place:place] = [f"api/{folder}.md" for folder in identifiers()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the reference, and what lies outside of docs/."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    for folder, names in identifiers().items():
        files.append(File.generated(config, f"api/{folder}.md", content=page(folder, names)))
    for path, source in OUTSIDE.items():
        # The changelog's links are those of the folder that it lies in.
        text = (ROOT / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Link the names of the table with what is said of them."""
    if page.file.src_uri != TABLE:
        return markdown

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"| [`{name}`][{PACKAGE}.{catalog.PUBLIC[name].module}.{name}] |"

    return re.sub(r"^\| `(\w+)` \|", link, markdown, flags=re.M)
