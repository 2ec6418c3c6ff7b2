"""The losses and penalties of the generative adversarial networks as mathematics on logits and critics.

A loss takes the logits of ONE real and ONE fake example and is elementwise: a patch discriminator's map of logits gives
a map of losses. The caller maps and takes the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Key, Params


def minimax_discriminator_loss(real_logit: Array, fake_logit: Array, real_label: Array | float = 1.0) -> Array:
    """The discriminator's loss of a real and a fake example: their binary cross-entropy.

    −[α log D(x) + (1 − α) log(1 − D(x))] − log(1 − D(x̃)),  D = σ(logit);  α = 1 in the paper

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Eq. 1, of which it is the negative;
    and for α < 1, one-sided label smoothing, "Improved Techniques for Training GANs", Salimans et al., 2016
    (arXiv:1606.03498), Section 3.4. The best discriminator is then α p_data / (p_data + p_g).

    Args:
      real_logit: [...] of x.
      fake_logit: [...] of x̃ = G(z), the shape of `real_logit`.
      real_label: α in (0, 1].

    Returns:
      [...] nats.
    """
    # log(1 − σ(ℓ)) = log σ(−ℓ): finite, with a finite gradient, for every finite ℓ.
    real = real_label * jax.nn.log_sigmoid(real_logit) + (1 - real_label) * jax.nn.log_sigmoid(-real_logit)
    return -real - jax.nn.log_sigmoid(-fake_logit)


def minimax_generator_loss(fake_logit: Array) -> Array:
    """The generator's loss in the game of zero sum; its gradient vanishes where the discriminator is sure.

    log(1 − D(x̃))

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Eq. 1 and Algorithm 1.

    Args:
      fake_logit: [...] of x̃ = G(z).

    Returns:
      [...] nats, ≤ 0.
    """
    return jax.nn.log_sigmoid(-fake_logit)


def non_saturating_generator_loss(fake_logit: Array) -> Array:
    """The generator's loss with the same fixed point, and a gradient where the discriminator is sure.

    −log D(x̃)

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Section 3.

    Args:
      fake_logit: [...] of x̃ = G(z).

    Returns:
      [...] nats, ≥ 0.
    """
    return -jax.nn.log_sigmoid(fake_logit)


def wasserstein_critic_loss(real_logit: Array, fake_logit: Array) -> Array:
    """The critic's loss of a real and a fake example: minus what it tells them apart by.

    D(x̃) − D(x);  over all 1-Lipschitz D the least expectation is −W₁(p_data, p_g)

    See "Wasserstein GAN", Arjovsky et al., 2017 (arXiv:1701.07875), Algorithm 1.

    Args:
      real_logit: [...] D(x), any real number.
      fake_logit: [...] D(x̃).

    Returns:
      [...] in the unit of the critic.
    """
    return fake_logit - real_logit


def wasserstein_generator_loss(fake_logit: Array) -> Array:
    """The generator's loss against a critic: −D(x̃).

    See "Wasserstein GAN", Arjovsky et al., 2017 (arXiv:1701.07875), Algorithm 1.

    Args:
      fake_logit: [...] D(x̃).

    Returns:
      [...] in the unit of the critic.
    """
    return -fake_logit


def hinge_discriminator_loss(real_logit: Array, fake_logit: Array) -> Array:
    """The discriminator's loss with a margin, beyond which an example has no more to teach it.

    max(0, 1 − D(x)) + max(0, 1 + D(x̃))

    See "Geometric GAN", Lim and Ye, 2017 (arXiv:1705.02894), and "Spectral Normalization for Generative Adversarial
    Networks", Miyato et al., 2018 (arXiv:1802.05957), Section 4, Eq. 16.

    Args:
      real_logit: [...] D(x), any real number.
      fake_logit: [...] D(x̃).

    Returns:
      [...] ≥ 0; at the margin itself the gradient is 0.
    """
    return jax.nn.relu(1 - real_logit) + jax.nn.relu(1 + fake_logit)


def hinge_generator_loss(fake_logit: Array) -> Array:
    """The generator's loss in the same game, which has no margin: −D(x̃).

    See "Geometric GAN", Lim and Ye, 2017 (arXiv:1705.02894), and "Spectral Normalization for Generative Adversarial
    Networks", Miyato et al., 2018 (arXiv:1802.05957), Section 4, Eq. 17.

    Args:
      fake_logit: [...] D(x̃).

    Returns:
      [...].
    """
    return -fake_logit


def least_squares_discriminator_loss(
    real_logit: Array, fake_logit: Array, a: Array | float = 0.0, b: Array | float = 1.0
) -> Array:
    """The discriminator's squared distance from its labels.

    ½ (D(x) − b)² + ½ (D(x̃) − a)²;  the best one is (b p_data + a p_g) / (p_data + p_g)

    See "Least Squares Generative Adversarial Networks", Mao et al., 2017 (arXiv:1611.04076), Eq. 2.

    Args:
      real_logit: [...] D(x), without a sigmoid.
      fake_logit: [...] D(x̃).
      a: the label of what is fake.
      b: the label of what is real.

    Returns:
      [...] ≥ 0.
    """
    return 0.5 * (real_logit - b) ** 2 + 0.5 * (fake_logit - a) ** 2


def least_squares_generator_loss(fake_logit: Array, c: Array | float = 1.0) -> Array:
    """The squared distance from the label that the generator wants for what it makes.

    ½ (D(x̃) − c)²;  with b − c = 1 and b − a = 2, against the best discriminator, its mean and that of ½ (D(x) − c)²,
    which G cannot change, are together half the χ² of Pearson between p_data + p_g and 2 p_g. The paper's other choice
    is c = b, as here.

    See "Least Squares Generative Adversarial Networks", Mao et al., 2017 (arXiv:1611.04076), Eq. 2.

    Args:
      fake_logit: [...] D(x̃), without a sigmoid.
      c: the label.

    Returns:
      [...] ≥ 0.
    """
    return 0.5 * (fake_logit - c) ** 2


def gradient_penalty(critic: Callable[[Array], Array], key: Key, real: Array, fake: Array) -> Array:
    """How far from 1 the slope of a critic is, somewhere between one real and one fake example.

    (‖∇_x̂ D(x̂)‖₂ − 1)²,  x̂ = ε x + (1 − ε) x̃,  ε ~ U[0, 1], one number an example

    See "Improved Training of Wasserstein GANs", Gulrajani et al., 2017 (arXiv:1704.00028), Eq. 3, which adds λ = 10
    times its mean to the critic's loss. The critic is a function of one example, so it can have no batch
    normalisation, as the paper asks. With the penalty the best critic is too steep: between points θ apart its slope
    is 1 + θ / (2λ), and its objective θ + θ² / (4λ) instead of θ.

    Args:
      critic: maps one example [...] to D [].
      key: this example's key at this update.
      real: [...] x, floating-point.
      fake: [...] x̃, the shape of `real`.

    Returns:
      [] without λ. Where the critic's gradient is exactly 0 it is 1, and its own gradient is 0.

    Raises:
      ValueError: where the shapes differ, or either is of integers.
    """
    if real.shape != fake.shape:
        raise ValueError(f"The real example has the shape {real.shape} and the fake one {fake.shape}; they must agree.")
    if not (jnp.issubdtype(real.dtype, jnp.floating) and jnp.issubdtype(fake.dtype, jnp.floating)):
        raise ValueError(f"The examples are of {real.dtype} and {fake.dtype}; scale both to floating-point numbers.")
    return distance_from_slope_one(jax.grad(critic)(between(key, real, fake)))


def between(key: Key, real: Array, fake: Array) -> Array:
    """A point at random on the line from a fake example to a real one: x̂ = ε x + (1 − ε) x̃,  ε ~ U[0, 1].

    See "Improved Training of Wasserstein GANs", Gulrajani et al., 2017 (arXiv:1704.00028), Algorithm 1.

    Args:
      key: this example's key at this update.
      real: [...] x, floating-point.
      fake: [...] x̃, the shape of `real`.

    Returns:
      [...] x̂; one ε for all of the example.
    """
    epsilon = jax.random.uniform(key, dtype=jnp.result_type(real, fake))
    return epsilon * real + (1 - epsilon) * fake


def distance_from_slope_one(gradient: Array) -> Array:
    """The penalty of a gradient: (‖g‖₂ − 1)².

    See "Improved Training of Wasserstein GANs", Gulrajani et al., 2017 (arXiv:1704.00028), Eq. 3.

    Args:
      gradient: [...] g, of a critic at one example.

    Returns:
      []. Where g is exactly 0 it is 1, and its own gradient is 0.
    """
    # Scaled before it is squared, or the square of a small gradient is 0 and that of a large one infinite.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(gradient)))
    is_zero = scale == 0
    scaled = gradient / jnp.where(is_zero, 1, scale)
    # The root has no derivative at 0: the branch not taken must be finite too, or its NaN comes through the `where`.
    norm = scale * jnp.sqrt(jnp.where(is_zero, 1, jnp.sum(scaled**2)))
    return (norm - 1) ** 2


def r1_penalty(critic: Callable[[Array], Array], real: Array) -> Array:
    """The squared slope of a discriminator at one real example.

    ‖∇_x D(x)‖₂²

    See "Which Training Methods for GANs do actually Converge?", Mescheder et al., 2018 (arXiv:1801.04406), Section
    4.1, whose R₁ is γ/2 times its mean: the ½ and the γ are the caller's to multiply by. With a penalty at every n-th
    update only, n too.

    Args:
      critic: maps one example [...] to D [], a logit.
      real: [...] x.

    Returns:
      [] without γ/2.
    """
    return squared_slope(jax.grad(critic)(real))


def squared_slope(gradient: Array) -> Array:
    """The penalty of a gradient: ‖g‖₂².

    See "Which Training Methods for GANs do actually Converge?", Mescheder et al., 2018 (arXiv:1801.04406), Section 4.1.

    Args:
      gradient: [...] g, of a discriminator at one example.

    Returns:
      [].
    """
    return jnp.sum(gradient**2)


def clip_weights(params: Params, limit: float) -> Params:
    """Cuts every weight to an interval, which bounds the critic's slope by some constant.

    w ← min(max(w, −c), c)

    See "Wasserstein GAN", Arjovsky et al., 2017 (arXiv:1701.07875), Algorithm 1.

    Args:
      params: of the critic, after an update.
      limit: c, 0.01 in the paper.

    Returns:
      The cut weights; a NaN stays one.

    Raises:
      ValueError: where the limit is not positive.
    """
    if limit <= 0:
        raise ValueError(f"limit={limit} leaves no weights; it must be positive.")
    return jax.tree.map(lambda w: jnp.clip(w, -limit, limit), params)


def optimal_discriminator(
    log_p_data: Callable[[Array], Array], log_p_model: Callable[[Array], Array], x: Array
) -> Array:
    """The logit of the best discriminator between two known densities.

    D*(x) = p_data(x) / (p_data(x) + p_g(x)) = σ(log p_data(x) − log p_g(x))

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Proposition 1, Eq. 2.

    Args:
      log_p_data: maps x to log p_data(x) [], nats.
      log_p_model: maps x to log p_g(x) [], nats.
      x: [...] one example.

    Returns:
      [] the logit of D*; NaN where both densities are 0, and any answer is as good.
    """
    return log_p_data(x) - log_p_model(x)


def value_at_optimum(log_p_data: Callable[[Array], Array], log_p_model: Callable[[Array], Array], grid: Array) -> Array:
    """The value of the game against the best discriminator, for densities of one number.

    V(D*, G) = E_{p_data}[log D*(x)] + E_{p_g}[log(1 − D*(x))] = 2 JSD(p_data ‖ p_g) − log 4

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Eq. 4 and 6.

    Args:
      log_p_data: maps x [] to log p_data(x) [], nats.
      log_p_model: maps x [] to log p_g(x) [], nats.
      grid: [N] increasing, over all of both densities; the expectations are trapezoidal sums on it.

    Returns:
      [] nats in [−log 4, 0].
    """
    log_p, log_q = jax.vmap(log_p_data)(grid), jax.vmap(log_p_model)(grid)
    logits = jax.vmap(lambda x: optimal_discriminator(log_p_data, log_p_model, x))(grid)
    real = _expectation(log_p, jax.nn.log_sigmoid(logits), grid)
    return real + _expectation(log_q, jax.nn.log_sigmoid(-logits), grid)


def jensen_shannon_divergence(log_p: Callable[[Array], Array], log_q: Callable[[Array], Array], grid: Array) -> Array:
    """The divergence of two densities of one number from their mean.

    JSD(p ‖ q) = ½ KL(p ‖ m) + ½ KL(q ‖ m),  m = (p + q) / 2

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Eq. 5 and 6.

    Args:
      log_p: maps x [] to log p(x) [], nats.
      log_q: maps x [] to log q(x) [], nats.
      grid: [N] increasing, over all of both densities; the expectations are trapezoidal sums on it.

    Returns:
      [] nats in [0, log 2].
    """
    p, q = jax.vmap(log_p)(grid), jax.vmap(log_q)(grid)
    mean = jnp.logaddexp(p, q) - math.log(2)
    return 0.5 * _expectation(p, p - mean, grid) + 0.5 * _expectation(q, q - mean, grid)


def _expectation(log_density: Array, values: Array, grid: Array) -> Array:
    """∫ exp(log p(x)) f(x) dx; where p is 0, f counts for nothing, whatever it is."""
    density = jnp.exp(log_density)
    return jnp.trapezoid(density * jnp.where(density > 0, values, 0.0), jnp.asarray(grid))
