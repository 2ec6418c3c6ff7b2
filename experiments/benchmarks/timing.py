"""Measuring on a noisy machine: contestants take turns in one run, and what counts is the ratio of a turn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times longer one contestant takes than another.

    Attributes:
      seconds: the median time of the first, a call.
      reference: the median time of the second, a call.
      median: of the ratios turn by turn.
      low: their 10th percentile.
      high: their 90th percentile.
    """

    seconds: float
    reference: float
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """As a cell of the table."""
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"


def interleave(first: Callable[[], object], second: Callable[[], object], turns: int, calls: int) -> Ratio:
    """Times two functions in turns.

    Args:
      first: does its work before it returns.
      second: likewise.
      turns: how often each has its turn.
      calls: how often it is called in a turn.

    Returns:
      The first's time as a multiple of the second's.
    """

    def turn(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls

    turn(first), turn(second)  # Compile, and fill the caches.
    times = np.asarray([[turn(first), turn(second)] for _ in range(turns)])
    ratios = times[:, 0] / times[:, 1]
    seconds, reference = np.median(times, axis=0)
    low, median, high = np.percentile(ratios, [10, 50, 90])
    return Ratio(float(seconds), float(reference), float(median), float(low), float(high))
