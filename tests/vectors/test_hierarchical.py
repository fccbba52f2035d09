from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree
from scipy.stats import entropy

from nemo_image_curate.vectors.hierarchical import HierarchicalKMeans
from tests.vectors.make_blocks import five_rings, write_blocks


def test_resampling_spreads_centroids_over_sparse_regions(tmp_path):
    points, rings = five_rings(1, share=0.2)
    paths = write_blocks(tmp_path / "points", points, 2000)

    def evenness(steps):
        """Entropy of the rings that the second level's centroids lie in, over ln 5."""
        folder = tmp_path / f"steps-{steps}"
        folder.mkdir()
        search = HierarchicalKMeans((200, 60), steps, 0, folder, "cpu", False, spherical=False)
        centroids, ancestors = search.fit(paths)
        assert ancestors.dtype == np.int32
        assert (ancestors[0] == np.arange(len(centroids))).all()
        coarse = np.load(folder / f"level-1-{steps:03d}.npy")
        assert (ancestors[1] == KDTree(coarse).query(centroids)[1]).all()
        return entropy(np.bincount(rings[KDTree(points).query(coarse)[1]], minlength=5)) / np.log(5)

    # The same k-means without: what is dense has more centroids.
    assert evenness(0) < 0.9 < evenness(4)
