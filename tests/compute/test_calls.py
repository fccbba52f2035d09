"""Calls of a function with several partitions, in one task."""

from __future__ import annotations

import pickle

from nemo_image_curate.compute.calls import Call, Calls, call_each


class Awkward(Exception):
    """By itself it cannot be made again from what was pickled of it."""

    def __init__(self, number: int, text: str):
        super().__init__(text)


def test_an_error_that_cannot_be_sent_is_told_by_its_words():
    def fail(part):
        raise Awkward(1, "too awkward")

    calls = Calls([Call(fail, lambda: None, ()), Call(id, lambda: None, ())])
    failed, fine = call_each(calls)
    # Some libraries teach `pickle` more about errors.
    assert "too awkward" in str(pickle.loads(pickle.dumps(failed.error)))
    assert fine.error is None
