"""`PerceptualDedup`: the same picture at another size or quality."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nemo_image_curate.dedup.base import ColumnDedup
from nemo_image_curate.dedup.equals import follow
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.keep import By
from nemo_image_curate.dedup.near import find_pairs
from nemo_image_curate.dedup.rules import check_rule
from nemo_image_curate.dedup.settle import settle
from nemo_image_curate.dedup.staged import StagedRows
from nemo_image_curate.errors import ConfigError
from nemo_image_curate.quality.perceptual_hash import PerceptualHash
from nemo_image_curate.stages.base import no_effect

_MAX_RADIUS = 31


@dataclass(eq=False)
class PerceptualDedup(ColumnDedup):
    """Finds pictures that are the same but for size, compression and small changes.

    Two images are duplicates when their 64-bit hashes (`PerceptualHash`) differ in at most
    `radius` bits. All such pairs are found.

    Parameters
    ----------
    radius : int, default 6
        Bits of 64. See the notes for what other values and other kinds of pictures give.
    hash : {"phash", "dhash"}
        ``dhash`` is the better one for photographs whose brightness was changed, ``phash`` for
        everything else.
    flips : bool, default False
        Mirrored images are duplicates, too.
    keep : {"first", "random", "best"}
        Which of several duplicates comes first in the keep order: the first in the dataset, a
        random one, or the one with the best value in the columns `by`.
    by : str or list of str, optional
        Columns of numbers or times. The next one decides where the last are equal; a minus before
        its name means the lowest value: ``["width", "-bytes"]``. Rows without a value come last.
    rule : {"greedy", "reference", "components"}
        See `nemo_image_curate.dedup.rules`.
    random_state : int, default 0
        For ``keep="random"``.
    prefix : str, default ""
        Put before the names of the decisions' columns.
    work_dir : str or path, optional
        A folder that all workers share, for intermediate files. Default: in the system's
        temporary folder.
    orientation : {"stored", "exif"}
        Whether pictures are compared as they are stored, or turned as EXIF says.

    Columns
    -------
    is_duplicate : bool
        False where there is no hash: what could not be compared is nobody's duplicate.
    dedup_error : string
        ``no hash`` for rows whose image could not be decoded, or shows too little; else null.
    duplicate_of, duplicate_of_shard : string
        The row that stands for a duplicate; null for others.
    duplicate_similarity : float32
        1 - distance / 64 to that row; null where the two are linked only through others.

    The columns of `PerceptualHash` and ``image_error`` are added, too, unless the dataset has the
    hashes already. Save those before, where they are made together with embeddings: what is not
    saved is computed now, and again when the result is saved.

    Notes
    -----
    Measured at a radius of 6, pHash:

    =========================  ==========  ===============  ===============  =================
    different pictures         without     nearest two      wrongly grouped  variants found
                               a hash      (bits)
    =========================  ==========  ===============  ===============  =================
    1,500 photographs          4           12               0                100 %
    100 screenshots            27          6                1                99 %
    200 line drawings          64          14               0                99 %
    900 icons of three fonts   382         0                38               99 %
    200 plain shapes, colours  91          0                1                100 %
    100 pages of text          92 to 100   4                0 to 2           --
    100 slides of text         60          4                3                --
    =========================  ==========  ===============  ===============  =================

    Variants are scaled by 0.5 to 2 and saved as JPEG of quality 40 to 95. What has no hash is
    nobody's duplicate. Pictures of one layout are alike to the hash: of 40 dark screenshots with
    the same title and side bar and different texts 39 are grouped, none of 40 light ones, which
    have no hash; smooth gradients are, too. Icons that are grouped differ in a small part (a
    battery's level); dHash groups 154 of these. At a radius of 2, 99.9 % of the photographs'
    variants are found. For screenshots, texts, drawings and icons, compare exactly (`ExactDedup`)
    or by embeddings (`SemanticDedup`).

    Examples
    --------
    >>> ds = PerceptualDedup()(ds)
    >>> ds = ds.filter("not is_duplicate")
    """

    radius: int = 6
    hash: str = "phash"
    flips: bool = False
    keep: str = "first"
    by: By = None
    rule: str = "greedy"
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)
    orientation: str = "stored"

    why_not = "no hash"

    def check(self) -> None:
        """Refuse unusable parameters."""
        super().check()
        check_rule(self.rule)
        if self.hash not in ("phash", "dhash"):
            raise ConfigError(f"hash={self.hash!r} should be 'phash' or 'dhash'.")
        if self.radius not in range(_MAX_RADIUS + 1):
            raise ConfigError(
                f"radius={self.radius} should be an integer from 0 to {_MAX_RADIUS}: pictures that "
                "have nothing to do with each other differ in about 32 of 64 bits."
            )

    def measure(self) -> PerceptualHash:
        """The stage that makes the hashes."""
        return PerceptualHash(flips=self.flips, orientation=self.orientation)

    def inputs(self) -> list[str]:
        """The hashes to compare."""
        return [self.hash, self.hash + "_flipped"] if self.flips else [self.hash]

    def decide(self, staged: StagedRows, values: Exchange, progress: bool | None) -> Exchange:
        """The rule on all pairs of different hashes, and equal ones after the first of them."""
        pairs, followers = find_pairs(values, staged, self.inputs(), self.radius, progress)
        decided = settle(self.rule, pairs, staged, progress)
        return follow(decided, followers, staged, progress)
