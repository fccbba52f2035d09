"""The command compare, and the report that shows what it wrote."""

from __future__ import annotations

import json

from tests.selection.subsets.make_pairs import write_pairs


def test_subsets_are_compared_and_reported(tmp_path, run):
    dataset = write_pairs(tmp_path / "tars")
    dataset.filter("score <= -1").to_selection(tmp_path / "noisy.parquet")
    words = ["--subset", "chosen=score > -1", "--selection", f"noisy={tmp_path / 'noisy.parquet'}"]
    words += ["--seeds", 2, "--samples-seen", 600, "--batch-size", 30, "--held-out", "number < 90"]
    file = tmp_path / "compared.json"
    told = json.loads(run("compare", tmp_path / "tars", *words, "--output", file, "--json"))
    assert told["about"]["held_out"] == 90
    assert {row["subset"] for row in told["table"]} == {"chosen", "noisy"}
    assert json.loads(file.read_text()).items() <= told.items()
    page = tmp_path / "report.html"
    run("report", tmp_path / "tars", "-o", page, "--comparison", file)
    assert "Which subset is better" in page.read_text("utf-8")
    told = run("compare", tmp_path / "tars", "--subset", "all", "--subset", "all=score > 0", code=2)
    assert "'all' is the name of two subsets" in told
