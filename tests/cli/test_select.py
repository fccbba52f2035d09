"""The commands filter and select, by what was chosen elsewhere and by stages that choose."""

from __future__ import annotations

import json

from tests.dataset.opened import open_dataset, rows_of
from tests.make_data import make_dataset


def test_filter_writes_what_a_file_lists_as_often(tmp_path, run):
    made = make_dataset(tmp_path / "tars", sizes=[4, 5, 3])
    dataset = open_dataset(made.root)
    dataset.metadata["multiplicity"] = dataset.metadata.width - 31
    dataset.filter("width < 35").to_selection(tmp_path / "chosen")
    told = json.loads(
        run(
            *("filter", made.root, "--selection", tmp_path / "chosen"),
            *("--output", tmp_path / "a", "--json"),
        )
    )
    counts = {name: told[name] for name in ("samples", "kept", "rejected", "written")}
    assert counts == {"samples": 12, "kept": 9, "rejected": 3, "written": 18}
    assert told["not_in_dataset"] == 0
    widths = [row["width"] for row in rows_of(open_dataset(tmp_path / "a"))]
    assert widths == 3 * [32, 33, 33, 34, 34, 34]
    dataset.save_metadata(tmp_path / "meta")
    run(
        *("filter", tmp_path / "meta", "--multiplicity", "multiplicity", "--where", "width < 34"),
        *("--output", tmp_path / "b", "--json"),
    )
    assert len(open_dataset(tmp_path / "b")) == 9
    assert "say what stays" in run("filter", made.root, "--output", tmp_path / "c", code=2)
