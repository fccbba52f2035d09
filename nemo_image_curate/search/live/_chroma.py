"""Every private name of Chroma that this package touches; its test names them again."""

from __future__ import annotations


def forget(folder: str) -> None:
    """Have Chroma open a folder anew.

    What could not start (chromadb 1.5.9) would be taken for started the next time; Chroma's own
    `clear_system_cache` would take away the other folders' databases, too.
    """
    from chromadb.api.shared_system_client import SharedSystemClient

    SharedSystemClient._identifier_to_system.pop(folder, None)
