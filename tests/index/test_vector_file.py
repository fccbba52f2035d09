import numpy as np

from nemo_image_curate.index.vector_file import VectorFile, write_vectors
from tests.dedup.make_embeddings import planted


def test_vectors_are_kept_as_float16(tmp_path):
    vectors = planted(9000, dim=8)
    write_vectors(tmp_path / "first", [vectors[:10], vectors[10:10], vectors[10:8500]])
    write_vectors(tmp_path / "whole", [vectors[8500:]], before=tmp_path / "first")
    assert (tmp_path / "whole").read_bytes() == vectors.astype(np.float16).tobytes()
    file = VectorFile(tmp_path / "whole", 8)
    assert len(file) == 9000
    expected = vectors.astype(np.float16).astype(np.float32)
    assert file.read(slice(3, 9)).dtype == np.float32
    assert (file.read(slice(3, 9)) == expected[3:9]).all()
    assert (file.read(np.array([8999, 0, 0])) == expected[[8999, 0, 0]]).all()
