"""How alike images look, by numbers computed where the images are; of whole images see `gen_jax.eval.image_quality`."""

from __future__ import annotations

import jax.numpy as jnp

from gen_jax.contracts import Array


def psnr(mean_squared_error: Array) -> Array:
    """The peak signal-to-noise ratio of values in [0, 1], in decibels: −10 log₁₀ MSE.

    See "Mean Squared Error: Love It or Leave It?", Wang and Bovik, 2009 (IEEE Signal Processing Magazine 26), pages 98
    to 117.

    Args:
      mean_squared_error: [...].

    Returns:
      [...]: 20 for 0.01, 30 for 0.001.
    """
    return -10.0 * jnp.log10(mean_squared_error)
