"""Measuring on a noisy machine: contestants take turns in one run, and what counts is the ratio of a turn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Experiment
from gen_jax.train.parallel import Layout

Row = tuple[str, str, str]  # What was measured, the measurement, and its bound.
Call = Callable[[], object]


class Contest(NamedTuple):
    """A function of ours and the same in PyTorch.

    Attributes:
      what: is measured.
      ours: makes our function, on arrays that are there.
      peers: makes those in PyTorch, by how they are run; the quickest counts.
      steps: how many a call makes, of theirs as of ours.
      bound: what the ratio should not exceed; None where none is set.
      check: raises where the two do not compute the same.
    """

    what: str
    ours: Callable[[], Call]
    peers: Callable[[], dict[str, Call]]
    steps: int = 1
    bound: float | None = None
    check: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times longer one contestant takes than another.

    Attributes:
      seconds: the median time of the first, a call.
      reference: the median time of the second, a call.
      median: of the ratios turn by turn.
      low: their 10th percentile.
      high: their 90th percentile.
      turns: how many there were.
    """

    seconds: float
    reference: float
    median: float
    low: float
    high: float
    turns: int

    def __str__(self) -> str:
        """As a cell of the table."""
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"


def interleave(ours: Call, peers: Mapping[str, Call], seconds: float) -> dict[str, Ratio]:
    """Times functions in turns.

    Args:
      ours: does its work before it returns.
      peers: likewise, by name.
      seconds: how long they take turns, within 5 to 25 turns.

    Returns:
      Our time as a multiple of each peer's.
    """
    contestants = [ours, *peers.values()]
    for function in contestants:
        function()  # Compile, and fill the caches.
    calls = max(1, round(0.2 / max(_turn(function, 1) for function in contestants)))
    times: list[list[float]] = []
    start = time.perf_counter()
    while len(times) < 5 or (len(times) < 25 and time.perf_counter() - start < seconds):
        times.append([_turn(function, calls) for function in contestants])
    array = np.asarray(times)
    return {name: _ratio(array[:, 0], array[:, i]) for i, name in enumerate(peers, 1)}


def ratio(first: Call, second: Call, seconds: float) -> Ratio:
    """The first's time as a multiple of the second's, in turns for about so many seconds."""
    return interleave(first, {"": second}, seconds)[""]


def _turn(function: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def _ratio(first: np.ndarray, second: np.ndarray) -> Ratio:
    low, median, high = np.percentile(first / second, [10, 50, 90])
    return Ratio(float(np.median(first)), float(np.median(second)), float(median), float(low), float(high), len(first))


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


def repeat(function: Call, times: int) -> Call:
    """A function that calls another so many times."""

    def several() -> None:
        for _ in range(times):
            function()

    return several
