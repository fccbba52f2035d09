"""Masks that users make of frames: of this dataset's rows, or refused."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import pytest

from nemo_image_curate import frames
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.quality.captions import CaptionStatistics
from nemo_image_curate.quality.digest import ImageDigest
from tests.dataset.opened import open_dataset, rows_of


@pytest.fixture
def dataset(made, backend):
    return open_dataset(made.root, backend=backend)


def other_table(dataset) -> dd.DataFrame:
    """A table with the keys in another order, in fewer partitions."""
    rows = frames.to_arrow(dataset.metadata[["key"]].compute())
    rows = rows.take(list(reversed(range(len(rows))))).append_column(
        "own", [list(range(len(rows)))]
    )
    return dd.from_pandas(rows.to_pandas(), npartitions=1).to_backend(
        "cudf" if dataset.backend == "gpu" else "pandas"
    )


def keys(dataset) -> list[str]:
    return [row["key"] for row in rows_of(dataset)]


def expected(made, condition) -> list[str]:
    chosen = [row["key"] for row in made.rows if condition(row)]
    assert 0 < len(chosen) < len(made.rows)
    return chosen


def test_a_mask_of_the_frame_before_a_merge_is_refused(dataset):
    before = dataset.metadata
    merged = dataset.replace(before.merge(other_table(dataset), on="key", how="left"))
    with pytest.raises(ConfigError, match=r"another frame.*Make the mask from ds\.metadata"):
        merged.filter(before.score > 4)
    kept = merged.filter(merged.metadata.score > 4)
    rows = rows_of(kept)
    assert rows
    assert all(row["score"] > 4 for row in rows)


@pytest.mark.parametrize(
    "mask",
    [
        lambda m, other: other.metadata.score > 4,
        lambda m, other: (m.score > 4) & (other.metadata.width > 3),
        lambda m, other: m.repartition(npartitions=2).score > 4,
        lambda m, other: m.sort_values("score").score > 4,
        lambda m, other: m[m.width > 32].reset_index(drop=True).score > 4,
        lambda m, other: m[m.width > 32].score > 4,
        lambda m, other: m.reset_index(drop=True).score > 4,
        lambda m, other: m.persist().score > 4,
        lambda m, other: m[["score"]] > 4,
        lambda m, other: (m.score > 4).compute(),
        lambda m, other: [True] * 12,
        lambda m, other: da.ones(12, dtype=bool),
    ],
)
def test_masks_of_other_rows_are_refused(dataset, tmp_path, mask):
    other = dataset.save_metadata(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"ds\.metadata of this very dataset"):
        dataset.filter(mask(dataset.metadata, other))


def own_column(m):
    m["doubled"] = m.score * 2
    return m.doubled > 8


@pytest.mark.parametrize(
    "mask",
    [
        lambda m: m.score > 4,
        own_column,
        lambda m: m.assign(s=m.score).rename(columns={"s": "t"}).t > 4,
        lambda m: m.score > m.score.mean(),
        lambda m: m.width.isin([32]),
        lambda m: m.key.str.endswith("1") | (m.score > 6),
        lambda m: ~(m.score.fillna(0) <= 4),
        lambda m: m.map_partitions(lambda part: part.score > 4),
        lambda m: m.map_partitions(lambda part, score: score > 4, m.score),
        lambda m: m.score.astype("float64").between(4.5, 99),
        lambda m: m.score.diff().fillna(0) > 0,
        lambda m: m.score.fillna(0).cumsum() > 9,
    ],
)
def test_masks_of_the_frame_itself_work(dataset, made, mask):
    chosen = mask(dataset.metadata)
    kept = keys(dataset.filter(chosen))
    bools = frames.to_arrow(chosen.compute().to_frame("chosen"))["chosen"].to_pylist()
    assert kept == [key for key, is_in in zip(made.keys, bools, strict=True) if is_in]
    assert 0 < len(kept) < len(made.keys)


def test_masks_of_other_stages_of_the_same_rows(dataset, made):
    digests, captions = ImageDigest()(dataset), CaptionStatistics()(dataset)
    wanted = expected(made, lambda row: row["width"] == 32)
    for other in (dataset, captions, captions.select(["width"])):
        assert keys(digests.filter(other.metadata.width == 32)) == wanted
    m = dataset.metadata
    both = (captions.metadata.caption_words > 0) & (m.width == 32)
    assert keys(digests.filter(both)) == wanted


def test_a_mask_of_the_frame_before_rows_were_dropped(dataset, made):
    m = dataset.metadata
    wanted = expected(made, lambda row: row["width"] > 32 and row["score"] > 4)
    assert keys(dataset.filter("width > 32").filter(m.score > 4)) == wanted
    digests = ImageDigest()(dataset.filter(m.width > 32))
    assert keys(digests.filter(m.score > 4)) == wanted
    dropped = dataset.replace(m[m.width > 32].reset_index(drop=True))
    with pytest.raises(ConfigError, match="another frame"):
        dropped.filter(m.score > 4)
