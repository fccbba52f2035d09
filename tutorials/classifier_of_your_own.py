"""A classifier of your own: label some photographs, train, look near the threshold, filter.

    python tutorials/classifier_of_your_own.py PHOTOGRAPHS LABELS OUTPUT

LABELS is a CSV file with the columns file and label, for some of the photographs: true for what you
want to keep, false for what you do not. OUTPUT/near.html shows the photographs that the classifier
is the least sure of, to be labelled next; OUTPUT/wanted holds what it keeps, as WebDataset shards.
"""

from __future__ import annotations

import sys

import pandas as pd

from nemo_image_curate import ImageTextPairDataset, LinearProbe, TimmImageEmbedder
from nemo_image_curate.shards.pack import find_images, pack


def main(photographs: str, labels: str, output: str) -> None:
    pack(find_images([photographs]), f"{output}/shards")
    dataset = ImageTextPairDataset.from_webdataset(f"{output}/shards")
    # No download; with the weights of CLIP at hand OpenCLIPEmbedder tells finer things apart.
    dataset = TimmImageEmbedder("offline")(dataset).save_metadata(f"{output}/metadata")

    # A label belongs to a key; packing kept the name of each file in a column.
    keys = dataset.metadata[["key", "shard", "file"]].to_backend("pandas").compute()
    labelled = keys.merge(pd.read_csv(labels), on="file")
    probe = LinearProbe.fit(dataset, labelled, f"{output}/wanted.safetensors", pred_column="wanted")
    print(probe.report)

    # In one pass over the embeddings: wanted is a bool, wanted_score the probability of it.
    dataset = probe(dataset).save_metadata(f"{output}/metadata")
    dataset.show(8, captions="file", by="wanted_score", around=0.5).save(f"{output}/near.html")
    print(dataset.filter("wanted_score >= 0.5").to_webdataset(f"{output}/wanted"))


if __name__ == "__main__":
    main(*sys.argv[1:])
