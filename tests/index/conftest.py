import pytest

from nemo_image_curate.index.vector_index import build_index
from tests.dedup.make_embeddings import planted, write_embeddings
from tests.index.make_index import KINDS


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """3,000 vectors in shards of 700, with columns, and 50 more as queries."""
    vectors = planted(3050, dim=64, copies=0.1, centres=40)
    folder = tmp_path_factory.mktemp("many") / "data"
    columns = {
        "caption": [f"picture {row}" for row in range(3000)],
        "score": [float(row % 100) for row in range(3000)],
    }
    dataset = write_embeddings(folder, vectors[:3000], 700, **columns)
    built = {
        (kind, rerank): build_index(
            dataset, kind=kind, rerank=rerank, path=folder.parent / f"{kind}-{rerank}"
        )
        for kind, rerank in KINDS
    }
    return dataset, vectors[:3000], vectors[3000:], built
