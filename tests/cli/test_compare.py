"""The command compare, and the report that shows what it wrote."""

from __future__ import annotations

import json

from click.testing import CliRunner

from nemo_image_curate.cli import main
from tests.selection.subsets.make_pairs import write_pairs


def told(*words: object, code: int = 0) -> str:
    """What a command prints; in this process, since to start workers takes longer than all else."""
    done = CliRunner().invoke(main, [*map(str, words), "--backend", "cpu"])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def test_subsets_are_compared_and_reported(tmp_path):
    dataset, file, page = tmp_path / "tars", tmp_path / "compared.json", tmp_path / "report.html"
    write_pairs(dataset).filter("score <= -1").to_selection(tmp_path / "noisy.parquet")
    words = ["--subset", "chosen=score > -1", "--selection", f"noisy={tmp_path / 'noisy.parquet'}"]
    words += ["--seeds", 2, "--samples-seen", 600, "--batch-size", 30, "--held-out", "number < 90"]
    record = json.loads(told("compare", dataset, *words, "--output", file, "--json"))
    assert record["about"]["held_out"] == 90
    assert {row["subset"] for row in record["table"]} == {"chosen", "noisy"}
    assert json.loads(file.read_text()).items() <= record.items()
    told("report", dataset, "-o", page, "--comparison", file)
    assert "Which subset is better" in page.read_text("utf-8")


def test_a_name_has_one_subset(tmp_path):
    words = ["--subset", "all", "--subset", "all=score > 0"]
    assert "'all' is the name of two subsets" in told("compare", tmp_path, *words, code=2)
    assert "should be NAME=FILE" in told("compare", tmp_path, "--selection", "a", code=2)
