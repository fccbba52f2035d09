"""Search your own photographs by what they show, in ten lines.

    python tutorials/search_your_photographs.py TEXT [PHOTOGRAPHS [OUTPUT]]

For example: python tutorials/search_your_photographs.py "a cat on a sofa" ~/Pictures

Nothing is downloaded: the encoder comes with the demo extra, and without PHOTOGRAPHS those of
scikit-image and scikit-learn are searched.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nemo_image_curate import ConseEmbedder, ImageTextPairDataset, Searcher, build_index
from nemo_image_curate.demo import photographs as example_photographs
from nemo_image_curate.shards.pack import find_images, pack


def search(text: str, photographs: str, output: str) -> None:
    pack(find_images([photographs]), f"{output}/shards")
    dataset = ImageTextPairDataset.from_webdataset(f"{output}/shards")
    # With the weights of CLIP at hand OpenCLIPEmbedder("ViT-B-32", "openai") finds much better.
    dataset = ConseEmbedder()(dataset).save_metadata(f"{output}/metadata")
    build_index(dataset)
    for hit in Searcher.open(dataset).search(text, k=5):
        print(f"{hit.score:.3f}  {hit.metadata['file']}")


def examples(folder: Path) -> str:
    """A folder with the photographs that scikit-image and scikit-learn carry."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in example_photographs():
        if not (folder / f"{name}.jpg").exists():
            image.save(folder / f"{name}.jpg")
    return str(folder)


def main(text: str, photographs: str = "", output: str = "search-output") -> None:
    search(text, photographs or examples(Path(output, "photographs")), output)


if __name__ == "__main__":
    main(*sys.argv[1:])
