"""What docs/selection.md shows: the choice as webdataset and open_clip read it."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

from nemo_image_curate.models.torchvision_compat import import_timm
from tests.dataset.opened import open_dataset
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar

TEXT = (Path(__file__).parents[2] / "docs" / "selection.md").read_text()


def snippet(name: str) -> str:
    (code,) = re.findall(rf"<!-- run: {name} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    return code


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Shards, one below a folder with keys that another has as well, in the current folder."""
    monkeypatch.chdir(tmp_path)
    made = make_dataset(tmp_path / "shards", sizes=[4, 3, 5])
    for row in range(3):
        made.rows.append({"key": f"00000000{row}", "shard": "more/a.tar", "width": 35 + row})
    members = [
        (f"00000000{row}.{kind}", content)
        for row in range(3)
        for kind, content in (("jpg", jpeg(500 + row)), ("txt", f"more {row}".encode()))
    ]
    write_tar(tmp_path / "shards" / "more" / "a.tar", members)
    rows = {"key": [f"00000000{row}" for row in range(3)], "width": [35, 36, 37]}
    write_sidecar(
        tmp_path / "shards" / "more" / "a.parquet",
        {**rows, "caption": [f"more {row}" for row in range(3)]},
    )
    for row in made.rows[-3:]:
        row["caption"] = f"more {row['width'] - 35}"
    return made


def choose(made) -> Counter:
    """A selection with repeats, that leaves out a whole shard; how often each caption comes."""
    dataset = open_dataset(made.root).filter("shard != '00001.tar'")
    dataset.metadata["multiplicity"] = dataset.metadata.width % 3
    dataset.to_selection("chosen.parquet")
    wanted = {row["caption"]: row["width"] % 3 for row in made.rows if row["shard"] != "00001.tar"}
    return +Counter(wanted)


def test_webdataset(made):
    expected = choose(made)
    names: dict = {}
    exec(snippet("webdataset"), names)
    samples = list(names["dataset"])
    assert Counter(text for _, text in samples) == expected
    assert len(samples) == names["chosen"].samples
    assert {image.size for image, _ in samples} == {(32, 24)}
    # Of a plain list each comes once.
    open_dataset(made.root).filter("width > 33").to_selection("chosen.parquet")
    exec(snippet("webdataset"), names)
    texts = Counter(text for _, text in names["dataset"])
    assert texts == Counter(row["caption"] for row in made.rows if row["width"] > 33)


def test_open_clip(made, monkeypatch):
    # Makes torchvision importable beside a torch for CPUs.
    import_timm()
    from open_clip_train import data, params

    expected = choose(made)
    # Puts back what the snippet replaces.
    monkeypatch.setattr(data, "tarfile_to_samples_nothrow", data.tarfile_to_samples_nothrow)
    names: dict = {"__name__": "snippet"}
    exec(snippet("webdataset"), names)
    exec(snippet("open_clip"), names)
    options = ["--batch-size", "1", "--workers", "0"]
    arguments = vars(params.parse_args(names["arguments"] + options)) | {"world_size": 1, "rank": 0}
    loader = data.get_wds_dataset(
        Namespace(**arguments), lambda image: image.size[0], True, tokenizer=lambda text: [text]
    ).dataloader
    texts = [text for _, batch in loader for text in batch]
    assert Counter(texts) == expected


def test_weights(made):
    import webdataset

    dataset = open_dataset(made.root)
    dataset.metadata["weight"] = (dataset.metadata.width - 32) / 2
    dataset.to_selection("chosen.parquet")
    names: dict = {}
    exec(snippet("weights"), names)
    drawn = names["Drawn"]("chosen.parquet", "shards")
    counts: Counter = Counter()
    for _ in range(200):
        samples = webdataset.WebDataset(list(drawn.shards), shardshuffle=False).compose(drawn)
        counts.update(sample["txt"].decode() for sample in samples)
    for row in made.rows:
        chance = (row["width"] - 32) / 5
        # Five standard deviations of a binomial distribution.
        spread = 5 * (200 * chance * (1 - chance)) ** 0.5
        assert counts[row["caption"]] == pytest.approx(200 * chance, abs=spread)
