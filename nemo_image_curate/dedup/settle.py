"""From near-duplicates in buckets to decisions: the rules, applied by many tasks."""

from __future__ import annotations

import numpy as np

from nemo_image_curate.dedup.components import by_component
from nemo_image_curate.dedup.equals import send_partners
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.pairs import ranked_pairs
from nemo_image_curate.dedup.rules import decide
from nemo_image_curate.dedup.staged import StagedRows


def settle(rule: str, pairs: Exchange, staged: StagedRows, progress: bool | None) -> Exchange:
    """Apply a rule to all pairs there are.

    Memory: a worker holds the largest connected component, or a bucket of small ones.

    Parameters
    ----------
    rule : {"greedy", "reference", "components"}
    pairs : Exchange
        To buckets of later rows.
    staged : StagedRows
    progress : bool or None

    Returns
    -------
    Exchange
        To the blocks of the rows that go: ``row``, ``partner``, ``similarity``.
    """
    if rule != "reference" and pairs.receivers > 1:
        pairs = by_component(pairs, progress)
    decided = Exchange(pairs.folder, "decided", pairs.receivers, len(staged.blocks))
    decided.fill(_settle, [(rule, pairs, staged.starts)] * decided.senders, "decide", progress)
    return decided


def _settle(decided: Exchange, sender: int, rule: str, pairs: Exchange, starts: np.ndarray) -> None:
    """Decide about the rows of a bucket; runs on a worker."""
    rows, pairs_of_bucket = ranked_pairs(pairs.read(sender))
    decisions = decide(rule, pairs_of_bucket, len(rows))
    gone = np.flatnonzero(decisions.duplicate_of >= 0)
    partners = rows[decisions.duplicate_of[gone]]
    send_partners(
        decided, sender, rows[gone], partners, decisions.similarity[gone], starts, rows[gone]
    )
