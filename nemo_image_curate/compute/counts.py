"""`Counts`: what a job has done so far, in figures."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any

from nemo_image_curate.compute.speed import Speed
from nemo_image_curate.compute.warned import Warned, merge


class Counts:
    """Counts what tasks say while they run, and what they return.

    Parameters
    ----------
    job : str
        What is being done.
    stage : str or None
        Which stage of how many it belongs to.
    total : int
        How many partitions.
    unit : str
        What is counted.
    rows_expected : int or None
        How many rows all partitions have, where that is known.
    """

    def __init__(
        self, job: str, stage: str | None, total: int, unit: str, rows_expected: int | None
    ):
        self.job, self.stage, self.total, self.unit = job, stage, total, unit
        self.done = 0
        self.failed: Counter[str] = Counter()
        self.warned: Warned = {}
        self._rows = 0
        self._rejected: Counter[str] = Counter()
        self._rows_expected = rows_expected
        # Of tasks that run, by number: rows so far, and those rejected; and which have ended.
        self._hearing: dict[int, tuple[int, Mapping[str, int]]] = {}
        self._ended: set[int] = set()
        self._speed = Speed()

    @property
    def rows(self) -> int:
        """That went through, rejected ones among them."""
        return self._rows + sum(rows for rows, _ in [*self._hearing.values()])

    @property
    def rejected(self) -> Counter[str]:
        """How many rows were rejected, by reason."""
        rejected = Counter(self._rejected)
        for _, counts in [*self._hearing.values()]:
            rejected.update(counts)
        return rejected

    def hear(self, number: int, rows: int, rejected: Mapping[str, int]) -> None:
        """Take what a task says of itself before it ends."""
        # The message may come after the task's end.
        if number not in self._ended:
            self._hearing[number] = rows, rejected
            self._mark()

    def stop_hearing(self, number: int) -> None:
        """A task has ended: what it returned is counted in place of what it said."""
        self._ended.add(number)
        self._hearing.pop(number, None)

    def warn(self, warned: Warned) -> list[str]:
        """Count warnings of a task; what those say that are the first of their kind."""
        new = [kind.first for name, kind in warned.items() if name not in self.warned]
        self.warned = merge(self.warned, warned)
        return new

    def end(self, result: Any) -> None:
        """Count what a task has returned."""
        for summary in result if isinstance(result, list) else [result]:
            if isinstance(summary, dict) and isinstance(summary.get("rows"), int):
                self._count(summary)
        self._end_one()

    def fail(self, error: BaseException) -> None:
        """Count a task that failed."""
        self.failed[type(error).__name__] += 1
        self._end_one()

    def _count(self, summary: dict[str, Any]) -> None:
        dropped = summary.get("dropped") or {}
        left_out = {
            "by condition": dropped.get("by_condition", 0),
            "by null": dropped.get("by_null", 0),
            "missing": summary.get("missing", 0),
        }
        self._rows += summary["rows"] + sum(left_out.values())
        self._rejected.update(summary.get("errors") or {})
        self._rejected.update({reason: count for reason, count in left_out.items() if count})

    def _end_one(self) -> None:
        self.done += 1
        self._mark()

    @property
    def part(self) -> float:
        """How much is done, 0 to 1: of the rows where it is known how many there are."""
        if self._rows_expected and self.rows and self.done < self.total:
            return min(1.0, self.rows / self._rows_expected)
        return self.done / max(1, self.total)

    def _mark(self) -> None:
        self._speed.mark(self.part, self.rows)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._speed.seconds

    def fields(self) -> dict[str, Any]:
        """The figures, as lines of JSON and ``_run.json`` have them.

        Fields are added in later versions, and none is taken away or renamed.

        Returns
        -------
        dict
            ``job``: what is done; ``stage``: of a command, such as "embed 2 of 3", or null;
            ``partitions`` that are done, ``of`` so many; ``rows`` that went through, rejected
            ones among them; ``seconds`` since the job began; ``images_per_second``: rows, in the
            last minute or half of the job, at its end in all of it; ``seconds_left``: null where
            nobody knows; ``rejected``: rows by reason; ``failed``: partitions by error;
            ``warnings``: how many of each kind, by the first one's text.
        """
        left = self._speed.seconds_left() if self.done < self.total else 0.0
        return {
            "job": self.job,
            "stage": self.stage,
            "partitions": self.done,
            "of": self.total,
            "rows": self.rows,
            "seconds": round(self.seconds, 1),
            "images_per_second": round(self._images_per_second(), 1),
            "seconds_left": None if left is None else round(left, 1),
            "rejected": dict(self.rejected),
            "failed": dict(self.failed),
            "warnings": {kind.first: kind.number for kind in self.warned.values()},
        }

    def _images_per_second(self) -> float:
        if self.done < self.total:
            return self._speed.rows_per_second()
        return self.rows / max(self.seconds, 1e-3)

    def parts(self) -> list[str]:
        """How far it is, what is told first being the most important."""
        parts = [f"{self.done:,} of {self.total:,} {self.unit}"]
        if self.rows:
            parts += [f"{self.rows:,} rows", f"{self._images_per_second():,.1f} images/s"]
        left = self._speed.seconds_left() if self.done < self.total else None
        if left:
            parts.append(f"{duration(left)} left")
        for name, counts in (("rejected", self.rejected), ("failed", self.failed)):
            if counts:
                kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
                parts.append(f"{name} {counts.total():,} ({kinds})")
        if warnings := sum(kind.number for kind in self.warned.values()):
            parts.append(f"{warnings:,} warnings")
        return parts


def duration(seconds: float) -> str:
    """A span of time as people read it: 1:02:03."""
    return str(datetime.timedelta(seconds=round(seconds)))
