"""The command report."""

from __future__ import annotations

import json

from tests.make_data import make_dataset


def test_a_report_is_written(tmp_path, run):
    make_dataset(tmp_path / "tars", sizes=[6, 5])
    page = tmp_path / "report.html"
    words = ["--where", "score > 3", "--where", "width >= 33", "--column", "score"]
    words += ["--threshold", "score=4.5", "--pictures", 3, "--json"]
    told = json.loads(run("report", tmp_path / "tars", "-o", page, *words))
    assert told["bytes"] == page.stat().st_size
    text = page.read_text("utf-8")
    assert "Just below 4.5" in text
    assert 'id="column-score"' in text
    assert 'id="column-width"' not in text
    assert "<code>width &gt;= 33</code>" in text


def test_what_cannot_be_used_is_told(tmp_path, run):
    make_dataset(tmp_path / "tars", sizes=[2])
    page = tmp_path / "report.html"
    assert "score" in run("report", tmp_path / "tars", "-o", page, "--where", "scroe > 3", code=2)
    told = run("report", tmp_path / "tars", "-o", page, "--threshold", "score", code=2)
    assert "aesthetic_score=5.0" in told
    assert not page.exists()
