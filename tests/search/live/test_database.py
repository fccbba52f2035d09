"""How a live store's folder is opened, claimed, and let go of."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nemo_image_curate.errors import ConfigError, DatasetError, EncoderMismatchError
from nemo_image_curate.search.live.store import ChromaStore
from tests.make_data import jpeg
from tests.search.make_search import WordEmbedder, thumbs


def keys_of(store: ChromaStore, number: int) -> list[str]:
    (hits,) = store.images.nearest(thumbs([number]), 3)
    return [hit.key for hit in hits]


def test_what_was_added_is_there_again_after_opening(tmp_path):
    first = ChromaStore(tmp_path, WordEmbedder())
    first.add_images(["a"], [jpeg(1)], ["caption"])
    first.close()
    first.close()
    second = ChromaStore(str(tmp_path), WordEmbedder())
    assert keys_of(second, 1) == ["a"]
    assert second.image("a") == jpeg(1)
    second.close()


def test_vectors_of_another_encoder_are_refused(tmp_path):
    first = ChromaStore(tmp_path, WordEmbedder())
    assert first.images.encoder == "thumb"
    first.close()
    other = ChromaStore(tmp_path, WordEmbedder("other"))
    with pytest.raises(EncoderMismatchError, match=r"'thumb'.*'other'"):
        len(other.images)
    # It did not keep the folder from others.
    assert len(first.images) == 0
    first.close()


def test_another_process_is_refused(store):
    store.add_images(["a"], [jpeg(1)])
    program = (
        "from nemo_image_curate.search.live.store import ChromaStore\n"
        "from tests.search.make_search import WordEmbedder\n"
        f"ChromaStore({str(store.path)!r}, WordEmbedder()).image('a')"
    )
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "another process" in refused.stderr


def test_a_damaged_store_is_named_and_opens_again_when_put_right(tmp_path):
    store = ChromaStore(tmp_path, WordEmbedder())
    store.add_images(["a"], [jpeg(1)])
    store.close()
    database = tmp_path / "chroma.sqlite3"
    good = database.read_bytes()
    for bad in (b"no database" * 1000, good[:5000], good[:100] + b"\xff" * (len(good) - 100)):
        database.write_bytes(bad)
        for _ in range(2):
            with pytest.raises(DatasetError, match="is damaged"):
                len(store.images)
    database.write_bytes(good)
    assert len(store.images) == 1
    store.close()


def test_a_store_needs_a_local_folder_it_can_write(tmp_path):
    with pytest.raises(ConfigError, match="Give path="):
        len(ChromaStore("s3://bucket/store", WordEmbedder()).images)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot create"):
        len(ChromaStore(tmp_path / "file" / "store", WordEmbedder()).images)
