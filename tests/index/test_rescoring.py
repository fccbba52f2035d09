import numpy as np
import pytest

from nemo_image_curate.index.vector_index import build_index
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import kinds, with_lists


@kinds
def test_copies_come_in_the_order_of_their_rows(tmp_path, kind, rerank):
    one = planted(1, dim=32, copies=0, seed=5)[0]
    vectors = np.concatenate(
        [np.tile(one, (150, 1)), planted(300, copies=0), np.tile(one, (150, 1))]
    )
    dataset = write_embeddings(tmp_path / "data", vectors, 130)
    built = with_lists(build_index(dataset, kind=kind, rerank=rerank))
    copies = [*range(150), *range(450, 600)]
    # With 3 hits there are many more copies than candidates.
    for k in (3, 10, 170, 300):
        assert built.search(one[None], k)[1][0].tolist() == copies[:k]
    assert built.search(one[None], 4, np.array([7, 200, 470, 599]))[1][0][:3].tolist() == [
        7,
        470,
        599,
    ]


@pytest.mark.timeout(60)
def test_a_search_ends(many):
    """Looking further has an end, however many rows are alike."""
    _, _, queries, built = many
    one = with_lists(built["ivf", True])
    one.most_candidates = 64
    one.search(queries, 10)
