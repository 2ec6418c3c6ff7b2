"""How far a number measured on examples would move had other examples been drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from gen_jax.contracts import UserError


@dataclasses.dataclass(frozen=True)
class Interval:
    """A statistic of the examples at hand, and where it falls for other examples.

    Attributes:
      value: of the examples as they are.
      low: the lower end of the interval.
      high: the upper end.
    """

    value: float
    low: float
    high: float


def interval(
    statistic: Callable[..., float], *samples: np.ndarray, seed: int, num_resamples: int = 200, level: float = 0.95
) -> Interval:
    """The bootstrap percentile interval of a statistic of one or more sets of examples.

    [low, high] = the quantiles (1 ∓ level)/2 of statistic(X₁*, X₂*, …), where X_i* is N_i examples drawn from X_i with
    replacement, each set by itself.

    It holds for statistics that are smooth averages over examples. A resample holds some examples twice or more; where
    that by itself moves the statistic (distances to nearest neighbours, the unbiased kernel distance, whose pairs of
    different examples may then be equal, the Fréchet distance of few examples) the interval is off to one side and may
    leave out `value`.

    See "Bootstrap Methods: Another Look at the Jackknife", Efron, 1979.

    Args:
      statistic: takes as many arrays as there are samples, of their shapes, and returns one number.
      *samples: each [N_i, ...], N_i ≥ 1; a whole row is one example.
      seed: of the draws; the same seed gives the same interval.
      num_resamples: how many, ≥ 2; the ends of a 0.95 interval of 200 still vary by a twentieth of its width or so.
      level: the share of resamples between the ends, in (0, 1).

    Returns:
      The value and the interval's ends.

    Raises:
      UserError: there is no sample, one is empty, the numbers are out of range, or the statistic is not finite.
    """
    arrays = [np.asarray(sample) for sample in samples]
    if not arrays or any(array.ndim == 0 or not len(array) for array in arrays):
        raise UserError(
            f"A bootstrap cannot draw from samples of the shapes {[array.shape for array in arrays]}; give one or more,"
            " each [N, ...] with N of at least 1."
        )
    if num_resamples < 2 or not 0 < level < 1:
        raise UserError(
            f"A bootstrap of num_resamples={num_resamples} has no interval of level={level}; give at least 2 resamples"
            " and a level between 0 and 1."
        )
    random = np.random.default_rng(seed)
    value = float(statistic(*arrays))
    resampled = np.empty(num_resamples)
    for i in range(num_resamples):
        resampled[i] = statistic(*(array[random.integers(0, len(array), len(array))] for array in arrays))
    finite = np.isfinite([value, *resampled])
    if not finite.all():
        raise UserError(
            f"The statistic is not finite for {np.count_nonzero(~finite)} of {num_resamples + 1} draws of the examples;"
            " give examples and a statistic for which it is."
        )
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
