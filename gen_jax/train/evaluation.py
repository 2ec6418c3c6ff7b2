"""Exact averages over a test set: (sum, count) pairs, added in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gen_jax.contracts import Batch, Source, UserError
from gen_jax.train import parallel


def evaluate(
    step: Callable[[Any, Batch], dict[str, Any]],
    state: Any,
    source: Source,
    layout: parallel.Layout,
    on_batch: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Averages an evaluation step over every test example, each counted once.

    Args:
      step: a wrapped `eval_step` (`Layout.wrap_eval`).
      state: as `Layout.put_state` returns it.
      source: of the test examples.
      layout: of the devices.
      on_batch: called after each batch with the number of examples evaluated so far.

    Returns:
      The mean of each value, float64.

    Raises:
      UserError: where a mean is not finite, naming it.
    """
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for batch in source.evaluation():
        for name, pair in step(state, layout.put_batch(batch)).items():
            total, count = (np.asarray(part, np.float64) for part in pair)
            sums[name] = sums.get(name, 0.0) + total
            counts[name] = counts.get(name, 0.0) + count
        on_batch(int(max(counts.values())))
    means = {name: sums[name] / counts[name] for name in sums}
    for name, value in means.items():
        if not np.all(np.isfinite(value)):
            raise UserError(f"The test value of '{name}' is not finite; the checkpoint or the test data are unusable.")
    return means
