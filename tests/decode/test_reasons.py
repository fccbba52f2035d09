from __future__ import annotations

import pytest

from nemo_image_curate.decode.data_url import check_size
from nemo_image_curate.decode.header import ImageHeader, check_pixels
from nemo_image_curate.decode.reasons import count_by_kind, reason_of
from nemo_image_curate.errors import ImageError


def test_what_is_refused_for_its_size_is_told_from_what_cannot_be_decoded():
    with pytest.raises(ImageError) as pixels:
        check_pixels(ImageHeader("png", 30, 20, "RGB"), 599)
    with pytest.raises(ImageError) as content:
        check_size(11, 10)
    reasons = [reason_of(error.value) for error in (pixels, content)]
    reasons += [reason_of(ImageError("too large a name")), "missing", "missing"]
    assert reasons[0] == "too large: 30x20 = 600 pixels, limit 599"
    assert reasons[2] == "decode: too large a name"
    assert list(count_by_kind(reasons).items()) == [("decode", 1), ("missing", 2), ("too large", 2)]


def test_a_column_of_a_user_may_hold_anything():
    assert count_by_kind([3, "a: b"]) == {"3": 1, "a": 1}
