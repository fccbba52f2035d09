"""What is learned from pairs whose truth is known: a few hidden values that both sides show."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nemo_image_curate.learning.canonical import canonical_head
from nemo_image_curate.learning.fitting import LOSSES, fit_towers
from nemo_image_curate.learning.heads import Head
from nemo_image_curate.learning.pairs import Pairs
from nemo_image_curate.learning.retrieval import ranks, recall_at
from nemo_image_curate.learning.towers import Towers

_D_IMAGE, _D_TEXT, _HIDDEN = 40, 30, 8


def _pairs(count: int, seed: int = 1, captions: int = 2, noise: float = 0.5) -> Pairs:
    """Pictures and captions that show the same hidden values, each in its own way and noise."""
    of_world = np.random.default_rng(0)
    to_image = of_world.normal(size=(_HIDDEN, _D_IMAGE)) * np.geomspace(0.01, 10, _D_IMAGE)
    to_text = of_world.normal(size=(_HIDDEN, _D_TEXT))
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(count, _HIDDEN))
    owners = np.repeat(np.arange(count), captions)
    images = hidden @ to_image
    images += noise * generator.normal(size=images.shape) * images.std(0)
    texts = hidden[owners] @ to_text + noise * generator.normal(size=(len(owners), _D_TEXT))
    return Pairs(images[:, None].astype(np.float32), texts.astype(np.float32), owners)


def _recall(towers: Towers | Head, held_out: Pairs) -> float:
    images, texts = (
        side(torch.from_numpy(rows)).numpy()
        for side, rows in (
            (towers.images, held_out.images[:, 0]),
            (towers.texts, held_out.texts),
        )
    )
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    return recall_at(ranks(images, texts, held_out.image_numbers).text_to_image, 1)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_finds_pictures_that_were_not_seen(loss):
    training = {} if loss == "correlation" else {"samples_seen": 8_000, "batch_size": 200}
    towers = fit_towers(_pairs(300), loss=loss, dimensions=16, **training)
    assert _recall(towers, _pairs(100, seed=2)) > 0.5
    assert towers.base_share == 0
    assert 1 <= towers.scale <= 100.01


@pytest.mark.parametrize("count", [25, 100])
def test_canonical_correlations_with_fewer_and_with_more_pictures_than_features(count):
    head = canonical_head(_pairs(count, noise=0), 16)
    # The hidden values are all that both sides have in common.
    assert len(head.image_weight) == _HIDDEN
    assert _recall(head, _pairs(50, seed=2, noise=0)) > 0.9


def test_a_feature_that_never_changes_is_no_trouble():
    pairs = _pairs(60)
    pairs.images[:, :, 3] = 7
    pairs.texts[:, 2] = 0
    assert torch.isfinite(canonical_head(pairs, 8).image_weight).all()


def _with_space(pairs: Pairs, noise: float) -> Pairs:
    """The same, with a space that is given beside: what is hidden, and noise."""
    generator = np.random.default_rng(len(pairs.images))
    given = generator.normal(size=(len(pairs.images), 6)).astype(np.float32)
    shown = given + noise * generator.normal(size=given.shape).astype(np.float32)
    images = np.concatenate([pairs.images, shown[:, None]], 2)
    return replace(
        pairs, images=images, texts=np.concatenate([pairs.texts, given[pairs.image_numbers]], 1)
    )


_BASE = Head.given(_D_IMAGE + 6, _D_TEXT + 6, slice(_D_IMAGE, None), slice(_D_TEXT, None))


def test_of_captions_that_tell_nothing_the_given_space_alone_is_kept():
    pairs = _with_space(_pairs(40), noise=0.1)
    generator = np.random.default_rng(0)
    pairs.images[:, :, :_D_IMAGE] = generator.normal(size=(40, 1, _D_IMAGE))
    held_out = _with_space(_pairs(100, seed=2), noise=0.1)
    towers = fit_towers(pairs, base=_BASE)
    assert math.isinf(towers.base_share)
    assert _recall(towers, held_out) == _recall(_BASE, held_out)


def test_a_given_space_counts_by_what_it_is_worth():
    worthless = fit_towers(_with_space(_pairs(200), noise=9), base=_BASE)
    precise = fit_towers(_with_space(_pairs(200, noise=2), noise=0.1), base=_BASE)
    assert worthless.base_share < precise.base_share


def test_share_and_scale_are_taken_from_others():
    pairs = _with_space(_pairs(60), noise=1)
    like = Towers.of([_BASE], [1.0], pairs, 30.0, 0.5)
    towers = fit_towers(pairs, base=_BASE, like=like)
    assert (towers.base_share, towers.scale) == (0.5, pytest.approx(30))
    # As many values as texts have features, the given ones, and two of hubs.
    assert towers.images(torch.from_numpy(pairs.images[:, 0])).shape == (60, 36 + 6 + 2)


def test_the_same_pairs_give_the_same_bytes_in_one_and_in_more_threads():
    threads = torch.get_num_threads()
    pairs = _with_space(_pairs(100), noise=1)
    fitted = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            fitted.append(fit_towers(pairs, base=_BASE).tensors)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    first, second = fitted
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pairs_of_some_pictures():
    pairs = _pairs(10, captions=3)
    some = pairs.of(np.array([7, 2]))
    assert np.array_equal(some.images, pairs.images[[7, 2]])
    assert np.array_equal(some.texts, np.concatenate([pairs.texts[21:24], pairs.texts[6:9]]))
    assert some.image_numbers.tolist() == [0, 0, 0, 1, 1, 1]
