"""Ranks against what a loop counts, and their figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_image_curate.learning import retrieval
from nemo_image_curate.learning.retrieval import (
    interval,
    mean_reciprocal_rank,
    median_rank,
    ranks,
    recall_at,
)


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_ranks_are_those_of_a_loop_whatever_fits_at_once(counts, seed):
    generator = np.random.default_rng(seed)
    owners = np.repeat(np.arange(len(counts)), counts)
    # Whole numbers: many ties, and no rounding.
    images = generator.integers(-2, 3, (len(counts), 3)).astype(np.float32)
    texts = generator.integers(-2, 3, (len(owners), 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_MOST_AT_ONCE", 20)
        of_all = ranks(images, texts, owners)
    similarities = texts @ images.T
    for text, own in enumerate(owners):
        others = np.delete(similarities[text], own)
        assert of_all.text_to_image[text] == (others >= similarities[text, own]).sum()
    for image in range(len(counts)):
        best = similarities[owners == image, image].max()
        assert of_all.image_to_text[image] == (similarities[owners != image, image] >= best).sum()


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_vectors_that_tell_nothing_find_nothing(value):
    images, texts = np.full((4, 2), value, np.float32), np.ones((8, 2), np.float32)
    of_all = ranks(images, texts, np.repeat(np.arange(4), 2))
    assert of_all.text_to_image.tolist() == [3] * 8
    assert of_all.image_to_text.tolist() == [6] * 4


def test_figures_of_ranks():
    query_ranks = np.array([0, 0, 1, 9, 10])
    assert recall_at(query_ranks, 1) == 0.4
    assert recall_at(query_ranks, 10) == 0.8
    assert mean_reciprocal_rank(query_ranks) == pytest.approx((1 + 1 + 1 / 2 + 1 / 10 + 1 / 11) / 5)
    assert median_rank(query_ranks) == 2


def test_captions_of_one_picture_count_once_in_the_interval():
    generator = np.random.default_rng(0)
    of_pictures = generator.random(400) < 0.3
    low, high = interval(of_pictures, np.arange(400))
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.15)
    # Five captions with the same outcome say no more than one.
    again = interval(np.repeat(of_pictures, 5), np.repeat(np.arange(400), 5))
    assert again == pytest.approx((low, high))
    assert np.isnan(interval(np.ones(5), np.zeros(5))).all()
