"""How many modes of a known mixture samples reach, and how well."""

from __future__ import annotations

import dataclasses

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.eval import vectors


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
    (arXiv:1712.04086).

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
    from scipy.spatial import KDTree  # Takes long to import: only who looks for modes waits for it.

    samples, centres = vectors.checked_pair("samples", samples, "centres", centres)
    num_modes = len(centres)
    if len(np.unique(centres, axis=0)) < num_modes:
        raise UserError(
            "Two centres are equal, so no sample tells their modes apart; give different ones, as for instance angles"
            " of a ring with `endpoint=False`."
        )
    if not radius > 0 or min_count < 1:
        raise UserError(
            f"No mode can be covered by radius={radius} and min_count={min_count}; give a radius above 0 and a count of"
            " at least 1."
        )
    expected = _checked_weights(weights, num_modes)
    distances, nearest = KDTree(centres).query(samples)
    assigned = np.bincount(nearest, minlength=num_modes)
    counts = np.bincount(nearest[distances <= radius], minlength=num_modes)
    return ModeCoverage(
        covered=int(np.count_nonzero(counts >= min_count)),
        high_quality=float(counts.sum() / len(samples)),
        reverse_kl=_kl(assigned / len(samples), expected),
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
