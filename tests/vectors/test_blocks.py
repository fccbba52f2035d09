import numpy as np
import pytest

from nemo_image_curate.vectors.blocks import write_blocks


@pytest.mark.parametrize("sizes", [[], [0, 0], [5], [8191, 1, 3], [9000, 20_000], [4000] * 7])
def test_blocks_hold_the_arrays_in_their_order(tmp_path, sizes):
    values = np.arange(sum(sizes) * 2, dtype=np.float32).reshape(-1, 2)
    arrays = np.split(values, np.cumsum(sizes)[:-1]) if sizes else []
    blocks = write_blocks(iter(arrays), tmp_path)
    assert [path.name for path in blocks] == [f"block-{n:05d}.npy" for n in range(len(blocks))]
    parts = [np.load(path) for path in blocks]
    assert all(len(part) >= 8192 for part in parts[:-1])
    assert len(blocks) >= bool(sizes)
    assert (np.concatenate([values[:0], *parts]) == values).all()
