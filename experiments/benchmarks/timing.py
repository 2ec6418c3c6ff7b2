"""Measuring on a noisy machine: contestants take turns in one run, and what counts is the ratio of a turn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Experiment
from gen_jax.train.parallel import Layout

Row = tuple[str, str, str]  # What was measured, the measurement, and its bound.
Call = Callable[[], object]


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


def bare_step(experiment: Experiment) -> Callable[[], None]:
    """The compiled step of an experiment, on one batch that is on the device already.

    Args:
      experiment: whose step it is; one call makes its `steps_per_call` steps.

    Returns:
      A function that makes one call and returns when it is done.
    """
    layout, per_call = Layout(), experiment.steps_per_call
    step = layout.wrap_train(experiment.train_step, per_call)
    state = layout.put_state(experiment.init(rng.root(0)))
    source = experiment.train_source
    batch = layout.put_batch(source.batch(0) if per_call == 1 else source.batches(0, per_call), per_call)

    def call() -> None:
        nonlocal state
        state, _ = step(state, batch)
        jax.block_until_ready(state)

    return call


def against(name: str, ours: Callable[[], None], peer: Callable[[], object], per_call: int, turns: int) -> Row:
    """A row of the table: a step of ours against one of a peer's.

    Args:
      name: what is measured.
      ours: makes `per_call` steps.
      peer: makes one step.
      per_call: how many steps one call of ours makes.
      turns: how often each has its turn.

    Returns:
      The row, with the ratio and both times a step.
    """

    def several() -> None:
        for _ in range(per_call):
            peer()

    ratio = interleave(ours, several, turns, calls=max(1, 20 // per_call))
    each = f"{1e3 * ratio.seconds / per_call:.1f} ms against {1e3 * ratio.reference / per_call:.1f} ms"
    return name, f"{ratio}; {each}", ""
