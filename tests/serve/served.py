"""A service over the tars in a folder, for tests to start as a process of its own.

python -m tests.serve.served FOLDER OPTIONS, with the options of `run_service` as JSON, those of
`Settings` under "settings", the path of a "store", and "real" for a real encoder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nemo_image_curate import ConseEmbedder, ImageEmbedder, ImageTextPairDataset
from nemo_image_curate.index.vector_index import build_index
from nemo_image_curate.search.captions import build_captions
from nemo_image_curate.search.live.store import ChromaStore
from nemo_image_curate.search.searcher import Searcher
from nemo_image_curate.serve import Settings, run_service
from tests.serve.pictures import ColourEmbedder


def prepare(folder: Path, embedder: ImageEmbedder) -> ImageTextPairDataset:
    """The dataset of the folder's tars with embeddings and indexes."""
    if not (folder / "data").exists():
        dataset = ImageTextPairDataset.from_webdataset(folder / "tars", backend="cpu")
        embedded = embedder(dataset).save_metadata(folder / "data", progress=False)
        build_index(embedded, progress=False)
        if "caption" in embedded.metadata.columns:
            build_captions(embedded, progress=False)
    return ImageTextPairDataset.from_webdataset(folder / "data", backend="cpu")


def main() -> None:
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    settings = Settings(**options.pop("settings", {}))
    embedder = ConseEmbedder() if options.pop("real", False) else ColourEmbedder()
    dataset = prepare(folder, embedder)
    store_path = options.pop("store", None)
    store = ChromaStore(store_path, embedder) if store_path else None
    searcher = Searcher.open(dataset, embedder, store)
    run_service(searcher, dataset, store, settings, **options)


if __name__ == "__main__":
    main()
