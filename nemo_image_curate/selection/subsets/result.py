"""`SubsetComparison`: what came of a comparison of subsets, as tables, text, HTML and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nemo_image_curate import html, storage
from nemo_image_curate.errors import ConfigError, DatasetError
from nemo_image_curate.selection.subsets.intervals import BETTER, NO_DIFFERENCE
from nemo_image_curate.selection.subsets.trials import RETRIEVAL, ZERO_SHOT
from nemo_image_curate.version import __version__

# What a file of one says it is.
_KIND = "comparison of subsets"
_WORSE = "worse"
# Measures whose differences are told in sentences.
TOLD = (RETRIEVAL, ZERO_SHOT)
PROXY = (
    "A proxy: small heads on frozen features, tried on held-out rows of the same dataset. It ranks "
    "subsets; it does not predict what a CLIP trained on one would reach (DataComp, Gadre et al. "
    "2023, trains one on each)."
)


@dataclass(frozen=True, eq=False, repr=False)
class SubsetComparison:
    """Which subset is better to train on; prints itself as a table.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each subset, by name. Measures are means over seeds, halves and held-out rows,
        0 to 1: ``retrieval``, the mean of the four recalls behind it, by which verdicts are
        given; ``text_to_image_r1``, ``text_to_image_r10``, ``image_to_text_r1``,
        ``image_to_text_r10``; ``zero_shot_top1`` where there are labels. Then where its ``rows``
        went: ``no_image``, ``no_text`` without an embedding; ``kept_out``, since they are held
        out; ``leaks``, copies of held-out rows; ``not_sampled``; ``trained_on``.
    differences : pandas.DataFrame
        A row for each measure and pair: ``measure``; ``subset``, the one that did better, and
        ``than``; their ``difference`` and its 95 % interval, ``low`` and ``high``; ``p`` of this
        pair alone, and ``p_holm`` among all pairs of the measure; ``verdict``, "better" or
        "no difference shown", by the latter.
    about : dict
        How it was made: ``samples_seen``, ``batch_size``, ``seeds``, ``seed``, ``rows``,
        ``held_out``, ``labelled``, ``classes``, ``leaks`` by column, ``not_in_dataset``: how many
        rows files of selections list that are not there.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    about: dict[str, Any]

    @classmethod
    def of(
        cls,
        accounts: Mapping[str, Mapping[str, int]],
        hits: Mapping[str, np.ndarray],
        differences: Sequence[Mapping[str, Any]],
        about: Mapping[str, Any],
    ) -> SubsetComparison:
        """From what heads got right, by measure and then by subset."""
        means = {
            measure: hit.mean((1, 2, 3), dtype=np.float64).tolist() for measure, hit in hits.items()
        }
        measures = pd.DataFrame(means, index=list(accounts))
        table = measures.join(pd.DataFrame.from_dict(accounts, orient="index"))
        return cls(table.rename_axis("subset"), pd.DataFrame(differences), dict(about))

    @property
    def verdicts(self) -> dict[tuple[str, str], str]:
        """The verdict on each pair by retrieval; the subset that did better comes first."""
        df = self.differences[self.differences["measure"] == RETRIEVAL]
        return dict(zip(zip(df["subset"], df["than"], strict=True), df["verdict"], strict=True))

    def verdict(self, subset: str, than: str, measure: str = RETRIEVAL) -> str:
        """Whether a subset is "better" or "worse" than another, or "no difference shown".

        Raises
        ------
        ConfigError
            When this pair was not compared by this measure.
        """
        rows = self.differences[self.differences["measure"] == measure]
        for first, second, verdict in zip(
            rows["subset"], rows["than"], rows["verdict"], strict=True
        ):
            if (first, second) == (subset, than) or (second, first) == (subset, than):
                is_worse = verdict == BETTER and first == than
                return _WORSE if is_worse else str(verdict)
        raise ConfigError(
            f"{subset!r} and {than!r} were not compared by {measure!r}. There are the subsets "
            f"{', '.join(self.table.index)} and the measures "
            f"{', '.join(self.differences['measure'].unique())}."
        )

    def notes(self) -> list[str]:
        """What has to be known of the figures, in sentences."""
        about, table = self.about, self.table
        notes = [
            f"{about['seeds']} seeds: for each, a head is trained on each half of a subset's rows "
            f"with {about['samples_seen']:,} samples seen in batches of {about['batch_size']:,}; "
            f"{about['held_out']:,} rows are held out. In brackets 95 % intervals of differences; "
            "verdicts after Holm's correction for the number of pairs.",
        ]
        if about["classes"]:
            notes.append(
                f"Zero-shot: {about['labelled']:,} held-out rows have a label, of "
                f"{about['classes']:,} classes."
            )
        if table["not_sampled"].any():
            notes.append(
                "Subsets are large: the same share of each was taken by a hash of the keys "
                f"({table['trained_on'].max():,} rows of the largest)."
            )
        if about["leaks"]:
            leaks = ", ".join(f"{name} {count:,}" for name, count in about["leaks"].items())
            notes.append(f"Copies of held-out rows that were not trained on, by column: {leaks}.")
        else:
            notes.append(
                "No column tells copies (sha256, image_sha256, duplicate_of): copies of held-out "
                "rows may be among those trained on. dedup makes such columns."
            )
        notes += [
            f"{name!r}: {count:,} rows that its file lists are not in the dataset."
            for name, count in about["not_in_dataset"].items()
        ]
        return [*notes, PROXY]

    def __repr__(self) -> str:
        heads, rows = self.view()
        widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
        lines = [
            "  ".join(
                cell.ljust(width) if not place else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in [heads, *rows]
        ]
        return "\n".join([*lines, "", *self.sentences(), "", *self.notes()])

    def view(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of the table as texts, measures in per cent."""
        measures = [name for name in self.table.columns if name in set(self.differences["measure"])]
        counts = ["rows", "trained_on"]
        heads = ["subset", *(name.replace("_", " ") for name in [*measures, *counts])]
        rows = [
            [
                str(name),
                *(f"{100 * row[measure]:.1f} %" for measure in measures),
                *(f"{int(row[count]):,}" for count in counts),
            ]
            for name, row in self.table.iterrows()
        ]
        return heads, rows

    def sentences(self) -> list[str]:
        """The verdict on each pair by retrieval, and by labels where there are any."""
        sentences = []
        for row in self.differences.to_dict("records"):
            if row["measure"] in TOLD:
                points = [f"{100 * row[name]:+.1f}" for name in ("difference", "low", "high")]
                is_better = row["verdict"] == BETTER
                link = f"{BETTER} than" if is_better else f"and {row['than']}: {NO_DIFFERENCE},"
                other = f" {row['than']}," if is_better else ""
                sentences.append(
                    f"{row['measure'].replace('_', ' ')}: {row['subset']} {link}{other} "
                    f"{points[0]} points [{points[1]}, {points[2]}]"
                )
        return sentences

    def to_html(self) -> str:
        """The same as HTML, with the differences by all measures."""
        heads, rows = self.view()
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in self.notes())
        columns = ("measure", "subset", "than", "difference", "low", "high", "p_holm", "verdict")
        table = html.table(columns, self.differences[list(columns)].itertuples(index=False))
        return (
            f"{html.table(heads, rows)}<ul>{items}</ul>{notes}"
            f"<details><summary>Differences by all measures</summary>{table}</details>"
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; NaN and infinite ones are None."""
        tables = {
            "table": self.table.reset_index(),
            "differences": self.differences,
        }
        return {
            "kind": _KIND,
            "version": __version__,
            **{name: _records(table) for name, table in tables.items()},
            "about": self.about,
            "notes": self.notes(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a JSON file; `load` reads it."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        location = storage.normalise(path)
        storage.make_dirs(storage.parent(location))
        storage.write_bytes(location, text.encode("utf-8", "backslashreplace"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SubsetComparison:
        """Read what `save` wrote.

        Raises
        ------
        DatasetError
            When the file is not one of these.
        """
        location = storage.normalise(path)
        try:
            with storage.reaching(location), storage.open_read(location) as file:
                values = json.load(file)
            if values["kind"] != _KIND:
                raise KeyError(values["kind"])
            table = pd.DataFrame(values["table"]).set_index("subset")
            return cls(table, pd.DataFrame(values["differences"]), values["about"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{location} is no comparison of subsets; compare --output writes such files."
            ) from error


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, which JSON has."""
    return [
        {name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")
    ]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
