"""Log-likelihoods and divergences of one example, in nats, summed over its dimensions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array


def gaussian_kl(mean: Array, log_var: Array) -> Array:
    """The divergence of a diagonal Gaussian from the standard one.

    KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ_j (μ_j² + σ_j² − 1 − log σ_j²)

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Appendix B.

    Args:
      mean: [d] μ.
      log_var: [d] log σ².

    Returns:
      [] nats, ≥ 0.
    """
    # expm1(log σ²) − log σ² keeps its digits where σ² is near 1; σ² − 1 − log σ² does not.
    return 0.5 * jnp.sum(mean**2 + jnp.expm1(log_var) - log_var)


def gaussian_log_likelihood(x: Array, mean: Array, log_var: Array) -> Array:
    """The log-density of a diagonal Gaussian.

    log N(x; μ, diag σ²) = −½ Σ_j (log 2π + log σ_j² + (x_j − μ_j)² / σ_j²)

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Appendix C.2.

    Args:
      x: [...] a point.
      mean: [...] μ, the shape of `x`.
      log_var: [...] log σ², the shape of `x`, or [] where one variance serves every dimension.

    Returns:
      [] nats per the unit of volume in which `x` is measured.
    """
    return -0.5 * jnp.sum(math.log(2 * math.pi) + log_var + (x - mean) ** 2 * jnp.exp(-log_var))


def mixture_log_density(x: Array, centres: Array | np.ndarray, std: float) -> Array:
    """The log-density of equally likely round Gaussians: log 1/K Σ_k N(x; c_k, σ² I).

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 2.3.9, Eq. 2.188.

    Args:
      x: [D].
      centres: [K, D] c.
      std: σ > 0 of every mode.

    Returns:
      [] nats.
    """
    squares = jnp.sum((x[None] - jnp.asarray(centres, x.dtype)) ** 2, axis=-1)
    log_weights = -0.5 * squares / std**2 - math.log(len(centres))
    return jax.nn.logsumexp(log_weights) - 0.5 * x.shape[-1] * math.log(2 * math.pi * std**2)


def bernoulli_log_likelihood(x: Array, logits: Array) -> Array:
    """The log-probability of independent binary values.

    log p(x) = Σ_j x_j log σ(ℓ_j) + (1 − x_j) log(1 − σ(ℓ_j))

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Appendix C.1, Eq. 11.

    Args:
      x: [...] in {0, 1}. Values between are accepted, as in the papers that feed grey levels, but the result is then
        a score and not the log-probability of anything.
      logits: [...] ℓ, the shape of `x`.

    Returns:
      [] nats.
    """
    # log(1 − σ(ℓ)) = log σ(−ℓ): finite, with a finite gradient, for every finite ℓ.
    return jnp.sum(x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits))


def is_most_probable(logits: Array, label: Array) -> Array:
    """Whether a class is the one that a classifier decides for, the first of the most probable ones.

    Args:
      logits: [K].
      label: [] int, from 0 to K − 1.

    Returns:
      [] float32, 1 where it is and 0 elsewhere.
    """
    return (jnp.argmax(logits) == label).astype(jnp.float32)


def discretized_logistic_log_likelihood(x: Array, mean: Array, log_scale: Array, num_levels: int = 256) -> Array:
    """The log-probability of grey levels under a logistic density integrated over each level's bin.

    P(x) = σ((x + δ/2 − μ) / s) − σ((x − δ/2 − μ) / s),  δ = 1 / (num_levels − 1),
    the lowest bin reaching to −∞ and the highest to +∞, so that the levels' probabilities sum to 1.

    See "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications",
    Salimans et al., 2017 (arXiv:1701.05517), Section 2.1, Eq. 2, here with one component and levels in [0, 1].

    Args:
      x: [...] levels divided by `num_levels − 1`, in [0, 1].
      mean: [...] μ, in the unit of `x`, the shape of `x`.
      log_scale: [...] log s, the shape of `x`, or []; at least −80 in float32.
      num_levels: how many levels there are, 256 for 8 bits.

    Returns:
      [] nats.
    """
    delta = 1.0 / (num_levels - 1)
    inverse_scale = jnp.exp(-log_scale)
    upper = (x + 0.5 * delta - mean) * inverse_scale
    lower = (x - 0.5 * delta - mean) * inverse_scale
    # σ(u) − σ(l) = σ(u) σ(−l) (1 − e^−(u − l)): a product, so its logarithm is a sum of stable terms and needs
    # neither a clamp nor a special case for bins far from the mean.
    inside = jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + _log1mexp(math.log(delta) - log_scale)
    log_p = jnp.where(x < 0.5 * delta, jax.nn.log_sigmoid(upper), inside)  # The lowest level: P = σ(u).
    log_p = jnp.where(x > 1 - 0.5 * delta, jax.nn.log_sigmoid(-lower), log_p)  # The highest: P = 1 − σ(l).
    return jnp.sum(log_p)


def _log1mexp(log_a: Array) -> Array:
    """log(1 − exp(−a)) for a = exp(log_a) > 0, to full precision for small a, where it is log a − a/2 + O(a²)."""
    small = log_a < -8.0
    a = jnp.exp(jnp.where(small, 0.0, log_a))  # The branch not taken must stay finite, or its gradient is NaN.
    return jnp.where(small, log_a - 0.5 * jnp.exp(jnp.minimum(log_a, 0.0)), jnp.log(-jnp.expm1(-a)))


def density_to_levels(log_density: Array, num_dims: int, num_levels: int = 256) -> Array:
    """A bound on the log-probability of levels from the log-density of their dequantised values in [0, 1).

    log P(v) ≥ E_u[log p((v + u) / num_levels)] − D log num_levels,  u ~ U[0, 1)^D

    See "A note on the evaluation of generative models", Theis et al., 2016 (arXiv:1511.01844), Section 3.1.

    Args:
      log_density: [...] nats, of values divided by `num_levels`.
      num_dims: D, channels counted.
      num_levels: how many levels there are, 256 for 8 bits.

    Returns:
      [...] nats.
    """
    return log_density - num_dims * math.log(num_levels)


def bits_per_dim(log_likelihood: Array, num_dims: int) -> Array:
    """The code length of an example in bits per dimension: −log p / (D log 2).

    See "Pixel Recurrent Neural Networks", van den Oord et al., 2016 (arXiv:1601.06759), Section 5.1.

    Args:
      log_likelihood: [...] nats, a log-probability of discrete values (see `density_to_levels` for a density).
      num_dims: D, channels counted: 784 for 28x28 grey, 3072 for 32x32 RGB.

    Returns:
      [...] bits/dim; exactly 8 for the uniform distribution over 8-bit levels.
    """
    return -log_likelihood / (num_dims * math.log(2))
