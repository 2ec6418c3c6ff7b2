"""Numbers as waves: the embedding of a time, a position or any other scalar."""

from __future__ import annotations

import math

import jax.numpy as jnp

from gen_jax.contracts import Array


def sinusoidal_embedding(
    time: Array, num_features: int, *, max_period: float = 10_000.0, reaches_end: bool = True
) -> Array:
    """Sines and cosines of a number at geometric frequencies.

    [sin(ω_i t) …, cos(ω_i t) …],  ω_i = P^{−i / (h − 1)},  i = 0 … h − 1,  h half the number of features

    See "Attention Is All You Need", Vaswani et al., 2017 (arXiv:1706.03762), Section 3.5, in the order of "Denoising
    Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Appendix B.

    Args:
      time: [B].
      num_features: even, at least 4.
      max_period: P; the slowest wave has the period 2π P.
      reaches_end: whether the last ω is 1 / P, as in DDPM; False for ω_i = P^{−i / h}.

    Returns:
      [B, num_features] float32, or float64 where the time is.
    """
    half = num_features // 2
    dtype = jnp.promote_types(time.dtype, jnp.float32)
    exponents = jnp.arange(half, dtype=dtype) / (half - 1 if reaches_end else half)
    angles = time.astype(dtype)[:, None] * jnp.exp(-math.log(max_period) * exponents)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
