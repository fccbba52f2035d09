from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import (
    ColumnNotFoundError,
    ConfigError,
    DatasetError,
    EncoderMismatchError,
    ImageError,
)
from nemo_image_curate.index.vector_index import VectorIndex, build_index, index_path
from nemo_image_curate.search.captions import build_captions
from nemo_image_curate.search.live.store import ChromaStore
from nemo_image_curate.search.query import Query
from nemo_image_curate.search.searcher import Searcher
from tests.dedup.make_embeddings import write_embeddings
from tests.make_data import jpeg, make_dataset
from tests.make_embedders import ThumbEmbedder
from tests.search.make_search import WordEmbedder, embedded_dataset, thumbs

SIZES = (20, 20, 7)
NUMBERS = [shard * 1000 + number for shard, size in enumerate(SIZES) for number in range(size)]


def key(number: int) -> str:
    return f"{number // 1000:05d}{number % 1000:04d}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ImageTextPairDataset:
    made, _ = embedded_dataset(tmp_path_factory.mktemp("data"), SIZES)
    build_index(made)
    build_captions(made)
    return made


@pytest.fixture(scope="module")
def searcher(dataset) -> Searcher:
    return Searcher.open(dataset, WordEmbedder())


def keys(hits: list[Any]) -> list[str]:
    return [hit.key for hit in hits]


def expected(query: np.ndarray, k: int, allowed: Any = lambda number: True) -> list[str]:
    """The keys of the true nearest pictures of the dataset."""
    numbers = [number for number in NUMBERS if allowed(number)]
    scores = thumbs(numbers) @ query
    return [key(numbers[place]) for place in np.argsort(-scores, kind="stable")[:k]]


def test_a_text_finds_its_picture_and_then_the_next_best(searcher):
    hits = searcher.search("7", k=5)
    assert keys(hits) == expected(thumbs([7])[0], 5)
    first = hits[0]
    assert (first.key, first.shard) == (key(7), "00000.tar")
    assert first.score == pytest.approx(1, abs=1e-3)
    assert first.caption == "picture 7 – größer, 画像 🐈"
    assert first.metadata["width"] == 39
    assert first.vector is None
    plain = first.to_dict()
    assert set(plain) == {"key", "shard", "score", "caption", "metadata", "similar"}


def test_an_image_may_be_given_in_any_way(searcher, tmp_path):
    path = tmp_path / "query.jpg"
    path.write_bytes(jpeg(1003))
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg(1003)).decode()}"
    answers = [
        searcher.search(image=image, k=4)
        for image in (path, str(path), jpeg(1003), url, Image.open(io.BytesIO(jpeg(1003))))
    ]
    assert keys(answers[0]) == expected(thumbs([1003])[0], 4)
    assert all(answer == answers[0] for answer in answers)


def test_text_and_image_are_added_by_weight_and_the_negative_taken_away(searcher):
    t, i, n = thumbs([3, 1004, 5])
    options = {"text_weight": 0.4, "image_weight": 1.5, "negative_weight": 0.7, "k": 10}
    hits = searcher.search("3", jpeg(1004), negative_text="5", **options)
    query = 0.4 * t + 1.5 * i - 0.7 * n
    query /= np.linalg.norm(query)
    assert keys(hits) == expected(query, 10)
    truth = dict(zip(map(key, NUMBERS), thumbs(NUMBERS) @ query, strict=True))
    assert [hit.score for hit in hits] == pytest.approx([truth[hit.key] for hit in hits], abs=2e-3)
    assert keys(searcher.search("3", jpeg(1004), image_weight=0, k=3)) == expected(t, 3)


def test_where_chooses_rows(searcher):
    hits = searcher.search("7", k=8, where="width >= 40 and shard != '00001.tar'")
    allowed = expected(thumbs([7])[0], 8, lambda n: n % 1000 >= 8 and n // 1000 != 1)
    assert keys(hits) == allowed
    assert searcher.search("7", where="width > 10000") == []
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'width'"):
        searcher.search("7", where="widht > 3")
    with pytest.raises(ConfigError):
        searcher.search("7", where="__import__('os')")


def test_k_beyond_the_dataset_gives_all_and_no_k_is_refused(searcher):
    assert sorted(keys(searcher.search("7", k=10**12))) == sorted(map(key, NUMBERS))
    with pytest.raises(ConfigError, match="k=0"):
        searcher.search("7", k=0)


def test_more_like_a_stored_image_without_itself(searcher):
    hits = searcher.search(like=key(1005), k=6)
    assert keys(hits) == expected(thumbs([1005])[0], 7)[1:]
    assert searcher.search(like=key(1005), like_shard="00001.tar", k=6) == hits
    assert len(searcher.search(like=key(1005), k=1000)) == len(NUMBERS) - 1
    with pytest.raises(DatasetError, match=r"no stored image .*'nowhere'"):
        searcher.search(like="nowhere")
    with pytest.raises(DatasetError, match=r"in 00002\.tar"):
        searcher.search(like=key(1005), like_shard="00002.tar")


def test_bad_images_and_texts_say_why(searcher, tmp_path):
    with pytest.raises(ImageError, match=r"the image .* decode"):
        searcher.search(image=jpeg(1)[:300])
    with pytest.raises(ImageError, match="empty"):
        searcher.search(image=b"")
    with pytest.raises(DatasetError, match=r"nowhere\.jpg"):
        searcher.search(image=tmp_path / "nowhere.jpg")
    with pytest.raises(ConfigError, match="no numbers"):
        searcher.search("a dog")
    with pytest.raises(ConfigError, match="needs a text"):
        searcher.search()
    with pytest.raises(ConfigError, match="cancel"):
        searcher.search("7", negative_text="7", negative_weight=1.0)
    with pytest.raises(ConfigError, match="all weights"):
        searcher.search("7", text_weight=0)


def test_an_embedder_without_a_text_tower_says_which_have_one(dataset):
    searcher = Searcher.open(dataset, ThumbEmbedder())
    assert keys(searcher.search(image=jpeg(7), k=1)) == [key(7)]
    with pytest.raises(ConfigError, match="OpenCLIPEmbedder or ConseEmbedder"):
        searcher.search("7")


def test_vectors_of_another_encoder_are_refused(dataset, tmp_path):
    index = VectorIndex.load(index_path(dataset))
    with pytest.raises(EncoderMismatchError, match=r"'other'.*'thumb'"):
        Searcher(WordEmbedder("other"), index).search("7")
    with pytest.raises(EncoderMismatchError):
        Searcher.open(dataset, WordEmbedder("other"))
    live = ChromaStore(tmp_path, WordEmbedder("other"))
    with pytest.raises(EncoderMismatchError):
        Searcher.open(dataset, WordEmbedder(), live)
    live.close()


QUERIES = st.builds(
    Query,
    text=st.none() | st.sampled_from(["1", "1003", "5 2001", "a dog"]),
    image=st.none() | st.sampled_from([jpeg(2), jpeg(1004), b"broken"]),
    like=st.none() | st.sampled_from([key(3), "nowhere"]),
    negative_text=st.none() | st.sampled_from(["6", "1"]),
    text_weight=st.sampled_from([0.0, 0.5, 1.0]),
    k=st.integers(0, 60),
    where=st.none() | st.sampled_from(["width > 40", "shard == '00001.tar'", "nothing > 1"]),
    collapse=st.none() | st.sampled_from([0.2, 0.6, 0.9]),
    fuse_captions=st.booleans(),
    over=st.sampled_from(["images", "texts"]),
)


@given(st.lists(QUERIES, max_size=12))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_many_queries_at_once_get_what_each_gets_alone(searcher, queries):
    together = searcher.search_many(queries, return_errors=True)
    for query, answer in zip(queries, together, strict=True):
        assert repr(alone_answer(searcher, query)) == repr(answer)


def alone_answer(searcher: Searcher, query: Query) -> Any:
    try:
        hits = searcher.search(**vars(query))
    except Exception as error:
        return error
    assert len(hits) <= query.k
    return hits


def test_good_queries_only_many_at_once(searcher):
    queries = [Query(text=str(number), k=3 + number % 5) for number in NUMBERS]
    assert searcher.search_many(queries) == [
        searcher.search(query.text, k=query.k) for query in queries
    ]
    assert searcher.search_many([]) == []


def test_collapse_hides_near_duplicates_and_fetches_on(tmp_path):
    """Sixty copies of one picture hide behind it; other pictures still fill the page."""
    copies = ChromaStore(tmp_path / "store", WordEmbedder())
    copies.add_images(
        [f"a{number:02d}" for number in range(60)] + [f"b{number}" for number in range(5)],
        [jpeg(1)] * 60 + [jpeg(100 + number) for number in range(5)],
    )
    searcher = Searcher(WordEmbedder(), copies.images)
    assert keys(searcher.search("1", k=4)) == ["a00", "a01", "a02", "a03"]
    hits = searcher.search("1", k=4, collapse=0.99)
    assert (hits[0].key, hits[0].similar) == ("a00", 59)
    assert len(hits) == 4
    assert {hit.key[0] for hit in hits[1:]} == {"b"}
    assert [hit.similar for hit in hits[1:]] == [0, 0, 0]
    assert len(searcher.search("1", k=50, collapse=0.99)) == 6
    assert keys(searcher.search(like="a07", k=1, collapse=0.99)) == ["a00"]
    copies.close()


@given(st.integers(0, 6), st.floats(0.05, 1), st.integers(1, 12))
def test_no_two_shown_are_alike_and_none_is_missed(searcher, number, threshold, k):
    hits = searcher.search(str(number), k=k, collapse=threshold)
    ranked = searcher.search(str(number), k=1000)
    vectors = dict(zip(map(key, NUMBERS), thumbs(NUMBERS), strict=True))
    index = searcher.images[0]
    found = index.lookup([(hit.shard, hit.key) for hit in ranked])
    vectors = {hit.key: hit.vector for hit in found}
    shown: list[str] = []
    for hit in ranked:
        if not any(vectors[hit.key] @ vectors[one] >= threshold - 1e-6 for one in shown):
            shown.append(hit.key)
    assert keys(hits) == shown[:k]


def test_captions_join_the_ranking(searcher):
    """The caption of 1002 says so; the picture asked for is 1003."""
    plain = searcher.search("1003", k=47)
    place = keys(plain).index(key(1003))
    assert place == 0
    fused = searcher.search("1003", k=47, fuse_captions=True)
    assert keys(fused)[0] == key(1003)
    # Nearest, and the only caption with this number.
    assert fused[0].score == pytest.approx(1 / 61 + 1 / 61)
    assert fused[1].score == pytest.approx(1 / 62)
    assert keys(fused)[1:] == keys(plain)[1:]
    # A number that only a caption has in common with the query.
    mixed = searcher.search("3 2004", k=47, fuse_captions=True)
    vector_ranking = keys(searcher.search("3 2004", k=47))
    scores = {one: 1 / (61 + place) for place, one in enumerate(vector_ranking)}
    captions = [sample[1] for sample in searcher.captions.search("3 2004", 100)]
    assert set(captions) == {key(3), key(2004)}
    for place, one in enumerate(captions):
        scores[one] += 1 / (61 + place)
    assert {hit.key: hit.score for hit in mixed} == pytest.approx(scores)
    assert [hit.score for hit in mixed] == sorted(scores.values(), reverse=True)


def test_captions_are_searched_under_the_same_condition(searcher):
    hits = searcher.search("1003", k=47, fuse_captions=True, where="shard != '00001.tar'")
    assert key(1003) not in keys(hits)
    assert len(hits) == 27
    found = searcher.search("3", k=5, fuse_captions=True, where="width > 36", collapse=0.99)
    assert len(found) == 5
    assert all(hit.metadata["width"] > 36 for hit in found)


def test_fusion_needs_captions_and_a_text(dataset):
    searcher = Searcher(WordEmbedder(), VectorIndex.load(index_path(dataset)))
    with pytest.raises(ConfigError, match="build_captions"):
        searcher.search("7", fuse_captions=True)


def test_a_live_store_is_searched_along(dataset, store):
    searcher = Searcher.open(dataset, WordEmbedder(), store)
    assert keys(searcher.search("7", k=1)) == [key(7)]
    store.add_images(
        ["new", key(1)], [jpeg(5000), jpeg(5001)], ["a new one", None], [{"width": 9}, None]
    )
    hits = searcher.search("5000", k=2)
    assert (hits[0].key, hits[0].shard, hits[0].caption) == ("new", None, "a new one")
    assert hits[1].shard is not None
    assert keys(searcher.search("7", k=1)) == [key(7)]
    assert keys(searcher.search("5000", k=5, where="width == 9")) == ["new"]
    assert len(searcher.search("7", k=1000)) == len(NUMBERS) + 2
    # A key that is in both: without a shard the store's, with one the dataset's.
    assert key(1) not in keys(searcher.search(like=key(1), k=1))
    like_old = searcher.search(like=key(1), like_shard="00000.tar", k=48)
    assert (None, key(1)) in [(hit.shard, hit.key) for hit in like_old]
    assert ("00000.tar", key(1)) not in [(hit.shard, hit.key) for hit in like_old]


def test_equal_scores_come_in_one_order_whatever_k_is(dataset, store):
    store.add_images(["z", "b"], [jpeg(7), jpeg(7)])
    searcher = Searcher.open(dataset, WordEmbedder(), store)
    for k in (1, 2, 3):
        found = keys(searcher.search(image=jpeg(7), k=k))
        assert found == [key(7), "b", "z"][:k]


def test_captions_are_found_by_image(dataset, store):
    searcher = Searcher.open(dataset, WordEmbedder(), store)
    store.add_texts(["t1", "t2"], ["7", "8"], [{"width": 1}, {"width": 2}])
    assert [hit.caption for hit in searcher.image_to_text(jpeg(8))] == ["8", "7"]
    assert keys(searcher.image_to_text(jpeg(8), k=1, where="width < 2")) == ["t1"]
    assert keys(searcher.search("8", over="texts", k=1)) == ["t2"]
    assert keys(searcher.search(like=key(7), over="texts", k=1)) == ["t1"]


def test_without_text_vectors_there_are_no_captions_to_find(searcher):
    with pytest.raises(ConfigError, match="no text vectors"):
        searcher.image_to_text(jpeg(8))


def test_an_empty_store_answers_nothing(store):
    searcher = Searcher(WordEmbedder(), store.images, store.texts)
    assert searcher.search("7") == []
    assert searcher.search("7", collapse=0.9, where="width > 3") == []
    assert searcher.image_to_text(jpeg(7)) == []
    with pytest.raises(ConfigError, match="k=0"):
        searcher.search("7", k=0)


def test_similarity_is_the_cosine_of_each_text_with_each_image(searcher):
    found = searcher.similarity(["7", "1003"], [jpeg(7), jpeg(1003), jpeg(5)])
    truth = thumbs([7, 1003]) @ thumbs([7, 1003, 5]).T
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth, atol=3e-3)
    assert searcher.similarity([], [jpeg(1)]).shape == (0, 1)
    assert searcher.similarity(["7"], []).shape == (1, 0)
    with pytest.raises(ImageError, match="image 1 of 2"):
        searcher.similarity(["7"], [jpeg(1), b"no image"])


def test_opening_without_an_index_says_how_to_make_one(tmp_path):
    make_dataset(tmp_path)
    dataset = ImageTextPairDataset.from_webdataset(tmp_path)
    with pytest.raises(DatasetError, match=f"nemo-image-curate index {tmp_path}"):
        Searcher.open(dataset, WordEmbedder())


def test_opening_without_an_embedder_takes_the_recorded_one_or_asks(dataset):
    searcher = Searcher.open(dataset)
    for query in ({"text": "7"}, {"image": jpeg(7)}, {"like": key(7), "negative_text": "8"}):
        with pytest.raises(ConfigError, match=r"made by 'WordEmbedder'.*embedder="):
            searcher.search(**query)


def test_like_a_stored_image_needs_no_embedder(dataset, searcher, tmp_path, backend):
    like = {"like": key(7), "k": 5, "collapse": 0.99}
    assert Searcher.open(dataset).search(**like) == searcher.search(**like)
    vectors = thumbs(NUMBERS)
    unrecorded = write_embeddings(tmp_path / "data", vectors, backend=backend)
    build_index(unrecorded)
    found = Searcher.open(unrecorded).search(like="000007", k=3)
    nearest = np.argsort(-(vectors @ vectors[7]))[1:4]
    assert keys(found) == [f"{row:06d}" for row in nearest]
    with pytest.raises(ConfigError, match=r"of unknown origin; give the embedder"):
        Searcher.open(unrecorded).search("7")
    index = VectorIndex.load(index_path(dataset))
    live = ChromaStore(tmp_path / "store", WordEmbedder("other"))
    with pytest.raises(EncoderMismatchError, match=r"'thumb'.*'other'"):
        Searcher(None, [index, live.images]).search(like=key(7))
    live.close()


def test_opening_beside_another_dataset_is_refused(tmp_path, dataset):
    other, _ = embedded_dataset(tmp_path / "other", (3,))
    build_index(other)
    path = Path(index_path(other))
    for name in path.iterdir():
        name.unlink()
    for name in Path(index_path(dataset)).iterdir():
        (path / name.name).write_bytes(name.read_bytes())
    with pytest.raises(DatasetError):
        Searcher.open(other, WordEmbedder())


def test_a_key_that_a_shard_has_twice(tmp_path):
    keyed = {"key": ["a", "a", "b", "c"], "caption": ["1 dog"] * 4}
    dataset = write_embeddings(tmp_path / "d", thumbs([1, 2, 3, 4]), 4, **keyed)
    searcher = Searcher(WordEmbedder(), build_index(dataset), captions=build_captions(dataset))
    assert len(searcher.search("1")) == 4
    assert keys(searcher.search("1", fuse_captions=True)) == ["a", "b", "c"]
