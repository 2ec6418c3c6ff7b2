"""Diffusion in continuous time: the noise level as a function of time, and time as a function of the noise level."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array
from gen_jax.families.diffusion.process import Process


class Continuous(NamedTuple):
    """A variance-preserving process x = √ᾱ x_0 + √(1 − ᾱ) ε in continuous time, by its log-signal-to-noise ratio.

    Attributes:
      log_snr: s [...] -> λ = log ᾱ / (1 − ᾱ) [...], strictly falling.
      time: λ [...] -> what the network is told [...], the inverse of `log_snr`.
      first: the time of the least noise that is used.
      last: the time of the most noise.
    """

    log_snr: Callable[[Array], Array]
    time: Callable[[Array], Array]
    first: float
    last: float


def signal_and_noise(log_snr: Array) -> tuple[Array, Array]:
    """The weights of data and noise: √ᾱ = √σ(λ) and √(1 − ᾱ) = √σ(−λ).

    See "Variational Diffusion Models", Kingma et al., 2021 (arXiv:2107.00630), Section 3.2, Eq. 3 and 4, where γ is −λ.

    Args:
      log_snr: [...] λ.

    Returns:
      √ᾱ [...] and √(1 − ᾱ) [...], both to full precision for every λ.
    """
    # The root as an exponential of half a log-sigmoid: no underflow on the way to a small number's root.
    return jnp.exp(0.5 * jax.nn.log_sigmoid(log_snr)), jnp.exp(0.5 * jax.nn.log_sigmoid(-log_snr))


def linear_continuous(beta_min: float = 0.1, beta_max: float = 20.0, first: float = 1e-3) -> Continuous:
    """The variance-preserving stochastic differential equation, the limit of DDPM's linear schedule.

    dx = −½ β(s) x ds + √β(s) dw,  β(s) = β_min + s (β_max − β_min),  log ᾱ(s) = −β_min s − ½ (β_max − β_min) s²

    See "Score-Based Generative Modeling through Stochastic Differential Equations", Song et al., 2021
    (arXiv:2011.13456), Eq. 11 and Appendix C.

    Args:
      beta_min: β(0).
      beta_max: β(1), larger.
      first: the smallest time that is used, in (0, 1).

    Returns:
      The process on [first, 1].
    """
    slope = beta_max - beta_min

    def log_snr(s: Array) -> Array:
        minus_log_alpha_bar = s * (beta_min + 0.5 * slope * s)
        return -jnp.log(jnp.expm1(minus_log_alpha_bar))  # ᾱ / (1 − ᾱ) = 1 / (1/ᾱ − 1).

    def time(log_snr: Array) -> Array:
        minus_log_alpha_bar = jax.nn.softplus(-log_snr)
        # The root of a quadratic, in the form that subtracts nothing.
        return 2 * minus_log_alpha_bar / (beta_min + jnp.sqrt(beta_min**2 + 2 * slope * minus_log_alpha_bar))

    return Continuous(log_snr, time, first, 1.0)


def cosine_continuous(first: float = 1e-3, last: float = 0.999) -> Continuous:
    """The plain cosine schedule: √ᾱ = cos(π s / 2), √(1 − ᾱ) = sin(π s / 2), λ = −2 log tan(π s / 2).

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Section 3.2,
    Eq. 17, here without the offset of 0.008 and in continuous time.

    Args:
      first: the smallest time that is used, in (0, 1).
      last: the largest, in (first, 1): at 1 there is no signal at all.

    Returns:
      The process on [first, last].
    """

    def log_snr(s: Array) -> Array:
        return -2 * jnp.log(jnp.tan(0.5 * math.pi * s))

    def time(log_snr: Array) -> Array:
        return 2 / math.pi * jnp.arctan(jnp.exp(-0.5 * log_snr))

    return Continuous(log_snr, time, first, last)


def in_continuous_time(process: Process) -> Continuous:
    """A process of T steps with the noise levels between them: λ is linear in the timestep from each to the next.

    A network trained on the steps is told timesteps between them. A solver that looks at no other levels than the
    steps' own (`likelihood.step_levels` with Heun's method) never makes it do so.

    Args:
      process: of T steps, its timesteps strictly increasing.

    Returns:
      The process between the first timestep and the last.

    Raises:
      ValueError: where the timesteps do not increase.
    """
    timesteps = process.timesteps.astype(np.float64)
    if not (np.diff(timesteps) > 0).all():
        raise ValueError("The timesteps of the process must rise strictly to stand for a continuous time.")
    levels = np.log(process.snr)

    def log_snr(s: Array) -> Array:
        return jnp.interp(s, jnp.asarray(timesteps, s.dtype), jnp.asarray(levels, s.dtype))

    def time(log_snr: Array) -> Array:
        knots = jnp.asarray(levels[::-1].copy(), log_snr.dtype)
        return jnp.interp(log_snr, knots, jnp.asarray(timesteps[::-1].copy(), log_snr.dtype))

    return Continuous(log_snr, time, float(timesteps[0]), float(timesteps[-1]))
