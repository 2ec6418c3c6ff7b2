"""How far a number measured on examples would move had other examples been drawn.

Two ways to redraw the examples at hand, a formula that needs no redrawing, and which metric each is for:

* `interval`, the bootstrap: as many examples with replacement. For smooth averages over examples: a mean log-likelihood
  (`parzen`), the number of modes covered (`modes`).
* `half_sample_interval`: half of the examples without replacement, so that none stands there twice. For the Fréchet
  distance, the kernel distance, the inception score, and precision, recall, density and coverage.
* `share_interval`, Wilson's: for the share of examples of which something is true: accuracy, samples near a mode
  (`modes`). Where it is true of all or none of them, no redrawing shows any doubt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

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
    different examples may then be equal, the Fréchet distance) the interval is off to one side and may leave out
    `value`: `half_sample_interval` is for those.

    See "Bootstrap Methods: Another Look at the Jackknife", Efron, 1979 (Annals of Statistics 7), Section 2, and for the
    quantiles "Nonparametric Standard Errors and Confidence Intervals", Efron, 1981 (Canadian Journal of Statistics 9),
    pages 139 to 158.

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
    arrays = _checked(samples, 1, num_resamples, level)
    random = np.random.default_rng(seed)
    value = float(statistic(*arrays))
    resampled = np.empty(num_resamples)
    for i in range(num_resamples):
        resampled[i] = statistic(*(array[random.integers(0, len(array), len(array))] for array in arrays))
    _check_finite(np.append(resampled, value))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def half_sample_interval(
    statistic: Callable[..., float], *samples: np.ndarray, seed: int, num_resamples: int = 50, level: float = 0.95
) -> Interval:
    """The interval of a statistic by how it varies over random halves of the examples.

    θ ∓ t s, where θ is the statistic of all examples, s its standard deviation over R halves, drawn without
    replacement, each set's by itself, and t the quantile (1 + level)/2 of Student's distribution with R − 1 degrees of
    freedom.

    For a statistic that is nearly linear in the empirical distributions the variance over halves of given examples is
    (2/N − 1/N) σ² = σ²/N, that of the statistic itself: nothing needs scaling. No example stands twice in a half, so
    nearest neighbours and unbiased sums over pairs keep their meaning. Where the statistic is not linear the interval
    errs to the wide side: by a factor of up to √3 for one that is quadratic (a Fréchet or kernel distance of samples
    that are as good as data), and of √2 or so for one of nearest neighbours, which overlapping halves do not share.

    It is about the expectation of the statistic for as many examples. Where that depends on their number, as the
    Fréchet distance's does, the interval knows nothing of what more examples would give.

    See "A General Theory for Jackknife Variance Estimation", Shao and Wu, 1989 (Annals of Statistics 17), pages
    1176 to 1197, on leaving out d examples at a time.

    Args:
      statistic: as in `interval`, but of any number of examples.
      *samples: each [N_i, ...], N_i ≥ 4; a whole row is one example. Where N_i is odd a half is (N_i − 1)/2.
      seed: of the draws; the same seed gives the same interval.
      num_resamples: R ≥ 2; s has a relative error of 1/√(2R), for which t makes up.
      level: the chance of holding the expectation, in (0, 1).

    Returns:
      The value and the interval's ends.

    Raises:
      UserError: there is no sample, one is too small, the numbers are out of range, or the statistic is not finite.
    """
    found = half_sample_intervals(
        lambda *arrays: {"": statistic(*arrays)}, *samples, seed=seed, num_resamples=num_resamples, level=level
    )
    return found[""]


def half_sample_intervals(
    statistics: Callable[..., Mapping[str, float]],
    *samples: np.ndarray,
    seed: int,
    num_resamples: int = 50,
    level: float = 0.95,
) -> dict[str, Interval]:
    """`half_sample_interval` of several statistics, of the same halves.

    Args:
      statistics: takes as many arrays as there are samples, and returns numbers by name.
      *samples: as there.
      seed: as there.
      num_resamples: as there.
      level: as there, for each statistic by itself.

    Returns:
      The intervals by name.

    Raises:
      UserError: as there.
    """
    from scipy.special import stdtrit

    arrays = _checked(samples, 4, num_resamples, level)
    random = np.random.default_rng(seed)
    values = {name: float(value) for name, value in statistics(*arrays).items()}
    halves = np.empty((num_resamples, len(values)))
    for i in range(num_resamples):
        found = statistics(*(array[random.permutation(len(array))[: len(array) // 2]] for array in arrays))
        halves[i] = [found[name] for name in values]
    _check_finite(np.vstack([halves, list(values.values())]))
    reach = stdtrit(num_resamples - 1, (1 + level) / 2) * halves.std(axis=0, ddof=1)
    return {
        name: Interval(value, value - float(r), value + float(r))
        for (name, value), r in zip(values.items(), reach, strict=True)
    }


def share_interval(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of the share of examples of which something is true.

    (p̂ + z²/2n ∓ z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n), with p̂ = count/n and z the quantile (1 + level)/2 of the normal
    distribution: the shares p that p̂ is within z of their own standard errors √(p(1 − p)/n) of. It lies in [0, 1] and
    has a width also where p̂ is 0 or 1.

    See "Probable Inference, the Law of Succession, and Statistical Inference", Wilson, 1927 (Journal of the
    American Statistical Association 22), pages 209 to 212.

    Args:
      count: of how many examples it is true, from 0 to `total`.
      total: n ≥ 1, of how many examples; they are independent.
      level: the chance of holding the true share, in (0, 1).

    Returns:
      p̂ and the interval's ends.

    Raises:
      UserError: the numbers are out of range.
    """
    from scipy.special import ndtri

    if not 0 <= count <= total or total < 1 or not 0 < level < 1:
        raise UserError(
            f"No share has count={count}, total={total} and level={level}; give a count from 0 to the total, a total of"
            " at least 1 and a level between 0 and 1."
        )
    share, z = count / total, float(ndtri((1 + level) / 2))
    middle = share + z**2 / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    low, high = ((middle + sign * reach) / (1 + z**2 / total) for sign in (-1, 1))
    return Interval(share, max(0.0, min(share, low)), min(1.0, max(share, high)))  # For 0 and 1 but for the rounding.


def from_zero(found: Interval) -> Interval:
    """The interval of a quantity that is never negative: what lies below 0 is cut off.

    Args:
      found: the interval, by a method that knows nothing of 0.

    Returns:
      The same with ends of at least 0; it holds the quantity as often.
    """
    return Interval(found.value, max(0.0, found.low), max(0.0, found.high))


def _checked(samples: tuple[np.ndarray, ...], least: int, num_resamples: int, level: float) -> list[np.ndarray]:
    """The samples as arrays, if they and the numbers can give an interval."""
    arrays = [np.asarray(sample) for sample in samples]
    if not arrays or any(array.ndim == 0 or len(array) < least for array in arrays):
        raise UserError(
            f"A bootstrap cannot draw from samples of the shapes {[array.shape for array in arrays]}; give one or more,"
            f" each [N, ...] with N of at least {least}."
        )
    if num_resamples < 2 or not 0 < level < 1:
        raise UserError(
            f"A bootstrap of num_resamples={num_resamples} has no interval of level={level}; give at least 2 resamples"
            " and a level between 0 and 1."
        )
    return arrays


def _check_finite(values: np.ndarray) -> None:
    """Refuses statistics [R, ...] of which any is not finite."""
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise UserError(
            f"The statistic is not finite for {np.count_nonzero(~finite)} of {len(values)} draws of the examples;"
            " give examples and a statistic for which it is."
        )
