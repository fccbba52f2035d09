"""`Speed`: how fast work goes now, and how long the rest will take."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# How much of the past counts: half of the time so far, or this much where that is more, so that
# partitions of unequal size even out.
_LEAST_SECONDS = 60.0
_LEAST_MARKS = 3
# Marks this close to the last one are one with it: partitions end in bursts, one for each worker.
_BURST_SECONDS = 0.5
_MOST_MARKS = 2000


class _Mark(NamedTuple):
    time: float
    part: float
    rows: int


class Speed:
    """Speed from marks of how much was done when.

    Parameters
    ----------
    clock : callable, default time.monotonic
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self.began = clock()
        self._lock = threading.Lock()
        self._marks = [_Mark(self.began, 0.0, 0)]

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self.began

    def mark(self, part: float, rows: int) -> None:
        """Note how far the work is: the part that is done, 0 to 1, and rows; from any thread."""
        now = self._clock()
        with self._lock:
            last = self._marks[-1]
            if len(self._marks) > 1 and now - last.time < _BURST_SECONDS:
                self._marks[-1] = _Mark(last.time, part, rows)
            else:
                self._marks.append(_Mark(now, part, rows))
            if len(self._marks) > _MOST_MARKS:
                self._marks = [*self._marks[:-1:2], self._marks[-1]]

    def rows_per_second(self) -> float:
        """In the time that counts."""
        first, *_, last = self._recent()
        # A task may return fewer rows than it told of before it ended.
        return max(0, last.rows - first.rows) / max(last.time - first.time, 1e-3)

    def seconds_left(self) -> float | None:
        """Until all is done, if it goes on as fast; None before that can be said."""
        marks = self._recent()
        first, last = marks[0], marks[-1]
        # Of the first mark nobody knows how much of its time went into loading weights.
        if len(self._marks) < _LEAST_MARKS or last.part <= first.part:
            return None
        left = (1 - last.part) * (last.time - first.time) / (last.part - first.part)
        # Counted down until the next mark is due; what stands still longer takes longer.
        idle = self._clock() - last.time
        due = max(after.time - before.time for before, after in itertools.pairwise(marks))
        if idle > due:
            left *= 1 + (idle - due) / max(last.time - first.time, 1e-3)
        return max(0.0, left - min(idle, due))

    def _recent(self) -> list[_Mark]:
        """The marks of the time that counts, at least two."""
        with self._lock:
            marks = [*self._marks]
        # What came before the first mark is soon forgotten, for the same reason.
        marks = marks[1:] if len(marks) > _LEAST_MARKS else marks
        last = marks[-1]
        since = last.time - max(_LEAST_SECONDS, (last.time - self.began) / 2)
        start = bisect.bisect_left(marks, since, key=lambda mark: mark.time)
        recent = marks[max(0, min(start, len(marks) - _LEAST_MARKS)) :]
        return recent if len(recent) > 1 else [last, last]
