from pathlib import Path

import faiss

from tests.index.make_index import recall, truth


def test_faiss_alone_can_use_the_file(many):
    _, vectors, queries, built = many
    one = built["ivf", True]
    own = faiss.read_index(str(Path(one.path) / one.recipe["files"]["index"]["name"]))
    _, order = truth(vectors, queries, 1)
    # FAISS rounds a query to whole numbers, so it wants a longer one.
    options = faiss.SearchParametersPreTransform(
        index_params=faiss.SearchParametersIVF(nprobe=one.recipe["lists"])
    )
    assert recall(own.search(queries, 10, params=options)[1], order) > 0.9
