"""The section of subsets shows a comparison as it was made, whatever subsets are called."""

from __future__ import annotations

import numpy as np

from nemo_image_curate import ImageTextPairDataset, SubsetComparison, write_report
from nemo_image_curate.selection.subsets.intervals import compared
from tests.report.conftest import HOSTILE


def test_a_comparison_is_shown(tars, tmp_path):
    chance = np.random.default_rng(0)
    hits = {"retrieval": (chance.random((2, 3, 2, 50)) < [[[[0.9]]], [[[0.1]]]]).astype(float)}
    counts = {"rows": 9, "no_text": 0, "not_sampled": 0, "trained_on": 9}
    about = {"samples_seen": 1, "batch_size": 1, "seeds": 3, "held_out": 50, "classes": 0}
    about |= {"leaks": {}, "not_in_dataset": {"good": 3}}
    names = ["good", HOSTILE]
    comparison = SubsetComparison.of(
        dict.fromkeys(names, counts), hits, compared(names, hits), about
    )
    comparison.save(tmp_path / "compared.json")
    dataset = ImageTextPairDataset.from_webdataset(tars, backend="cpu")
    page = tmp_path / "report.html"
    write_report(dataset, page, comparison=tmp_path / "compared.json", progress=False)
    text = page.read_text("utf-8")
    assert 'id="which-subset-is-better"' in text
    assert "good better than" in text
    assert "3 rows that its file lists are not in the dataset" in text
    assert "<script>document.title" not in text
