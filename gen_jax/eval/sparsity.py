"""How few units of a code are at work for an example, and how many for none."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from gen_jax.contracts import UserError


@dataclasses.dataclass(frozen=True)
class CodeSparsity:
    """What a set of codes of d units says of sparsity; a unit is active for an example where |z| is above a threshold.

    Attributes:
      active_per_example: how many units are active, on average over examples, in [0, d].
      dead_units: how many units are active for no example of the set.
      hoyer: Hoyer's sparseness, on average over the examples that have a unit other than 0, in [0, 1]: 1 where one unit
        is at work and 0 where all are equally; NaN where d = 1 or no example has one, for which it is not defined.
      mean_activation: [d] float64, of z over examples; the ρ̂ that a KL sparsity penalty holds near its target.
    """

    active_per_example: float
    dead_units: int
    hoyer: float
    mean_activation: np.ndarray


def code_sparsity(codes: np.ndarray, threshold: float = 0.0) -> CodeSparsity:
    """The sparsity of a set of codes.

    hoyer(z) = (√d − ‖z‖₁ / ‖z‖₂) / (√d − 1),
    which no threshold enters and which is the same for z and any multiple of it.

    See "Non-negative Matrix Factorization with Sparseness Constraints", Hoyer, 2004 (Journal of Machine Learning
    Research 5), Section 3.

    Args:
      codes: [N, d] z, finite.
      threshold: ≥ 0, above which |z| counts as active: 0 for units that are exactly 0 at rest, as rectified ones are;
        sigmoid units never are and need one.

    Returns:
      The averages and counts.

    Raises:
      UserError: there are no codes, they are not vectors, or they are not finite; or the threshold is below 0.
    """
    codes = np.asarray(codes, np.float64)
    if codes.ndim != 2 or 0 in codes.shape:
        raise UserError(f"The codes have the shape {codes.shape}; give at least one vector, as [N, d].")
    if not np.isfinite(codes).all():
        raise UserError("The codes are not all finite; their sparsity needs finite codes, so look for a diverged run.")
    if not threshold >= 0:
        raise UserError(f"No magnitude is below 0, so threshold={threshold} says nothing; give one of 0 or more.")
    active = np.abs(codes) > threshold
    loud = codes[codes.any(axis=1)]
    return CodeSparsity(
        active_per_example=float(np.mean(np.sum(active, axis=1))),
        dead_units=int(np.sum(~active.any(axis=0))),
        hoyer=float(np.mean(_hoyer(loud))) if loud.size and codes.shape[1] > 1 else math.nan,
        mean_activation=codes.mean(axis=0),
    )


def _hoyer(codes: np.ndarray) -> np.ndarray:
    """Hoyer's sparseness [N] of codes [N, d], each with a unit other than 0, d > 1."""
    magnitudes = np.abs(codes)
    magnitudes /= magnitudes.max(axis=1, keepdims=True)  # Or else the squares of numbers near 1e-200 would all be 0.
    root = math.sqrt(codes.shape[1])
    ratio = magnitudes.sum(axis=1) / np.sqrt(np.sum(magnitudes**2, axis=1))
    return (root - ratio) / (root - 1)
