"""Tars in an object store: what is asked for, and how often."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_image_curate import get_client, storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.errors import ChangedError
from nemo_image_curate.quality.digest import ImageDigest
from nemo_image_curate.shards import remote_content
from nemo_image_curate.shards.opened_tar import OpenedTar
from nemo_image_curate.shards.reader import TarShard
from nemo_image_curate.shards.remote_content import RemoteContent
from tests.make_data import write_tar

SHARDS, SAMPLES, BYTES = 3, 12, 40_000


@pytest.fixture
def remote(tmp_path, bucket):
    """Shards without sidecars, and how many bytes they are."""
    root, size = bucket(), 0
    for shard in range(SHARDS):
        members = []
        for number in range(SAMPLES):
            picture = b"\xff\xd8\xff" + random.Random(number).randbytes(BYTES)
            members += [(f"{number}.jpg", picture), (f"{number}.txt", b"a caption")]
            members += [(f"{number}.json", b'{"n": %d}' % number)]
        tar = write_tar(tmp_path / f"{shard}.tar", members)
        storage.write_bytes(f"{root}/{shard}.tar", tar.read_bytes())
        size += tar.stat().st_size
    return root, size


def test_a_dataset_is_read_once_whatever_is_done_with_it(remote, traffic, tmp_path):
    root, size = remote
    with get_client("cpu", n_workers=2):
        dataset = ImageTextPairDataset.from_webdataset(root)
        saved = ImageDigest()(dataset).save_metadata(tmp_path / "out")
        assert saved.account().with_image == SHARDS * SAMPLES
        dataset.filter("n % 2 == 0").to_webdataset(tmp_path / "new")
    gets = traffic.gets(".tar")
    assert sum(gets) <= 1.1 * size
    assert len(gets) == SHARDS
    again = ImageTextPairDataset.from_webdataset(tmp_path / "new")
    assert len(again) == SHARDS * SAMPLES // 2


def test_of_what_is_not_kept_the_headers_and_texts_are_read(remote, traffic, tmp_path, monkeypatch):
    root, size = remote
    monkeypatch.setattr("nemo_image_curate.dataset.schemas.KEPT_BYTES", 0)
    dataset = ImageTextPairDataset.from_webdataset(root)
    assert sum(traffic.gets(".tar")) < 0.15 * size
    ImageDigest()(dataset).save_metadata(tmp_path / "out")
    assert sum(traffic.gets(".tar")) < 1.15 * size


@pytest.mark.parametrize("every", [1, 2])
def test_members_that_stand_close_together_are_one_request(remote, traffic, every):
    root, _ = remote
    with TarShard(f"{root}/0.tar", reads_all=False) as shard:
        members = [shard.index.image(str(number)) for number in range(0, SAMPLES, every)]
    remote_content.drop(shard.info)
    traffic.requests.clear()
    with TarShard(f"{root}/0.tar") as shard:
        assert [len(content) for content in shard.read(members)] == [BYTES + 3] * len(members)
    # One more for how the tar is packed.
    assert len(traffic.gets(".tar")) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(places=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 900)), max_size=12))
def test_pieces_in_any_order(tmp_path_factory, places):
    # A local file stands for the store: what is asked for is what counts here.
    path = tmp_path_factory.getbasetemp() / "pieces"
    content = random.Random(1).randbytes(3000)
    path.write_bytes(content)
    remote = RemoteContent(storage.stat(str(path)))
    for start, size in places:
        assert remote.peek(start, size) == content[start : start + size]
    held = bytearray(3000)
    for start, size in places:
        held[start : start + size] = bytes([1]) * len(content[start : start + size])
    assert remote.held == sum(held)
    ranges = [(start, min(size, 3000 - start)) for start, size in places if start < 3000]
    assert list(remote.read(ranges)) == [content[start : start + size] for start, size in ranges]
    remote.fetch_all()
    assert remote.held == 3000
    assert remote.file().read() == content


def test_an_object_that_is_replaced_meanwhile_is_told(remote, bucket):
    root, _ = remote
    location = f"{root}/0.tar"
    content = storage.read_bytes(location)
    tar = OpenedTar(location).__enter__()
    tar.content.peek(0, 512)
    storage.write_bytes(location, content[:-600] + os.urandom(600))
    with pytest.raises(ChangedError, match="other content of that size"):
        tar.__exit__(None, None, None)
    with TarShard(location) as shard:
        assert len(shard.index.samples) == SAMPLES
        assert shard._tar.content.peek(len(content) - 600, 600) != content[-600:]


def test_what_is_kept_has_a_bound(remote, monkeypatch):
    root, size = remote
    monkeypatch.setattr(remote_content, "KEPT_BYTES", size // 2)
    contents = []
    for number in range(SHARDS):
        with TarShard(f"{root}/{number}.tar") as shard:
            contents.append(shard._tar.content)
    kept = remote_content._kept._contents.values()
    assert contents[0] not in kept
    assert contents[-1] in kept
