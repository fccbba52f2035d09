"""Pictures near to everything are brought down, by cosines alone."""

from __future__ import annotations

import torch

from nemo_image_curate.learning.hubs import Hubs

_UNIT = torch.nn.functional.normalize


def test_a_picture_near_to_all_texts_is_no_longer_found_by_all():
    texts = _UNIT(torch.eye(8) + 0.6, dim=1)
    images = _UNIT(torch.cat([torch.eye(8), torch.ones(1, 8)]), dim=1)
    before = (texts @ images.T).argmax(1)
    hubs = Hubs.of(images, texts)
    levelled_images, levelled_texts = hubs.images(images), hubs.texts(texts)
    after = (levelled_texts @ levelled_images.T).argmax(1)
    assert before.tolist() == [8] * 8
    assert after.tolist() == list(range(8))
    for levelled in (levelled_images, levelled_texts):
        assert torch.allclose(levelled.norm(dim=1), torch.ones(len(levelled)))


def test_order_among_pictures_that_are_equally_near_to_all_stays():
    generator = torch.Generator().manual_seed(0)
    images = _UNIT(torch.randn(20, 6, generator=generator), dim=1)
    texts = _UNIT(torch.randn(30, 6, generator=generator), dim=1)
    hubs = Hubs.of(images, torch.zeros(5, 6))
    cosines = hubs.texts(texts) @ hubs.images(images).T
    assert torch.equal(cosines.argsort(1), (texts @ images.T).argsort(1))
