"""What a choice covers, against plain counting."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from nemo_image_curate import ImageTextPairDataset
from nemo_image_curate.errors import ColumnNotFoundError
from nemo_image_curate.selection.concepts import ConceptBalance
from nemo_image_curate.selection.coverage import concept_coverage
from tests.make_embedders import rows
from tests.selection.captioned import dataset, zipf_captions


def evenness(counts: Counter, concepts: int) -> float:
    total = counts.total()
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    return entropy / math.log(concepts)


def test_as_plain_counting_says(tmp_path, backend):
    captions = [*zipf_captions(300, 60), None, None, "nothing"]
    dataset(tmp_path / "in", captions[:250], captions[250:])
    ds = ImageTextPairDataset.from_webdataset(tmp_path / "in", backend=backend)
    words = [f"w{number}" for number in range(60)]
    stage = ConceptBalance(words, 5, "cap", prefix="c_", work_dir=tmp_path / "work")
    marked = stage(ds)
    coverage = concept_coverage(marked, "c_", tmp_path / "work", False)
    told = rows(marked)
    every = Counter(name for row in told for name in row["c_concepts"] or ())
    kept = [row for row in told if row["c_selected"]]
    left = Counter(name for row in kept for name in row["c_concepts"])
    assert (coverage.rows, coverage.selected) == (303, len(kept))
    assert (coverage.without_caption, coverage.without_concept) == (2, 1)
    assert (coverage.concepts, coverage.selected_concepts) == (len(every), len(left))
    chances = [row["c_keep_probability"] or 0 for row in told]
    assert coverage.expected == pytest.approx(sum(chances))
    assert coverage.deviation == pytest.approx(math.sqrt(sum(q * (1 - q) for q in chances)))
    share = len(kept) / 303
    by_chance = sum(1 - (1 - share) ** count for count in every.values())
    assert coverage.random_concepts == pytest.approx(by_chance)
    assert coverage.evenness == pytest.approx(evenness(left, len(every)))
    assert coverage.random_evenness == pytest.approx(evenness(every, len(every)))
    assert coverage.evenness > coverage.random_evenness


def test_nothing_to_measure(tmp_path):
    ds = dataset(tmp_path / "in", ["a dog", None])
    coverage = concept_coverage(ConceptBalance(["cat"], work_dir=tmp_path)(ds))
    assert (coverage.selected, coverage.concepts, coverage.selected_concepts) == (0, 0, 0)
    assert math.isnan(coverage.evenness)
    with pytest.raises(ColumnNotFoundError, match="no column 'concepts'"):
        concept_coverage(ds)
