"""Hierarchical k-means of vectors in files: centroids of centroids, spread evenly over them.

After Vo et al., "Automatic data curation for self-supervised learning: a clustering-based
approach", 2024 (arXiv 2405.15613), section 3, written from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.compute.progress import Progress
from nemo_image_curate.vectors.blocks import Block, Blocks
from nemo_image_curate.vectors.cuts import Cuts, lowest, ordered, write_values
from nemo_image_curate.vectors.homes import homes
from nemo_image_curate.vectors.kmeans import kmeans
from nemo_image_curate.vectors.nearest import nearest

# Lloyd's steps at most, and how little they may gain (see `kmeans`): with 20 steps the rings of the
# paper are drawn from no more evenly (0.968 and 0.967 after 0.980 and 0.965, seeds 0 and 1). Of
# 90,000 unit vectors and 900 centroids 7 steps are taken: the mean cosine is 0.7587 then, 0.7596
# after 10, and that of FAISS's 10 steps from random starts 0.7557; evenness does not change.
_MAX_ITER = 10
_TOL = {True: 1e-3, False: 1e-5}
# Vectors of a file, where centroids are written to some.
_ROWS = 1 << 16


class HierarchicalKMeans:
    """Finds centroids of vectors, then centroids of these, and so on.

    Plain k-means puts most centroids where most vectors are. Here each level is found again
    `steps` times among the few vectors that are nearest to each centroid, so that dense regions
    lose their weight and centroids spread over all regions alike.

    Parameters
    ----------
    levels : sequence of int
        Centroids of each level, the finest first.
    steps : int
        How many times a level is found again.
    seed : int
    folder : Path
        Where levels are kept as they are done, ``level-L-STEP.npy``; on a file system that all
        workers share.
    device : {"cpu", "cuda"}
    progress : bool or None
    spherical : bool
        Vectors and centroids are of length 1.
    """

    def __init__(
        self,
        levels: Sequence[int],
        steps: int,
        seed: int,
        folder: Path,
        device: str,
        progress: bool | None,
        spherical: bool,
    ):
        self.levels = levels
        self.steps = steps
        self.seed = seed
        self.folder = folder
        self.device = device
        self.progress = progress
        self.spherical = spherical

    def fit(self, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """The hierarchy over the vectors of some files.

        Parameters
        ----------
        paths : sequence of path
            ``.npy`` files of vectors, shape (m, d), float32.

        Returns
        -------
        centroids : numpy.ndarray of float32, shape (k, d)
            Of the first level.
        ancestors : numpy.ndarray of int32, shape (levels, k)
            The number of each of these in each level; in the first its own.
        """
        import torch

        label, rounds = "hierarchical k-means", len(self.levels) * (self.steps + 1)
        with Progress(label, rounds, self.progress, unit="rounds").running() as bar:
            centroids = [self._level(0, paths, bar)]
            ancestors = [np.arange(len(centroids[0]))]
            for number in range(1, len(self.levels)):
                below = centroids[-1]
                files = self._files(below, f"level-{number}-vectors")
                centroids.append(self._level(number, files, bar))
                children, parents = (torch.from_numpy(array) for array in (below, centroids[-1]))
                home, _ = homes(children, parents, self.spherical)
                ancestors.append(home.numpy()[ancestors[-1]])
        return centroids[0], np.stack(ancestors).astype(np.int32)

    def _files(self, vectors: np.ndarray, name: str) -> list[Path]:
        paths = []
        for start in range(0, len(vectors), _ROWS):
            paths.append(self.folder / f"{name}-{start // _ROWS:05d}.npy")
            with storage.atomic_write(str(paths[-1])) as file:
                np.save(file, vectors[start : start + _ROWS])
        return paths

    def _level(self, number: int, paths: Sequence[Path], bar: Progress) -> np.ndarray:
        """The centroids of a level, from where an earlier run stopped."""
        centroids = np.empty((0, 0), dtype=np.float32)
        for step in range(self.steps + 1):
            place = self.folder / f"level-{number}-{step:03d}.npy"
            if not place.exists():
                chosen = self._nearest_vectors(paths, centroids) if step else paths
                centroids = self._kmeans(chosen, number, step)
                with storage.atomic_write(str(place)) as file:
                    np.save(file, centroids)
            centroids = np.load(place)
            bar.end(None)
        return centroids

    def _kmeans(self, paths: Sequence[Path], number: int, step: int) -> np.ndarray:
        seed = int(np.random.SeedSequence((self.seed, number, step)).generate_state(1)[0])
        return kmeans(
            paths,
            self.levels[number],
            seed,
            self.folder,
            self.device,
            False,
            spherical=self.spherical,
            max_iter=_MAX_ITER,
            tol=_TOL[self.spherical],
        )

    def _nearest_vectors(self, paths: Sequence[Path], centroids: np.ndarray) -> list[Path]:
        """Files of the vectors nearest to each centroid: half of what a cluster has on average."""
        blocks = Blocks(paths, self.folder, self.device, False, self.spherical)
        shifted = blocks.shifted(centroids)
        sizes = np.sum(blocks.map(_write_homes, shifted), axis=0)
        quota = max(1, round(sum(blocks.sizes) / len(centroids) / 2))
        homes_paths = [_homes_path(block) for block in blocks]
        cuts = lowest(homes_paths, np.minimum(sizes, quota), self.folder, "resample", False)
        cuts.save(self.folder / "nearest.npz")
        return blocks.map(_write_nearest, shifted, self.folder / "nearest.npz")


def _homes_path(block: Block) -> Path:
    return block.path.with_name(f"{block.path.stem}-homes.npz")


def _write_homes(block: Block, centroids_path: Path) -> np.ndarray:
    """Write each vector's centroid and distance; runs on a worker.

    Returns
    -------
    numpy.ndarray of int64
        How many vectors each centroid has.
    """
    import torch

    vectors = block.vectors()
    centroids = torch.from_numpy(np.load(centroids_path)).to(block.device)
    home = nearest(vectors, centroids, 1, block.spherical)[0][:, 0]
    # Not by the products, which may be coarse.
    distance = (vectors - centroids[home]).square().sum(dim=1).cpu().numpy()
    places = np.arange(block.start, block.start + len(vectors), dtype=np.uint64)
    write_values(_homes_path(block), home.cpu().numpy(), np.stack([ordered(distance), places]))
    counts: np.ndarray = torch.bincount(home, minlength=len(centroids)).cpu().numpy()
    return counts


def _write_nearest(block: Block, centroids_path: Path, cuts_path: Path) -> Path:
    """Write the vectors that are within the cuts of their centroids; runs on a worker."""
    cuts = Cuts.load(cuts_path)
    with np.load(_homes_path(block)) as arrays:
        is_near = cuts.includes(arrays["groups"], arrays["values"])
    path = block.path.with_name(f"{block.path.stem}-near.npy")
    with storage.atomic_write(str(path)) as file:
        np.save(file, np.load(block.path, mmap_mode="r")[is_near])
    return path
