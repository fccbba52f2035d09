"""How many rows have a caption, against Python's Counter, however they are spread."""

from __future__ import annotations

import shutil
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate import ImageTextPairDataset, RepeatedCaptions
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.quality.caption_patterns import normalised
from tests.make_data import digests, write_sidecar, write_tar
from tests.make_embedders import rows


def dataset(folder, shards: list[list[str | None]], backend: str = "cpu") -> ImageTextPairDataset:
    start = 0
    for number, captions in enumerate(shards):
        keys = [f"{start + n:05d}" for n in range(len(captions))]
        start += len(captions)
        write_tar(folder / f"{number:03d}.tar", [(f"{key}.txt", b"") for key in keys])
        columns = {"key": pa.array(keys, pa.string()), "caption": pa.array(captions, pa.string())}
        write_sidecar(folder / f"{number:03d}.parquet", columns)
    return ImageTextPairDataset.from_webdataset(folder, backend=backend)


def counted(captions: list[str | None]) -> list[int | None]:
    texts = normalised(pa.array(captions, pa.string())).to_pylist()
    counts = Counter(texts)
    return [counts[text] if text else None for text in texts]


CAPTIONS = [
    *("a dog", "A  Dog\n", "ａ dog", "eine Katze", "犬", "犬", None, "", " \t", "image"),
    *("IMAGE", "a" * 100_000, "a" * 100_000, "</script>", "e\u0301", "\u00e9", "one", "two"),
]


def test_rows_with_the_same_caption(tmp_path, backend, client):
    ds = dataset(tmp_path / "in", [CAPTIONS[:7], [], CAPTIONS[7:], [None]], backend)
    found = rows(RepeatedCaptions(most=2, work_dir=tmp_path / "work")(ds))
    expected = counted([*CAPTIONS, None])
    assert [row["caption_count"] for row in found] == expected
    assert [row["is_repeated_caption"] for row in found] == [
        None if count is None else count > 2 for count in expected
    ]
    assert expected[:6] == [3, 3, 3, 1, 2, 2]
    assert expected[6:9] == [None] * 3


def test_partitions_and_order_of_shards_change_no_byte(tmp_path, client):
    several = dataset(tmp_path / "several", [CAPTIONS[n : n + 3] for n in range(0, 18, 3)])
    stage = RepeatedCaptions(work_dir=tmp_path / "work")
    once = stage(several).save_metadata(tmp_path / "a")
    again = stage(several).save_metadata(tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    whole = dataset(tmp_path / "whole", [CAPTIONS])
    other = stage(whole).save_metadata(tmp_path / "c")
    assert once.provenance["caption_count"] == other.provenance["caption_count"]
    counts = [row["caption_count"] for row in rows(other)]
    assert counts == [row["caption_count"] for row in rows(again)] == counted(CAPTIONS)


def test_no_process_holds_captions_that_are_there_once(tmp_path):
    ds = dataset(tmp_path / "in", [[f"caption {n}" for n in range(50)] + ["twice"] * 2])
    RepeatedCaptions(work_dir=tmp_path / "work")(ds)
    (folder,) = (tmp_path / "work").glob("*/counts-*")
    assert sum(file.stat().st_size - 128 for file in folder.iterdir()) == 24
    assert not list((tmp_path / "work").glob("*/steps"))


@given(st.lists(st.lists(st.none() | st.sampled_from("ab Aé") | st.text(max_size=4)), max_size=3))
@settings(max_examples=8, deadline=None)
def test_whatever_is_written(tmp_path_factory, shards):
    if not shards:
        return
    folder = tmp_path_factory.mktemp("captions")
    ds = dataset(folder / "in", shards)
    found = rows(RepeatedCaptions(work_dir=folder / "work")(ds))
    everything = [caption for shard in shards for caption in shard]
    assert [row["caption_count"] for row in found] == counted(everything)


def test_what_is_refused(tmp_path):
    ds = dataset(tmp_path / "in", [["a", "a"]])
    with pytest.raises(ConfigError, match="most=0"):
        RepeatedCaptions(most=0)(ds)
    with pytest.raises(ConfigError, match="no captions"):
        RepeatedCaptions("width").run(ds.metadata.assign(width=1).compute())
    counted_ds = RepeatedCaptions(work_dir=tmp_path / "work")(ds)
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(DatasetError, match="Run RepeatedCaptions again"):
        counted_ds.metadata.compute()
