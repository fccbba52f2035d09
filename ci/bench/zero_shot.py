"""How well an encoder labels photographs: quality, not time.

python zero_shot.py [--model offline-conse] [--templates one] [--pictures FOLDER]

FOLDER has pictures whose names begin with a class of ImageNet, as those of
EliSchwartz/imagenet-sample-images do: n02099601_golden_retriever.JPEG. The model is a name that
`embed --model` takes, with a text side. Told are:

- zero-shot top-1 and top-5 among the names of all 1,000 classes;
- labels that a picture may have several of: precision, recall and F1 of the halves that did not
  choose the thresholds, macro-averaged over labels and ten ways to halve;
- a linear probe's accuracy on eight kinds of things with 1, 2 and 4 labelled pictures of each, on
  all others, beside the zero-shot accuracy on these kinds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nemo_image_curate import ImageTextPairDataset, ZeroShotClassifier, frames
from nemo_image_curate.classifiers.logistic import fit
from nemo_image_curate.classifiers.thresholds import best_threshold
from nemo_image_curate.embedders.registry import named_embedder
from nemo_image_curate.embedders.text_image import require_text_side
from nemo_image_curate.models.torchvision_compat import import_timm
from nemo_image_curate.shards.pack import find_images, pack

PICTURES = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet"
# The classes below a synset of WordNet 3.0, by their numbers in ILSVRC2012.
GROUPS = {
    "animal": "0-397",
    "mammal": "101-106 147-299 330-388",
    "dog": "151-268",
    "bird": "7-24 80-100 127-146",
    "reptile": "33-68",
    "fish": "0-6 389-397",
    "food": "922-969",
    "vehicle": "403-405 407-408 417 428 436 444 450 468 472 484 510-511 537 547 554-555 561 565 "
    "569 573 575-576 586 603 609 612 625 627-628 656-657 660-661 665 670-671 675 690 705 717 724 "
    "734 751 757 780 791 802-803 812 814 817 820 829 833 847 864 866-867 870-871 880 895 913-914",
    "clothing": "399-400 411 433 439 445 451-452 457 459 465 474 496 515 518 529 552 560 568 578 "
    "601 608 610 614-615 617 638-639 643 652 655 658 667 689 697 735 775 785 793 806 808 824 834 "
    "841-842 869 887 903 906",
    "musical instrument": "401-402 420 432 486 494 513 541 546 558 566 577 579 593-594 641-642 "
    "683-684 687 699 776 822 875 881 889",
    "building": "406 410 415 421 424-425 437 449 454 458 460 467 483 489 497-498 500 506 509 525 "
    "536 562 580-582 598-599 624 634 649 660 663 668 672 682 698 706 708 716 727 729 743 762 781 "
    "788 799 821 825 832 839 860 863 865 873 877 888 912 915",
}
# Of these a picture shows one.
KINDS = (
    *("dog", "bird", "reptile", "food", "vehicle", "clothing"),
    *("musical instrument", "building"),
)
SHOTS = (1, 2, 4)
REPEATS = 10


def members(group: str) -> set[int]:
    """The numbers of the classes of a group."""
    numbers: set[int] = set()
    for part in GROUPS[group].split():
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def embedded(pictures: Path, embedder: Any) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of pictures, (n, d), and their classes, (n,)."""
    import_timm()
    from timm.data import ImageNetInfo

    info: Any = ImageNetInfo()
    synsets = info.label_names()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        pack(find_images([str(pictures)]), f"{folder}/shards")
        dataset = embedder(ImageTextPairDataset.from_webdataset(f"{folder}/shards", backend="cpu"))
        frame = dataset.metadata[["file", embedder.image_embedding_column]].compute()
    vectors, rows = frames.embedding_array(frame[embedder.image_embedding_column])
    files = frame["file"].iloc[rows]
    return vectors, np.array([synsets.index(Path(name).name.partition("_")[0]) for name in files])


def all_classes(vectors: np.ndarray, truth: np.ndarray, embedder: Any, templates: str) -> None:
    import_timm()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    # Two classes are called crane, and two maillot.
    names = {str(n): info.index_to_description(n).partition(",")[0] for n in range(1000)}
    classifier = ZeroShotClassifier(embedder, names, templates)
    cosines = vectors @ classifier.class_vectors().T
    order = np.argsort(-cosines, axis=1)
    for k in (1, 5):
        print(f"top-{k} among 1,000 names  {(order[:, :k] == truth[:, None]).any(1).mean():.3f}")


def several_labels(vectors: np.ndarray, truth: np.ndarray, embedder: Any, templates: str) -> None:
    classifier = ZeroShotClassifier(embedder, list(GROUPS), templates, multi_label=True)
    scores = vectors @ classifier.class_vectors().T
    shows = np.stack([np.isin(truth, list(members(group))) for group in GROUPS], axis=1)
    results: dict[str, list[np.ndarray]] = {}
    for seed in range(REPEATS):
        order = np.random.default_rng(seed).permutation(len(truth))
        chosen_on, held = np.array_split(order, 2)
        standard = (scores - scores.mean(axis=0)) / scores.std(axis=0)
        for name, values in (("one threshold for all", scores), ("the same, z-scores", standard)):
            common = max(
                np.quantile(values[chosen_on], np.linspace(0.5, 0.99, 50)),
                key=lambda t: _macro(values[chosen_on], shows[chosen_on], [t] * len(GROUPS))[2],
            )
            figures = _macro(values[held], shows[held], [common] * len(GROUPS))
            results.setdefault(name, []).append(figures)
        for name, precision in (("one for each, best F1", None), ("one for each, 0.8", 0.8)):
            cuts = [
                best_threshold(scores[chosen_on, at], shows[chosen_on, at], precision)
                for at in range(len(GROUPS))
            ]
            figures = _macro(scores[held], shows[held], [np.inf if t is None else t for t in cuts])
            results.setdefault(name, []).append(figures)
    for name, parts in results.items():
        precision, recall, f1 = np.mean(parts, axis=0)
        print(f"{name:25} precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}")


def _macro(scores: np.ndarray, shows: np.ndarray, thresholds: Any) -> np.ndarray:
    """Precision, of labels that are given at all, recall and F1, the means over labels."""
    is_given = scores >= np.asarray(thresholds)
    hits = (is_given & shows).sum(axis=0)
    precision = np.divide(
        hits, is_given.sum(axis=0), where=is_given.any(axis=0), out=np.full(len(hits), np.nan)
    )
    recall = hits / np.maximum(1, shows.sum(axis=0))
    f1 = 2 * hits / np.maximum(1, is_given.sum(axis=0) + shows.sum(axis=0))
    return np.array([np.nanmean(precision), recall.mean(), f1.mean()])


def kinds(vectors: np.ndarray, truth: np.ndarray, embedder: Any, templates: str) -> None:
    shows = np.stack([np.isin(truth, list(members(kind))) for kind in KINDS], axis=1)
    rows = np.flatnonzero(shows.sum(axis=1) == 1)
    labels, chosen = shows[rows].argmax(axis=1), vectors[rows].astype(np.float64)
    words = ZeroShotClassifier(embedder, list(KINDS), templates).class_vectors()
    print(
        f"{len(KINDS)} kinds, zero-shot      {((chosen @ words.T).argmax(1) == labels).mean():.3f}"
    )
    for shots in SHOTS:
        accuracies = []
        for seed in range(REPEATS):
            order = np.random.default_rng(seed).permutation(len(rows))
            known = np.concatenate([order[labels[order] == k][:shots] for k in range(len(KINDS))])
            fitted = fit(chosen[known], labels[known], len(KINDS), None, seed)
            held = np.setdiff1d(np.arange(len(rows)), known)
            named = (chosen[held] @ fitted.weight.T + fitted.bias).argmax(axis=1)
            accuracies.append((named == labels[held]).mean())
        print(f"{len(KINDS)} kinds, probe, {shots} each  {np.mean(accuracies):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="offline-conse")
    parser.add_argument("--templates", default="one")
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    options = parser.parse_args()
    embedder = require_text_side(named_embedder(options.model))
    vectors, truth = embedded(options.pictures, embedder)
    print(f"{len(truth)} photographs, {options.model}, templates {options.templates}")
    for part in (all_classes, several_labels, kinds):
        part(vectors, truth, embedder, options.templates)


if __name__ == "__main__":
    main()
