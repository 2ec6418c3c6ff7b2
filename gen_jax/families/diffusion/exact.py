"""The best possible prediction where the data are a mixture of Gaussians: what a trained network is measured by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array


def best_epsilon(x_t: Array, signal: Array, noise: Array, centres: np.ndarray, std: float) -> Array:
    """The prediction of ε with the least squared error, E[ε | x_t], for data of equally likely round Gaussians.

    q(x_t) = 1/K Σ_k N(√ᾱ c_k, τ² I),  τ² = ᾱ σ² + 1 − ᾱ
    E[ε | x_t] = √(1 − ᾱ) / τ² Σ_k p(k | x_t) (x_t − √ᾱ c_k),  p(k | x_t) ∝ exp(−‖x_t − √ᾱ c_k‖² / 2 τ²)

    This is −√(1 − ᾱ) ∇ log q(x_t), as "Score-Based Generative Modeling through Stochastic Differential Equations", Song
    et al., 2021 (arXiv:2011.13456), Section 3.3, has the best prediction. Its mean squared error is the least
    that L_simple can be.

    Args:
      x_t: [D] one noisy example.
      signal: [] √ᾱ.
      noise: [] √(1 − ᾱ).
      centres: [K, D] c.
      std: σ ≥ 0 of every mode.

    Returns:
      [D].
    """
    variance = signal**2 * std**2 + noise**2
    apart = x_t[None] - signal * jnp.asarray(centres, x_t.dtype)
    responsibility = jax.nn.softmax(-0.5 * jnp.sum(apart**2, axis=-1) / variance)
    return noise / variance * responsibility @ apart
