"""Search photographs by a space that was learned from their own captions.

    python tutorials/learn_from_captions.py [PHOTOGRAPHS CAPTIONS.csv [OUTPUT]]

CAPTIONS.csv has a header, image,caption, and may have several lines for a photograph. Some hundreds
of photographs are needed for anything to be learned; of the few that scikit-image and scikit-learn
carry, which are taken without arguments, nothing is, and it says so.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from nemo_image_curate import AlignedEmbedder, ImageTextPairDataset, Searcher, build_index
from nemo_image_curate.demo import CAPTIONS
from nemo_image_curate.demo import photographs as example_photographs
from nemo_image_curate.shards.pack import find_images, pack, read_captions


def learn(photographs: str, captions: str, output: str) -> None:
    pack(find_images([photographs]), f"{output}/shards", read_captions(captions))
    dataset = ImageTextPairDataset.from_webdataset(f"{output}/shards")

    # Two frozen encoders, and two small projections that are learned now.
    embedder = AlignedEmbedder.fit(dataset, f"{output}/model")
    facts = embedder.summary()
    print(f"{facts['kind']}: of {facts['captions']} captions, {facts['pictures']} photographs")
    # Measured on photographs that were held out.
    for name, figures in facts.get("held_out", {}).items():
        if isinstance(figures, dict):
            print(f"{name}: R@10 {figures['R@10']:.1%}, from {figures['R@10 interval']}")

    # From here on it is an embedder as others are.
    dataset = embedder(dataset).save_metadata(f"{output}/metadata")
    build_index(dataset)
    for hit in Searcher.open(dataset).search("a cat", k=3):
        print(f"{hit.score:.3f}  {hit.metadata['file']}")


def examples(folder: Path) -> tuple[str, str]:
    """The packages' photographs, and their captions."""
    (folder / "photographs").mkdir(parents=True, exist_ok=True)
    with open(folder / "captions.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for name, image in example_photographs():
            if name in CAPTIONS:
                image.save(folder / "photographs" / f"{name}.jpg")
                table.writerow([f"{name}.jpg", CAPTIONS[name]])
    return str(folder / "photographs"), str(folder / "captions.csv")


def main(photographs: str = "", captions: str = "", output: str = "learn-output") -> None:
    if not photographs:
        photographs, captions = examples(Path(output))
    learn(photographs, captions, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
