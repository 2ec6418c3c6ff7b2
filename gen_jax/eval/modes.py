"""How many modes of a known mixture samples reach, and how well."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.eval import bootstrap, vectors


@dataclasses.dataclass(frozen=True)
class ModeCoverage:
    """Where samples fall among the K modes of a mixture; a sample belongs to the nearest centre.

    Attributes:
      covered: how many modes have the least number of high-quality samples or more, from 0 to K.
      high_quality: the fraction of samples that are of high quality: within the radius of their centre.
      reverse_kl: KL(q ‖ p) in nats, ≥ 0, from q, the shares of samples that belong to each mode, to p, the mixture's
        weights. Of n perfect samples it is (K − 1)/2n or so.
      counts: [K] how many samples of high quality each mode has.
      assigned: [K] how many samples belong to each mode, at any distance; q is this by n.
    """

    covered: int
    high_quality: float
    reverse_kl: float
    counts: np.ndarray
    assigned: np.ndarray


def mode_coverage(
    samples: np.ndarray,
    centres: np.ndarray,
    radius: float,
    *,
    min_count: int = 20,
    weights: np.ndarray | None = None,
) -> ModeCoverage:
    """The modes that samples cover, and how the samples are shared out among them.

    With a radius of three standard deviations of a mode in two dimensions, which is usual, 1 − e^(−9/2) = 0.988891 of
    perfect samples are of high quality. The papers differ in how many samples make a mode covered: one is enough for
    some, so state `min_count` and the number of samples beside the result.

    See "VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning", Srivastava et al., 2017
    (arXiv:1705.07761), and "PacGAN: The power of two samples in generative adversarial networks", Lin et al., 2018
    (arXiv:1712.04086), Table 1.

    Args:
      samples: [N, d], finite; d is mostly 2.
      centres: [K, d], all different.
      radius: > 0, in the samples' unit.
      min_count: how many samples of high quality make a mode covered, ≥ 1.
      weights: [K] p > 0 with the sum 1, or None for 1/K each.

    Returns:
      The counts and what follows from them.

    Raises:
      UserError: the samples, centres or numbers are not as above.
    """
    nearest, within = _assign(samples, centres, radius, min_count)
    return _coverage_of(nearest, within, min_count, _checked_weights(weights, len(centres)))


def mode_coverage_numbers(
    samples: np.ndarray,
    centres: np.ndarray,
    radius: float,
    *,
    seed: int,
    min_count: int = 20,
    weights: np.ndarray | None = None,
    num_resamples: int = 200,
    level: float = 0.95,
) -> dict[str, float]:
    """`mode_coverage` as numbers with intervals over other samples of as many.

    The fraction of high quality has a `bootstrap.share_interval`. The modes covered are of counts of as many samples,
    so theirs is a `bootstrap.interval`. The divergence of a resample has the bias of its draw on top of the samples'
    own, so its interval is `bootstrap.half_sample_interval`, of which nothing is below 0.

    Args:
      samples: as in `mode_coverage`, N ≥ 4.
      centres: as there.
      radius: as there.
      seed: of the resamples.
      min_count: as there.
      weights: as there.
      num_resamples: as in `bootstrap.interval`, for the latter two.
      level: of the intervals, in (0, 1).

    Returns:
      `modes_covered`, `high_quality` and `reverse_kl_nats`, and each of them with `_low` and `_high`.

    Raises:
      UserError: the samples, centres or numbers are not as above.
    """
    nearest, within = _assign(samples, centres, radius, min_count)
    expected = _checked_weights(weights, len(centres))
    options: dict[str, Any] = {"seed": seed, "num_resamples": num_resamples, "level": level}

    def covered(rows: np.ndarray) -> float:
        return _coverage_of(nearest[rows], within[rows], min_count, expected).covered

    def divergence(drawn: np.ndarray) -> float:
        return _kl(np.bincount(drawn, minlength=len(expected)) / len(drawn), expected)

    found = {
        "modes_covered": bootstrap.interval(covered, np.arange(len(nearest)), **options),
        "high_quality": bootstrap.share_interval(int(within.sum()), len(within), level=level),
        "reverse_kl_nats": bootstrap.from_zero(bootstrap.half_sample_interval(divergence, nearest, **options)),
    }
    return {
        f"{name}{end}": value
        for name, interval in found.items()
        for end, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high))
    }


def _assign(samples: np.ndarray, centres: np.ndarray, radius: float, min_count: int) -> tuple[np.ndarray, np.ndarray]:
    """[N] the nearest centre of each sample, and [N] whether it is within the radius of it."""
    from scipy.spatial import KDTree  # Takes long to import: only who looks for modes waits for it.

    samples, centres = vectors.checked_pair("samples", samples, "centres", centres)
    if len(np.unique(centres, axis=0)) < len(centres):
        raise UserError(
            "Two centres are equal, so no sample tells their modes apart; give different ones, as for instance angles"
            " of a ring with `endpoint=False`."
        )
    if not radius > 0 or min_count < 1:
        raise UserError(
            f"No mode can be covered by radius={radius} and min_count={min_count}; give a radius above 0 and a count of"
            " at least 1."
        )
    distances, nearest = KDTree(centres).query(samples)
    return nearest, distances <= radius


def _coverage_of(nearest: np.ndarray, within: np.ndarray, min_count: int, expected: np.ndarray) -> ModeCoverage:
    """What follows from where samples are assigned, for modes of the weights `expected`."""
    assigned = np.bincount(nearest, minlength=len(expected))
    counts = np.bincount(nearest[within], minlength=len(expected))
    return ModeCoverage(
        covered=int(np.count_nonzero(counts >= min_count)),
        high_quality=float(counts.sum() / len(nearest)),
        reverse_kl=_kl(assigned / len(nearest), expected),
        counts=counts,
        assigned=assigned,
    )


def _checked_weights(weights: np.ndarray | None, num_modes: int) -> np.ndarray:
    """[K] float64, if they are the weights of so many modes."""
    if weights is None:
        return np.full(num_modes, 1 / num_modes)
    array = np.asarray(weights, np.float64)
    if array.shape != (num_modes,) or not (array > 0).all() or not abs(array.sum() - 1) < 1e-6:
        raise UserError(
            f"The weights {array.tolist()} are not those of {num_modes} modes; give as many numbers above 0 with the"
            " sum 1."
        )
    return array


def _kl(q: np.ndarray, p: np.ndarray) -> float:
    """KL(q ‖ p) of two distributions [K], p > 0."""
    some = q > 0  # The limit of q log q at 0 is 0.
    return max(0.0, float(np.sum(q[some] * np.log(q[some] / p[some]))))  # Of equals the rounding may be below 0.
