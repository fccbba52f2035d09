#!/usr/bin/env python3
"""Build the documentation, strictly: a warning, a dead link or a dead anchor fails.

    .venv/bin/python ci/docs.py            build site/
    .venv/bin/python ci/docs.py --check    build it in a temporary folder, and look at the result
    .venv/bin/python ci/docs.py --serve    show it at http://127.0.0.1:8000 while it is written

Links between pages are checked by mkdocs itself; those that lead out are not followed. What is
looked at besides: that every public name of `nemo_image_curate/catalog.py` has its entry in the
reference, and that pages load nothing from elsewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from nemo_image_curate import catalog

ROOT = Path(__file__).resolve().parent.parent
# What a browser fetches by itself.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(https?:)?//[^\"'\s>]*"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|icon|preload)[^>]*\bhref=[\"']?(https?:)?//"
)


def build(*options: str) -> None:
    """Build the site; this process ends with mkdocs's warnings, if there are any."""
    # Not --quiet: warnings that are not shown do not count as faults.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *options]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"docs: the documentation has faults:\n{done.stdout}{done.stderr}")


def faults(site: Path) -> list[str]:
    """What is wrong with a built site."""
    messages = []
    pages = {path.relative_to(site): path.read_text() for path in site.rglob("*.html")}
    reference = "".join(text for path, text in pages.items() if path.parts[0] == "api")
    for name, entry in catalog.PUBLIC.items():
        if f'id="nemo_image_curate.{entry.module}.{name}"' not in reference:
            messages.append(f"{name} is not in the reference")
    for path, text in pages.items():
        messages += [f"{path} loads {match[0]}" for match in LOADED.finditer(text)]
    return messages


def main(*arguments: str) -> None:
    if "--serve" in arguments:
        subprocess.run([sys.executable, "-m", "mkdocs", "serve"], cwd=ROOT, check=True)
        return
    if "--check" not in arguments:
        build()
        return
    with tempfile.TemporaryDirectory() as folder:
        build("--site-dir", folder)
        if messages := faults(Path(folder)):
            sys.exit("docs: " + "\n".join(messages))


if __name__ == "__main__":
    main(*sys.argv[1:])
