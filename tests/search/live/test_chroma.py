"""The private names of Chroma: that they are there, and do what they are used for."""

from __future__ import annotations

import chromadb
import pytest
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings

from nemo_image_curate.search.live import _chroma

SETTINGS = Settings(anonymized_telemetry=False)


def test_a_folder_that_could_not_be_opened_is_opened_anew(tmp_path):
    folder = str(tmp_path)
    chromadb.PersistentClient(folder, SETTINGS).close()
    database = tmp_path / "chroma.sqlite3"
    good = database.read_bytes()
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(Exception, match="database"):
        chromadb.PersistentClient(folder, SETTINGS)
    database.write_bytes(good)
    # When this no longer fails, `forget` has had its day.
    assert folder in SharedSystemClient._identifier_to_system
    with pytest.raises(AttributeError, match="bindings"):
        chromadb.PersistentClient(folder, SETTINGS)
    _chroma.forget(folder)
    assert folder not in SharedSystemClient._identifier_to_system
    client = chromadb.PersistentClient(folder, SETTINGS)
    assert client.get_or_create_collection("images", embedding_function=None).count() == 0
    client.close()


def test_other_folders_stay_open(tmp_path):
    client = chromadb.PersistentClient(str(tmp_path / "one"), SETTINGS)
    _chroma.forget(str(tmp_path / "other"))
    assert client.list_collections() == []
    client.close()
