"""`ExactDedup`: the same file, or the same pixels, more than once."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nemo_image_curate.dedup.base import ColumnDedup
from nemo_image_curate.dedup.equals import point_to_first
from nemo_image_curate.dedup.exchange import Exchange
from nemo_image_curate.dedup.keep import By
from nemo_image_curate.dedup.staged import StagedRows
from nemo_image_curate.quality.digest import DIGEST_COLUMN, ImageDigest
from nemo_image_curate.stages.base import no_effect


@dataclass(eq=False)
class ExactDedup(ColumnDedup):
    """Finds images that are identical.

    Parameters
    ----------
    of : {"bytes", "pixels"}
        Compare the encoded files, which costs no decoding; or the decoded pixels at full size, so
        that other metadata or another lossless format makes no difference.
    keep : {"first", "random", "best"}
        Which of several duplicates is kept: the first in the dataset, a random one, or the one
        with the best value in the columns `by`.
    by : str or list of str, optional
        Columns of numbers or times. The next one decides where the last are equal; a minus before
        its name means the lowest value: ``["width", "-bytes"]``. Rows without a value come last.
    random_state : int, default 0
        For ``keep="random"``.
    prefix : str, default ""
        Put before the names of the decisions' columns.
    work_dir : str or path, optional
        A folder that all workers share, for intermediate files. Default: in the system's
        temporary folder.
    orientation : {"stored", "exif"}
        With ``of="pixels"``: whether pictures stay as they are stored, or are turned as EXIF says.

    Columns
    -------
    is_duplicate : bool
        False where there is no digest: what could not be compared is nobody's duplicate.
    dedup_error : string
        ``no digest`` for rows without an image, or with ``of="pixels"`` one that cannot be
        decoded; else null.
    duplicate_of, duplicate_of_shard : string
        The row that is kept instead; null for others.
    duplicate_similarity : float32
        1 for duplicates, else null.
    image_sha256 : string
        As `ImageDigest` makes it, and with ``of="pixels"`` its ``image_error``; unless the
        dataset has them already.

    Examples
    --------
    >>> ds = ExactDedup()(ds)
    >>> ds = ds.filter("not is_duplicate")
    """

    of: str = "bytes"
    keep: str = "first"
    by: By = None
    random_state: int = 0
    prefix: str = no_effect("")
    work_dir: str | os.PathLike[str] | None = no_effect(None)
    orientation: str = "stored"

    why_not = "no digest"

    def measure(self) -> ImageDigest:
        """The stage that makes the digests."""
        return ImageDigest(self.of, orientation=self.orientation)

    def inputs(self) -> list[str]:
        """The digest."""
        return [DIGEST_COLUMN]

    def decide(self, staged: StagedRows, values: Exchange, progress: bool | None) -> Exchange:
        """The first of the rows of one digest stands for the others."""
        return point_to_first(values, staged, self.inputs(), progress)
