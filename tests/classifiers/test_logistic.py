"""The regression against scikit-learn's on the vectors as they are, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from nemo_image_curate.classifiers.logistic import DEFAULT_PENALTY, PENALTIES, fit


def clusters(counts: list[int], dim: int, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(len(counts), dim))
    labels = np.repeat(np.arange(len(counts)), counts)
    vectors = centres[labels] + spread * np.sqrt(2) * chance.normal(size=(len(labels), dim)) + 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("dim", [6, 90])  # fewer than rows, and more
def test_probabilities_are_those_of_scikit_learn(n_classes, dim):
    vectors, labels = clusters([9] * n_classes, dim)
    fitted = fit(vectors, labels, n_classes, 10.0, seed=0)
    centred = vectors - vectors.mean(axis=0)
    centred /= np.sqrt(np.square(centred).sum(axis=1).mean())
    model = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit(centred, labels)
    ours = softmax(vectors @ fitted.weight.T.astype(float) + fitted.bias, axis=1)
    np.testing.assert_allclose(ours, model.predict_proba(centred), atol=2e-3)
    assert fitted.weight.shape == (n_classes, dim)
    assert fitted.C == 10.0
    assert list(fitted.losses) == [10.0]


def test_the_penalty_has_the_lowest_loss_on_rows_that_were_not_seen():
    vectors, labels = clusters([12, 12, 12], 20, spread=1.5)
    fitted = fit(vectors, labels, 3, None, seed=0)
    assert set(fitted.losses) == set(PENALTIES)
    assert fitted.losses[fitted.C] == min(fitted.losses.values())
    assert fitted.folds == 5
    assert fitted.rows.tolist() == list(range(36))
    np.testing.assert_allclose(fitted.probabilities.sum(axis=1), 1)
    own = fitted.probabilities[np.arange(36), labels]
    assert fitted.losses[fitted.C] == pytest.approx(-np.log(own).mean())


def test_labels_of_chance_are_told_to_be_that():
    vectors, _ = clusters([40], 30)
    labels = np.random.default_rng(1).integers(0, 2, size=40)
    fitted = fit(vectors, labels, 2, None, seed=0)
    right = (fitted.probabilities.argmax(axis=1) == labels).mean()
    assert right < 0.75
    # Where nothing is to be learned the strongest penalty is right.
    assert PENALTIES[0] == fitted.C


def test_a_class_of_one_label_is_learned_and_never_held_out():
    vectors, labels = clusters([6, 1, 2], 16, spread=0.1)
    fitted = fit(vectors, labels, 3, None, seed=3)
    assert 6 not in fitted.rows
    assert len(fitted.rows) == 8
    assert (fitted.probabilities.argmax(axis=1) == labels[fitted.rows]).all()
    assert (vectors @ fitted.weight.T + fitted.bias).argmax(axis=1).tolist() == labels.tolist()


def test_one_label_for_each_class():
    vectors, labels = clusters([1, 1, 1], 16)
    fitted = fit(vectors, labels, 3, None, seed=0)
    assert (fitted.C, fitted.folds, fitted.losses) == (DEFAULT_PENALTY, 0, {})
    assert fitted.probabilities.shape == (0, 3)
    assert (vectors @ fitted.weight.T + fitted.bias).argmax(axis=1).tolist() == [0, 1, 2]


def test_equal_vectors_teach_nothing():
    vectors = np.ones((4, 3)) / np.sqrt(3)
    fitted = fit(vectors, np.array([0, 0, 1, 1]), 2, None, seed=0)
    assert np.isfinite(fitted.weight).all()
    np.testing.assert_allclose(fitted.probabilities, 0.5, atol=1e-6)
