"""Loose pictures, as people have them before they are packed."""

from __future__ import annotations

import pytest

from tests.make_data import jpeg

NAMES = ["a.JPEG", "b.jpg", "sub/c.png", "sub/größe 猫.webp"]


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders, among other files."""
    files = {
        "b.jpg": jpeg(1),
        "a.JPEG": jpeg(2),
        "sub/c.png": jpeg(3, kind="PNG"),
        "sub/größe 猫.webp": jpeg(4, kind="WEBP"),
        "notes.txt": b"no picture",
        "README": b"no picture either",
        ".DS_Store": b"nor this",
        "sub/archive.tar": b"nor that",
    }
    for name, content in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "photos"
