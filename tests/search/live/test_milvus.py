"""What only Milvus' store does: its files, its limits, and many processes at one server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from milvus_lite.server_manager import server_manager_instance
from pymilvus.grpc_gen.milvus_pb2_grpc import add_MilvusServiceServicer_to_server

from nemo_image_curate.errors import (
    ConfigError,
    DatasetError,
    EncoderMismatchError,
    UnavailableError,
)
from nemo_image_curate.search.live import milvus
from nemo_image_curate.search.live.base import LiveStore
from nemo_image_curate.search.live.milvus_conditions import column_of, field_of, milvus_condition
from nemo_image_curate.search.live.store import MilvusStore
from tests.make_data import jpeg
from tests.search.make_search import WordEmbedder, embedded_dataset, thumbs


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """The URI of a Milvus that many may use; like a real one it lets clients ask if it lives."""
    options = (("grpc.http2.min_ping_interval_without_data_ms", 1000),)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, options=options)
        database = MilvusLite(str(tmp_path_factory.mktemp("server")))
        add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"http://127.0.0.1:{port}"
        server.stop(grace=1).wait()
        database.close()


def keys_of(store: LiveStore, number: int, k: int, where: str | None = None) -> list[str]:
    (hits,) = store.images.nearest(thumbs([number]), k, where)
    return [hit.key for hit in hits]


def test_files_hold_what_was_added_and_are_let_go_of(tmp_path):
    place = tmp_path / "live.db"
    with pytest.raises(ConfigError, match=r"ends in \.db"):
        MilvusStore(tmp_path / "live", WordEmbedder())
    first = MilvusStore(place, WordEmbedder())
    assert (len(first.images), first.images.encoder) == (0, "thumb")
    assert first.images.nearest(thumbs([1]), 3) == [[]]
    first.add_images(["a"], [jpeg(1)], ["caption"])
    with pytest.raises(DatasetError, match="another process"):
        len(MilvusStore(place, WordEmbedder()).images)
    first.close()
    first.close()
    assert not server_manager_instance._servers
    with pytest.raises(EncoderMismatchError, match=r"'thumb'.*'other'"):
        len(MilvusStore(place, WordEmbedder("other")).images)
    second = MilvusStore(str(place), WordEmbedder())
    assert keys_of(second, 1, 3) == ["a"]
    assert second.image("a") == jpeg(1)
    second.close()


def test_processes_share_a_server(server, tmp_path):
    contents = tmp_path / "contents"
    one = MilvusStore(server, WordEmbedder(), contents=contents, name="shared")
    two = MilvusStore(server, WordEmbedder(), contents=contents, name="shared")
    assert one.add_images(["a", "b"], [jpeg(1), jpeg(2)]) == [None, None]
    assert keys_of(two, 2, 5) == ["b", "a"]
    assert two.image("a") == jpeg(1)
    assert two.remove(["a"]) == 1
    assert len(one.images) == 1
    bare = MilvusStore(server, WordEmbedder(), name="bare")
    with pytest.raises(ConfigError, match="contents="):
        bare.add_images(["a"], [jpeg(1)])
    assert bare.add_texts(["a"], ["1"]) == [None]
    for store in (one, two, bare):
        store.close()


def test_workers_load_into_a_server_by_themselves(server, tmp_path, client):
    dataset, _ = embedded_dataset(tmp_path, (4, 3, 2))
    store = MilvusStore(server, WordEmbedder(), name="loaded")
    loaded = store.add_dataset(dataset)
    assert (loaded.rows, loaded.added) == (9, 9)
    assert store.add_dataset(dataset) == loaded
    assert len(store.images) == 9
    assert keys_of(store, 2001, 1, "width > 30") == ["000020001"]
    store.close()


def test_more_than_milvus_gives_at_once_comes_from_a_scan(server):
    store = MilvusStore(server, WordEmbedder(), name="scanned")
    store.add_texts([f"{number:02d}" for number in range(30)], [str(n) for n in range(30)])
    whole = store.texts.nearest(thumbs([7, 8]), 12, "key != '09'", with_vectors=True)
    store._database.collection("texts")._most_hits = 5
    scanned = store.texts.nearest(thumbs([7, 8]), 12, "key != '09'", with_vectors=True)
    assert scanned == whole
    np.testing.assert_array_equal(scanned[0][3].vector, whole[0][3].vector)
    store.close()


def test_rows_beyond_the_limits_of_milvus_are_refused(tmp_path):
    store = MilvusStore(tmp_path / "live.db", WordEmbedder())
    reasons = store.add_texts(
        ["a" * 70_000, "b", "c"], ["1", "2", "3"], [None, {"long": "x" * 70_000}, None]
    )
    assert ["65,535" in reasons[0], "65,536" in reasons[1], reasons[2]] == [True, True, None]
    store.close()


def test_a_server_that_does_not_answer_is_named_without_its_password(monkeypatch):
    monkeypatch.setattr(milvus, "_CONNECT_SECONDS", 0.2)
    store = MilvusStore("http://me:secret@127.0.0.1:1/base", WordEmbedder())
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:1/base") as caught:
        len(store.images)
    assert "secret" not in str(caught.value)


@given(st.text(min_size=1).filter(lambda name: name.isprintable() or name.isascii()))
def test_any_name_of_a_column_is_a_plain_field(name):
    field = field_of(name)
    assert field.isascii()
    assert field.isidentifier()
    assert column_of(field) == name


HOSTILE = st.text(st.sampled_from("\"'\\{}[]()%_$ \n\r\t\0abor1=é猫"), min_size=1, max_size=20)


@settings(max_examples=25)
@given(text=HOSTILE, other=HOSTILE)
def test_no_text_breaks_out_of_a_condition(hostile, text, other):
    key_of = {"mine": text, "other": other}
    hostile.put(key_of)
    expected = {key for key, value in key_of.items() if value == text}
    assert hostile.kept(f"source == {text!r}") == expected
    assert hostile.kept(f"source != {text!r}") == set(key_of) - expected
    assert hostile.kept(f"source in [{text!r}, 'x']") == expected


class Hostile:
    """Rows with a text each."""

    def __init__(self, store: MilvusStore):
        self.store = store

    def put(self, texts: dict[str, str]) -> None:
        rows = [{"source": text} for text in texts.values()]
        assert self.store.add_texts(list(texts), ["1"] * len(texts), rows) == [None] * len(texts)

    def kept(self, where: str) -> set[str]:
        return {hit.key for hit in self.store.texts.nearest(thumbs([1]), 5, where)[0]}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Iterator[Hostile]:
    store = MilvusStore(tmp_path_factory.mktemp("hostile") / "live.db", WordEmbedder())
    yield Hostile(store)
    store.close()


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ("width >= 256", "c_width >= 256"),
        ("width != 2", "((exists c_width) and c_width != 2)"),
        ("good", "c_good == true"),
        ("good == 1", "(c_good == true or c_good == 1)"),
        ("`with space` == 'a\"b'", 'x_77697468207370616365 == "a\\"b"'),
        ("a < 1.5 and (b == 2 or c in [3])", "(c_a < 1.5 and (c_b == 2 or c_c == 3))"),
        ("a in []", "((exists c_a) and not (exists c_a))"),
    ],
)
def test_conditions_are_written_as_milvus_reads_them(where, condition):
    assert milvus_condition(where) == condition
