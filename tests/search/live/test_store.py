from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.search.live.base import LiveStore
from nemo_image_curate.search.live.store import ChromaStore, open_store
from tests.make_data import jpeg
from tests.make_embedders import ThumbEmbedder
from tests.search.make_search import WordEmbedder, thumbs


@pytest.fixture(params=["live", "live.db"])
def store(request, tmp_path) -> Iterator[LiveStore]:
    """An empty store of Chroma's, and one of Milvus'."""
    store = open_store(str(tmp_path / request.param), WordEmbedder())
    yield store
    store.close()


def keys_of(store: LiveStore, number: int, k: int = 3, **options: object) -> list[str]:
    (hits,) = store.images.nearest(thumbs([number]), k, **options)  # type: ignore[arg-type]
    return [hit.key for hit in hits]


def files(store: LiveStore) -> list[Path]:
    return sorted(path for path in Path(store._contents).rglob("*") if path.is_file())


def test_added_images_are_found_with_what_is_known_of_them(store):
    reasons = store.add_images(
        ["one", "zwei ü", "3"],
        [jpeg(1), jpeg(2), jpeg(3, kind="PNG")],
        ["a dog", None, "猫"],
        [{"width": 32, "score": 0.5, "flag": True, "who": "me", "none": None}, None, {}],
    )
    assert reasons == [None, None, None]
    (first, *_) = store.images.nearest(thumbs([1]), 1)[0]
    assert (first.key, first.shard, first.caption) == ("one", None, "a dog")
    assert first.metadata == {"width": 32, "score": 0.5, "flag": True, "who": "me"}
    assert type(first.metadata["flag"]) is bool
    assert first.score == pytest.approx(1, abs=1e-4)
    assert first.vector is None
    assert keys_of(store, 2, 1) == ["zwei ü"]
    assert store.image("3") == jpeg(3, kind="PNG")
    assert len(store.images) == 3
    assert len(store.texts) == 0


def test_answers_are_those_of_brute_force(store):
    numbers = list(range(300))
    store.add_images([f"{number:03d}" for number in numbers], [jpeg(one) for one in numbers])
    truth = thumbs(numbers)
    queries = np.random.default_rng(0).standard_normal((20, 48)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for query, hits in zip(queries, store.images.nearest(queries, 10, with_vectors=True)):  # noqa: B905
        scores = truth @ query
        assert [int(hit.key) for hit in hits] == np.argsort(-scores)[:10].tolist()
        np.testing.assert_allclose(
            [hit.score for hit in hits], np.sort(scores)[::-1][:10], atol=1e-3
        )
        for hit in hits:
            np.testing.assert_allclose(hit.vector @ query, hit.score, atol=1e-5)
    assert len(store.images.nearest(queries[:1], 1000)[0]) == 300


def test_equal_scores_come_in_the_order_of_keys(store):
    names = [f"copy{number:02d}" for number in range(40)]
    store.add_images(names[::-1], [jpeg(5)] * 40)
    store.add_images(["other"], [jpeg(6)])
    for k in (1, 7, 39):
        assert keys_of(store, 5, k) == names[:k]


def test_bad_images_are_refused_with_a_reason_each_and_good_ones_kept(store):
    keys = ["ok", "broken", "", "listed", "ok", "nan", "own", "long", 7]
    metadata = [
        *({}, {}, {}, {"a": [1]}, {}),
        *({"a": float("nan")}, {"key": "x"}, {"a": 2**70}, {}),
    ]
    images = [jpeg(1), jpeg(2)[:200], *[jpeg(3)] * 7]
    reasons = store.add_images(keys, images, metadata=metadata)
    assert reasons[0] is None
    assert "decode" in reasons[1]
    words = ["key", "list", "twice", "nan", "'key'", "64 bits", "7"]
    for reason, word in zip(reasons[2:], words, strict=True):
        assert word in reason
    assert len(store.images) == 1
    assert len(files(store)) == 1
    assert store.add_images(["bad"], [b""])[0]
    assert store.add_images([], []) == []


def test_what_chroma_cannot_keep_is_refused_and_the_rest_of_a_call_taken(store):
    half = "\ud800"
    metadata = [{"$a": 1}, {"#document": "a"}, {"_row": "a"}, {half: 1}, {"a": half}, [1], "ab", {}]
    keys = [*(f"k{number}" for number in range(8)), half, "half caption"]
    count = len(keys)
    reasons = store.add_images(
        [*keys, "ok"],
        [jpeg(number) for number in range(count + 1)],
        [*[None] * (count - 1), half, "good"],
        [*metadata, None, None, {"a": 1, "b": "c"}],
    )
    assert [reason is None for reason in reasons] == [*[False] * 7, True, False, False, True]
    for reason in reasons:
        assert reason is None or reason.encode()
    assert "mapping" in reasons[5]
    assert len(files(store)) == len(store.images) == 2
    assert store.add_texts(["a", half], ["1", "2"])[1].startswith("the key")


class PointlessEmbedder(WordEmbedder):
    def embed_images(self, *args, **options):
        vectors, errors = super().embed_images(*args, **options)
        vectors[0] = 0
        return vectors, errors

    def embed_text(self, *args, **options):
        vectors = super().embed_text(*args, **options)
        vectors[0] = 0
        return vectors


def test_embeddings_without_direction_are_refused(tmp_path):
    store = ChromaStore(tmp_path, PointlessEmbedder())
    first, second = store.add_images(["a", "b"], [jpeg(1), jpeg(2)])
    assert ("no direction" in first, second) == (True, None)
    assert len(files(store)) == 1
    first, second = store.add_texts(["a", "b"], ["1", "2"])
    assert ("no direction" in first, second) == (True, None)
    assert (len(store.images), len(store.texts)) == (1, 1)
    store.close()


def test_keys_that_are_no_texts_are_not_found(store):
    store.add_images(["a"], [jpeg(1)])
    for key in ("\ud800", 7, None):
        assert [hit and hit.key for hit in store.images.lookup([(None, key), (None, "a")])] == [
            None,
            "a",
        ]
        with pytest.raises(DatasetError, match="no image"):
            store.image(key)
        assert store.remove([key]) == 0


def test_lengths_that_differ_are_refused(store):
    with pytest.raises(ConfigError, match="one length"):
        store.add_images(["a", "b"], [jpeg(1)])
    with pytest.raises(ConfigError, match="one length"):
        store.add_images(["a"], [jpeg(1)], captions=[])


def test_the_same_key_again_replaces_image_vector_and_all_columns(store):
    store.add_images(["a"], [jpeg(1)], ["old"], [{"width": 1, "gone": 5}])
    store.add_images(["a"], [jpeg(2)], None, [{"width": 2}])
    assert len(store.images) == 1
    (hit,) = store.images.nearest(thumbs([2]), 5)[0]
    assert (hit.caption, hit.metadata) == (None, {"width": 2})
    assert hit.score == pytest.approx(1, abs=1e-4)
    assert store.image("a") == jpeg(2)
    assert [path.name for path in files(store)] == [hashlib.sha256(jpeg(2)).hexdigest()]
    assert keys_of(store, 2, 5, where="gone == 5") == []
    assert keys_of(store, 2, 5, where="gone != 4") == []
    assert keys_of(store, 2, 5, where="gone not in [4]") == []


def test_removed_images_are_gone_but_for_files_that_others_need(store):
    store.add_images(["a", "b", "c"], [jpeg(1), jpeg(1), jpeg(2)])
    store.add_texts(["a"], ["1"])
    assert store.remove(["a", "a", "nowhere"]) == 2
    assert len(files(store)) == 2
    assert store.image("b") == jpeg(1)
    with pytest.raises(DatasetError, match="no image 'a'"):
        store.image("a")
    assert store.remove(["b", "c"]) == 2
    assert files(store) == []
    assert store.images.nearest(thumbs([1]), 5) == [[]]


def test_names_of_clients_reach_no_file_system(store):
    keys = ["../../up", "/etc/passwd", "a/b", "nul\0", "a" * 5000, ". ."]
    assert store.add_images(keys, [jpeg(number) for number in range(6)]) == [None] * 6
    for number, key in enumerate(keys):
        assert store.image(key) == jpeg(number)
    assert {len(path.name) for path in files(store)} == {64}
    with pytest.raises(DatasetError):
        store.image("../chroma.sqlite3")


def test_texts_are_found_by_image_vectors(store):
    assert store.add_texts(["t1", "t2", "t3"], ["1", "what?", "3"])[1].startswith("text 'what?'")
    (hits,) = store.texts.nearest(thumbs([3]), 5)
    assert [(hit.key, hit.caption) for hit in hits] == [("t3", "3"), ("t1", "1")]
    assert len(store.images) == 0


def test_an_embedder_without_a_text_tower_adds_no_texts(tmp_path):
    store = ChromaStore(tmp_path, ThumbEmbedder())
    with pytest.raises(ConfigError, match="embeds no texts"):
        store.add_texts(["a"], ["1"])


def test_lookup_knows_samples_without_a_shard(store):
    store.add_images(["a", "b"], [jpeg(1), jpeg(2)], metadata=[{"n": 1}, {"n": 2}])
    samples = [(None, "b"), ("x.tar", "a"), (None, "nowhere"), (None, "b")]
    found = store.images.lookup(samples)
    assert [hit and hit.key for hit in found] == ["b", None, None, "b"]
    np.testing.assert_allclose(found[0].vector, thumbs([2])[0], atol=1e-2)
    assert store.images.lookup([(None, "a"), (None, "b")], "n > 1")[0] is None
    assert store.images.lookup([]) == []


def test_threads_add_and_search_at_once(store):
    store.add_images(["base"], [jpeg(0)])
    failures: list[BaseException] = []
    ended = threading.Event()

    def add(worker: int) -> None:
        try:
            for number in range(15):
                key = f"{worker}-{number}"
                store.add_images([key, "shared"], [jpeg(worker * 100 + number), jpeg(number)])
                if number % 3 == 0:
                    store.remove([key])
        except BaseException as error:
            failures.append(error)

    def search() -> None:
        try:
            while not ended.is_set():
                assert "base" in keys_of(store, 0, 1000)
                store.image("base")
        except BaseException as error:
            failures.append(error)

    adding = [threading.Thread(target=add, args=(worker,)) for worker in (1, 2, 3)]
    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in adding + searching:
        thread.start()
    for thread in adding:
        thread.join()
    ended.set()
    for thread in searching:
        thread.join()
    assert failures == []
    assert len(store.images) == 2 + 3 * 10
    assert set(keys_of(store, 0, 1000)) >= {"base", "shared", "1-1", "3-14"}


def test_unusable_queries_are_refused(store):
    store.add_images(["a"], [jpeg(1)])
    with pytest.raises(ConfigError, match="k=0"):
        store.images.nearest(thumbs([1]), 0)
    with pytest.raises(ConfigError, match="dimension"):
        store.images.nearest(np.ones((1, 5), np.float32), 1)
    for where in ("a == '\\ud800'", "`\ud800` == 1"):
        with pytest.raises(ConfigError, match="cannot answer"):
            store.images.nearest(thumbs([1]), 1, where)
        with pytest.raises(ConfigError, match="cannot answer"):
            store.images.lookup([(None, "a")], where)
