import pytest

from nemo_image_curate.errors import ConfigError
from nemo_image_curate.index.kinds.table import check_settings, choose


def test_by_size():
    assert choose(50_000, 512).name == "flat"
    assert choose(50_001, 512).name == "ivf"
    assert choose(100, 512, "ivf").name == "ivf"
    assert choose(10**7, 512, "flat").name == "flat"


def test_a_million_fits_in_500_mb():
    plan = choose(10**6, 512)
    assert plan.lists == 2000
    assert plan.memory_bytes < 300e6
    assert plan.disk_bytes == pytest.approx(1.3e9, rel=0.05)
    assert "ivf: 1,000,000 vectors of 512 values" in str(plan)
    assert "MB in memory" in str(plan)


@pytest.mark.parametrize("dim", [2, 31, 32, 48, 100, 256, 257, 512, 768])
@pytest.mark.parametrize("count", [1, 39, 40, 10_000, 10**6])
def test_any_shape_has_lists_and_a_width(count, dim):
    plan = choose(count, dim, "ivf")
    assert 1 <= plan.lists <= max(1, count // 40)
    assert 1 <= plan.width <= dim
    whole = choose(count, dim, "ivf", rerank=False)
    assert whole.width == dim


def test_max_memory_is_respected_or_refused():
    wide = choose(10**6, 512)
    narrow = choose(10**6, 512, max_memory=100 * 10**6)
    assert narrow.memory_bytes <= 100 * 10**6 < wide.memory_bytes
    assert narrow.width < wide.width
    # A flat index that is too large is not chosen.
    assert choose(40_000, 512).name == "flat"
    assert choose(40_000, 512, max_memory=20 * 10**6).name == "ivf"
    with pytest.raises(ConfigError, match=r"Allow [\d,]+; it cannot be smaller"):
        choose(10**6, 512, max_memory=30 * 10**6)
    with pytest.raises(ConfigError, match="kind='ivf' takes less"):
        choose(10**6, 512, "flat", max_memory=10**9)
    with pytest.raises(ConfigError, match="rerank=True takes less"):
        choose(10**6, 512, "ivf", rerank=False, max_memory=500 * 10**6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("hnsw", True, 0.9, None), "kind='hnsw'"),
        (("auto", True, 0.0, None), "target_recall=0.0"),
        (("auto", True, 1.5, None), "target_recall=1.5"),
        (("auto", True, 0.9, 0), "max_memory=0"),
        (("cuvs", False, 0.9, None), "rerank=True"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(*settings)
