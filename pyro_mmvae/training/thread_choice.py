"""The choice of a number of CPU threads by timing the steps of a training."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable

import torch

_logger = logging.getLogger(__name__)

_TRIALS = 3  # timed steps per number of threads in each search
_HOPELESS = 3  # times the best: more steps with so slow a number of threads would waste time
_SETTLING = 1  # steps before them, in which the new threads start


class ThreadChoice:
    """The fastest number of CPU threads, found by timing real steps with each candidate.

    The first search tries 1, 2, 4 … and the largest number of threads; later ones, at the start of each epoch, try the
    current number and its neighbours among these, since other processes come and go. The steps of a search train the
    model like any other.

    Args:
        largest: The largest number of threads to try, positive.
        clock: A function that returns the time in seconds; ``time.perf_counter`` by default.
        apply: A function that sets the number of threads; ``torch.set_num_threads`` by default.

    Attributes:
        count: The number of threads in use.
    """

    def __init__(
        self,
        largest: int,
        clock: Callable[[], float] = time.perf_counter,
        apply: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self.candidates = sorted({largest, *(2**power for power in range(largest.bit_length()) if 2**power < largest)})
        self.count, self._clock, self._apply = largest, clock, apply
        self._plan: list[int] = []
        self._seconds: dict[int, list[float]] = {}
        self._found, self._started = False, 0.0

    def start_epoch(self) -> None:
        """Start a search, unless an earlier one is not complete."""
        if not self._plan and len(self.candidates) > 1:
            tried = self.candidates
            if self._found:
                index = self.candidates.index(self.count)
                tried = self.candidates[max(index - 1, 0) : index + 2]
                tried.sort(key=lambda count: count != self.count)  # the others are compared with the current number
            self._seconds = {count: [] for count in tried}
            self._plan = [count for count in tried for _ in range(_SETTLING + _TRIALS)]
            self._use(self._plan[0])
        self._started = self._clock()

    def after_step(self, items: int) -> None:
        """Record the time of a step since the last call, and choose once all were tried.

        Args:
            items: The number of items in the batch of the step.
        """
        if not self._plan:
            return
        count = self._plan.pop(0)
        self._seconds[count].append((self._clock() - self._started) / items)
        medians = {
            count: statistics.median(times[_SETTLING:])
            for count, times in self._seconds.items()
            if len(times) > _SETTLING
        }
        if medians.get(count, 0.0) > _HOPELESS * min(medians.values(), default=0.0):
            self._plan = [other for other in self._plan if other != count]
        if self._plan:
            self._use(self._plan[0])
        else:
            self._use(min(medians, key=lambda count: (medians[count], count)))
            self._found = True
            pace = ", ".join(f"{count}: {1 / seconds:.0f}" for count, seconds in medians.items() if seconds > 0)
            _logger.info("%d threads chosen; items per second by number of threads %s", self.count, pace)
        self._started = self._clock()

    def _use(self, count: int) -> None:
        if count != self.count:
            self._apply(count)
        self.count = count
