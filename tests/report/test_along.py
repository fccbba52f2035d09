"""One row for each part of a column's axis."""

from __future__ import annotations

import numpy as np

from nemo_image_curate.report.along import along


def test_a_row_of_each_part_whatever_the_partitions(dataset, rows):
    edges = {"score": np.array([1.0, 3.0, 3.0001, 6.0, 9.0]), "width": np.array([32.0, 62.0])}
    found = along(dataset, edges, ["caption"], seed=1, progress=False)
    scores = [row["score"] for row in rows if row["score"] is not None]
    parts = np.histogram(scores, edges["score"])[0]
    own = found["score"]["score"].to_pylist()
    assert np.histogram(own, edges["score"])[0].tolist() == [min(1, count) for count in parts]
    assert own == sorted(own)
    assert len(found["width"]) == 1
    assert found["score"].column_names == ["key", "shard", "score", "width", "caption"]
    other = dataset.replace(dataset.metadata.repartition(npartitions=1))
    again = along(other, edges, ["caption"], seed=1, progress=False)
    assert all(again[name].equals(found[name]) for name in edges)
    assert not along(dataset, edges, [], seed=2)["width"].equals(found["width"].drop(["caption"]))
