"""The jobs that `test_in_place` starts, kills and starts again.

python -m tests.dataset.in_place_job FOLDER COLUMN
"""

from __future__ import annotations

import sys
import time
from typing import Any

import pyarrow as pa

from nemo_image_curate import ImageTextPairDataset


def slowly_twice(part: Any) -> dict[str, Any]:
    """Twice the score."""
    time.sleep(0.1)
    return {"twice": part["score"] * 2}


def thrice(part: Any) -> dict[str, Any]:
    """Three times the score."""
    return {"thrice": part["score"] * 3}


COLUMNS = {"twice": slowly_twice, "thrice": thrice}


def add(folder: str, column: str) -> None:
    """Add a column to a saved dataset, in place."""
    dataset = ImageTextPairDataset.from_webdataset(folder, backend="cpu")
    added = dataset.with_columns(COLUMNS[column], {column: pa.float64()})
    added.save_metadata(progress=False)


def run() -> None:
    add(*sys.argv[1:])


if __name__ == "__main__":
    # Under its own name, so that fingerprints are those of the module.
    from tests.dataset import in_place_job

    in_place_job.run()
