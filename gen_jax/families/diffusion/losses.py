"""The losses of diffusion as mathematics on ONE example at one step; the caller maps and takes the mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Terms
from gen_jax.families.diffusion.parameterization import (
    PREDICTIONS,
    prediction_target,
    reverse,
    split_output,
)
from gen_jax.families.diffusion.process import Process, at, q_posterior
from gen_jax.ops.distributions import bits_per_dim, gaussian_kl

Decoder = Callable[[Array, Array, Array], Array]


def l_simple(target: Array, predicted: Array) -> Array:
    """The mean squared error of a prediction: ‖ε − ε_θ(x_t, t)‖² / D.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 14, here for a prediction of
    any kind. The mean over the dimensions, not the sum, as in the paper's code.

    Args:
      target: [...] as `prediction_target` gives it.
      predicted: [...] of the same kind.

    Returns:
      [] the square of the target's unit.
    """
    return jnp.mean((target - predicted) ** 2)


def epsilon_weight(prediction: str, snr: Array) -> Array:
    """The weight that makes the squared error of a prediction that of the ε it names.

    ε: 1;  x_0: SNR;  v: SNR / (SNR + 1) = ᾱ;  score: 1 / (SNR + 1) = 1 − ᾱ

    See "Progressive Distillation for Fast Sampling of Diffusion Models", Salimans and Ho, 2022 (arXiv:2202.00512),
    Section 4.

    Args:
      prediction: one of `PREDICTIONS`.
      snr: [] ᾱ / (1 − ᾱ).

    Returns:
      [].

    Raises:
      ValueError: where the kind is another one.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction='{prediction}' is unknown; expected one of {PREDICTIONS}.")
    weights = {"epsilon": jnp.ones_like(snr), "x0": snr, "v": snr / (snr + 1), "score": 1 / (snr + 1)}
    return weights[prediction]


def min_snr_weight(prediction: str, snr: Array, gamma: float = 5.0) -> Array:
    """The weight of a squared error that keeps the easy, nearly clean steps from ruling the gradient.

    min(SNR, γ) as a weight on the error of x_0; so min(SNR, γ) / SNR on ε and min(SNR, γ) / (SNR + 1) on v.

    See "Efficient Diffusion Training via Min-SNR Weighting Strategy", Hang et al., 2023 (arXiv:2303.09556), Section
    3.4, and Section 4.2 for what is not x_0.

    Args:
      prediction: one of `PREDICTIONS`.
      snr: [] ᾱ / (1 − ᾱ).
      gamma: γ.

    Returns:
      [].

    Raises:
      ValueError: where the kind is another one.
    """
    return jnp.minimum(snr, gamma) / snr * epsilon_weight(prediction, snr)


def normal_kl(mean: Array, log_var: Array, other_mean: Array, other_log_var: Array) -> Array:
    """The divergence of one diagonal Gaussian from another: KL(N(μ, σ²) ‖ N(μ', σ'²)), summed over dimensions.

    The terms of "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 5, are such.

    Args:
      mean: [...] μ.
      log_var: log σ², [...] or [].
      other_mean: [...] μ'.
      other_log_var: log σ'², [...] or [].

    Returns:
      [] nats, ≥ 0.
    """
    # In the unit of the other, where it is the standard one: ½ Σ (d² + r − 1 − log r).
    scaled = (mean - other_mean) * jnp.exp(-0.5 * other_log_var)
    return gaussian_kl(scaled, jnp.broadcast_to(log_var - other_log_var, scaled.shape))


def discretized_gaussian_log_likelihood(x: Array, mean: Array, log_var: Array, num_levels: int = 256) -> Array:
    """The log-probability of levels under a Gaussian integrated over each level's bin: the decoder p(x_0 | x_1).

    P(x) = Φ((x + δ − μ) / σ) − Φ((x − δ − μ) / σ),  δ = 1 / (num_levels − 1),
    the lowest bin reaching to −∞ and the highest to +∞, so that the levels' probabilities sum to 1.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 13. Exact in the tails,
    where the paper's code clamps the probability at 1e-12.

    Args:
      x: [...] levels scaled to [−1, 1].
      mean: [...] μ.
      log_var: [...] or [] log σ².
      num_levels: how many levels there are, 256 for 8 bits.

    Returns:
      [] nats.
    """
    delta = 1.0 / (num_levels - 1)
    inverse_std = jnp.exp(-0.5 * log_var)
    upper = (x - mean + delta) * inverse_std
    lower = (x - mean - delta) * inverse_std
    # Φ(u) − Φ(l) = Φ(−l) − Φ(−u): on the side where both are small nothing is lost.
    flip = lower > 0
    log_larger = jax.scipy.special.log_ndtr(jnp.where(flip, -lower, upper))
    log_smaller = jax.scipy.special.log_ndtr(jnp.where(flip, -upper, lower))
    inside = log_larger + _log_of_one_minus_exp(log_smaller - log_larger)
    # Over a bin that is narrow for the Gaussian the density is a parabola, and two Φ would differ in no digits.
    width, middle = upper - lower, 0.5 * (upper + lower)
    parabola = jnp.log(width) - 0.5 * (middle**2 + math.log(2 * math.pi)) + width**2 * (middle**2 - 1) / 24
    narrow = jnp.finfo(inside.dtype).eps ** 0.2  # Where the fourth-order error of the one meets the other's rounding.
    inside = jnp.where(width * (1 + jnp.abs(middle)) < narrow, parabola, inside)
    log_p = jnp.where(x < -1 + delta, jax.scipy.special.log_ndtr(upper), inside)
    log_p = jnp.where(x > 1 - delta, jax.scipy.special.log_ndtr(-lower), log_p)
    return jnp.sum(log_p)


def _log_of_one_minus_exp(a: Array) -> Array:
    """log(1 − e^a) for a ≤ 0; where a rounds to 0, the least number below it stands for it."""
    a = jnp.minimum(a, -jnp.finfo(a.dtype).tiny)
    near = a > -math.log(2)
    # Each branch gets an argument at which it and its gradient are finite.
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, a, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, a))))


def l_prior(process: Process, x0: Array) -> Array:
    """L_T, what is left of an example after the last step: KL(q(x_T | x_0) ‖ N(0, I)).

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 5.

    Args:
      process: the process.
      x0: [...].

    Returns:
      [] bits/dim.
    """
    log_var = jnp.asarray(2 * math.log(process.noise[-1]), x0.dtype)
    kl = gaussian_kl(float(process.signal[-1]) * x0, jnp.broadcast_to(log_var, x0.shape))
    return bits_per_dim(-kl, x0.size)


def l_vlb(
    process: Process,
    x0: Array,
    x_t: Array,
    t: Array,
    mean: Array,
    log_var: Array,
    decoder: Decoder = discretized_gaussian_log_likelihood,
) -> Array:
    """One term of the variational bound.

    L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)), or L_0 = −log p(x_0 | x_1)

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 5. The bound is the sum of
    the T terms and `l_prior`; T times the mean term, where t is drawn.

    Args:
      process: the process.
      x0: [...] the example; for the decoder of levels, scaled to [−1, 1].
      x_t: [...].
      t: [] int; at 0 the term is L_0.
      mean: [...] of p(x_{t−1} | x_t), as `reverse` gives it.
      log_var: [...] of p(x_{t−1} | x_t).
      decoder: `(x_0, mean, log_var) -> [] nats`, log p(x_0 | x_1).

    Returns:
      [] bits/dim.
    """
    true_mean, true_log_var = q_posterior(process, x0, x_t, t)
    kl = normal_kl(true_mean, true_log_var, mean, log_var)
    return bits_per_dim(jnp.where(t == 0, decoder(x0, mean, log_var), -kl), x0.size)


def l_hybrid(
    process: Process,
    output: Array,
    x0: Array,
    x_t: Array,
    t: Array,
    epsilon: Array,
    *,
    prediction: str = "epsilon",
    variance: str | np.ndarray = "learned",
    vlb_weight: float = 0.001,
    decoder: Decoder = discretized_gaussian_log_likelihood,
) -> tuple[Array, Terms]:
    """The simple loss, which trains the mean, and a little of the bound, which trains the variance alone.

    L_hybrid = L_simple + λ L_vlb, with the mean in L_vlb held constant and L_vlb estimated by T times its term at t

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Eq. 16.

    Args:
      process: the process.
      output: [..., 2 C] the network's, for a learned variance.
      x0: [..., C].
      x_t: [..., C].
      t: [] int.
      epsilon: [..., C] with which x_t was made.
      prediction: what is predicted, one of `PREDICTIONS`.
      variance: as in `reverse`; with a fixed one L_vlb has no gradient.
      vlb_weight: λ, of a bound in bits/dim.
      decoder: as in `l_vlb`.

    Returns:
      The loss [] and its terms `simple` [] and `vlb` [] bits/dim, the whole bound's estimate, L_T left out.

    Raises:
      ValueError: where a name is another one, or the output has other channels than the variance asks for.
    """
    predicted, v = split_output(output, variance)
    target = prediction_target(prediction, x0, epsilon, at(process.signal, t, x0), at(process.noise, t, x0))
    simple = l_simple(target, predicted)
    held = jax.lax.stop_gradient(predicted)
    frozen = held if v is None else jnp.concatenate([held, v], axis=-1)
    step = reverse(process, frozen, x_t, t, prediction=prediction, variance=variance)
    vlb = process.num_steps * l_vlb(process, x0, x_t, t, step.mean, step.log_var, decoder)
    return simple + vlb_weight * vlb, {"simple": simple, "vlb": vlb}


def l_continuous(epsilon: Array, predicted: Array, log_snr_slope: Array) -> Array:
    """The integrand of the bound in continuous time: −½ dλ/ds ‖ε − ε_θ‖².

    Its integral over time depends on the noise schedule through the levels at the two ends alone; for the best
    predictor, from no noise to nothing but noise, it is −log p(x_0) for data that are points.

    See "Variational Diffusion Models", Kingma et al., 2021 (arXiv:2107.00630), Section 5, Eq. 17, where γ is −λ.

    Args:
      epsilon: [...].
      predicted: [...] ε_θ(x_s, s).
      log_snr_slope: [] dλ/ds < 0.

    Returns:
      [] nats per unit of s.
    """
    return -0.5 * log_snr_slope * jnp.sum((epsilon - predicted) ** 2)
