"""Find the duplicates in a folder of photographs, and look at them side by side.

    python tutorials/deduplicate_photographs.py PHOTOGRAPHS OUTPUT

OUTPUT/groups.html shows each photograph that is kept with those that it stands for; OUTPUT/clean
holds the photographs without duplicates, as WebDataset shards.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nemo_image_curate import (
    ImageTextPairDataset,
    PerceptualHash,
    SemanticDedup,
    TimmImageEmbedder,
    get_client,
)
from nemo_image_curate.dedup import PerceptualDedup
from nemo_image_curate.shards.pack import find_images, pack


def main(photographs: str, output: str) -> None:
    pack(find_images([photographs]), f"{output}/shards")
    with get_client():
        dataset = ImageTextPairDataset.from_webdataset(f"{output}/shards")
        # One pass over the images makes both the embeddings and the hashes.
        embedder = TimmImageEmbedder("offline", image_stages=[PerceptualHash(flips=True)])
        dataset = embedder(dataset).save_metadata(f"{output}/metadata")

        # The same picture at another size or quality, or mirrored: bits of a hash.
        dataset = PerceptualDedup(flips=True, prefix="picture_")(dataset)
        # Much the same content: cosine similarity of embeddings. What eps is right depends on the
        # model and on the purpose: look at the page, then choose.
        dataset = SemanticDedup(eps=0.15, keep="first", prefix="content_")(dataset)
        dataset = dataset.save_metadata(f"{output}/deduplicated")

        Path(output, "groups.html").write_text(page(dataset), encoding="utf-8")
        # What cannot be decoded is nobody's duplicate, and left out here by itself.
        readable = dataset.filter("image_error.isna()")
        unique = readable.filter("not picture_is_duplicate and not content_is_duplicate")
        print(unique.to_webdataset(f"{output}/clean"))


def page(dataset: ImageTextPairDataset) -> str:
    """Groups of duplicates: the one that is kept first."""
    rows = dataset.metadata.drop(columns="image_embedding").to_backend("pandas").compute()
    parts = ["<!doctype html><meta charset=utf-8><title>duplicates</title>"]
    for kind, title in (("picture", "The same picture"), ("content", "Much the same content")):
        parts.append(f"<h1>{title}</h1>")
        duplicates = rows[rows[f"{kind}_is_duplicate"].fillna(False)]
        for kept, group in duplicates.groupby(f"{kind}_duplicate_of"):
            keys = [kept, *group["key"]]
            likeness = ", ".join(f"{one:.3f}" for one in group[f"{kind}_duplicate_similarity"])
            parts.append(f"<h3>{likeness}</h3>{dataset.show(keys, captions='file').html}")
    return "\n".join(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
