"""A small dataset with every kind of column, nulls, broken pictures and hostile texts."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from nemo_image_curate import ImageTextPairDataset
from tests.make_data import jpeg, write_sidecar, write_tar

HOSTILE = "</script><script>document.title='owned'</script><!-- \"'><img src=x onerror=alert(1)>"
SIZES = (30, 1, 29)
BROKEN = "0007"


def rows_of(shard: int, size: int) -> list[dict]:
    """The rows of a shard: every tenth without a score, every sixth with a hostile caption."""
    rows = []
    for number in range(size):
        serial = shard * 100 + number
        rows.append(
            {
                "key": f"{serial:04d}" if number % 11 else f'{serial:04d}"<b>',
                "score": None if number % 10 == 3 else math.sin(serial) * 4 + 5,
                "width": 32 + number,
                "label": ("cat", "dog", 'a "b" </table>')[serial % 3],
                "is_dark": serial % 4 == 0,
                "constant": 7,
                "nothing": None,
                "caption": HOSTILE if number % 6 == 0 else f"picture {serial}",
                "image_error": "decode: no image" if f"{serial:04d}" == BROKEN else None,
                "image_embedding": [float(number), 1.0],
            }
        )
    return rows


def write_dataset(root: Path) -> Path:
    """Tars and sidecars; the picture of one row is no picture."""
    schema = {"score": pa.float32(), "width": pa.int64(), "constant": pa.int32()}
    schema |= {"is_dark": pa.bool_(), "image_embedding": pa.list_(pa.float32())}
    for shard, size in enumerate(SIZES):
        rows = rows_of(shard, size)
        members = [
            (f"{row['key']}.jpg", b"none" if row["key"] == BROKEN else jpeg(shard * 100 + number))
            for number, row in enumerate(rows)
        ]
        write_tar(root / f"{shard:05d}.tar", members)
        fields = [(name, schema.get(name, pa.string())) for name in rows[0]]
        table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
        write_sidecar(root / f"{shard:05d}.parquet", table)
    return root


@pytest.fixture(scope="package")
def tars(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("report") / "photos")


@pytest.fixture
def dataset(tars):
    return ImageTextPairDataset.from_webdataset(tars, backend="cpu")


@pytest.fixture(scope="session")
def rows():
    return [row for shard, size in enumerate(SIZES) for row in rows_of(shard, size)]
