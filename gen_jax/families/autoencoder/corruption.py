"""What a denoising autoencoder is to undo: corruptions q(x̃|x) of one image, keyed by the caller."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Key

CORRUPTIONS = ("gaussian", "masking", "salt_and_pepper")


def gaussian_corruption(key: Key, x: Array, sigma: float) -> Array:
    """Additive Gaussian noise: x̃ = x + σ ε, ε ~ N(0, I); x̃ leaves [0, 1].

    See "Stacked Denoising Autoencoders", Vincent et al., 2010 (JMLR 11), Section 3.3, GS.

    Args:
      key: this example's key at this step.
      x: [...] the image.
      sigma: σ ≥ 0, in the unit of the pixels.

    Returns:
      [...] x̃.
    """
    return x + sigma * jax.random.normal(key, x.shape, x.dtype)


def masking_corruption(key: Key, x: Array, rate: float) -> Array:
    """Masking noise: every element is 0 with probability ν, and otherwise left as it is.

    See "Stacked Denoising Autoencoders", Vincent et al., 2010 (JMLR 11), Section 3.3, MN.

    Args:
      key: this example's key at this step.
      x: [...] the image.
      rate: ν in [0, 1].

    Returns:
      [...] x̃.
    """
    return jnp.where(jax.random.uniform(key, x.shape) < rate, 0.0, x)


def salt_and_pepper_corruption(key: Key, x: Array, rate: float) -> Array:
    """Salt-and-pepper noise: every element is with probability ν replaced by 0 or 1, by the flip of a fair coin.

    See "Stacked Denoising Autoencoders", Vincent et al., 2010 (JMLR 11), Section 3.3, SP.

    Args:
      key: this example's key at this step.
      x: [...] the image.
      rate: ν in [0, 1].

    Returns:
      [...] x̃.
    """
    u = jax.random.uniform(key, x.shape)  # One draw for both: black where u < ν/2, white where ν/2 ≤ u < ν.
    return jnp.where(u < rate, jnp.where(u < 0.5 * rate, 0.0, 1.0), x)


def corrupt(key: Key, x: Array, corruption: str, level: float) -> Array:
    """The corruption of a name.

    Args:
      key: this example's key at this step.
      x: [...] the image.
      corruption: "gaussian", "masking" or "salt_and_pepper".
      level: σ of the first, ν of the others.

    Returns:
      [...] x̃.

    Raises:
      ValueError: where the name is another one.
    """
    if corruption == "gaussian":
        return gaussian_corruption(key, x, level)
    if corruption == "masking":
        return masking_corruption(key, x, level)
    if corruption == "salt_and_pepper":
        return salt_and_pepper_corruption(key, x, level)
    raise ValueError(f"corruption='{corruption}' is unknown; expected one of {CORRUPTIONS}.")


def conditional_moments(x: Array, corruption: str, level: float) -> tuple[float, float, Array]:
    """The mean and the variance of what a corruption makes of an image, pixel by pixel.

    E[x̃|x] = a x + c;  Gaussian: a = 1, c = 0, Var = σ²;  masking: a = 1 − ν, c = 0, Var = ν (1 − ν) x²;
    salt and pepper: a = 1 − ν, c = ν/2, Var = (1 − ν) x² + ν/2 − (a x + c)²

    Of the laws in "Stacked Denoising Autoencoders", Vincent et al., 2010 (JMLR 11), Section 3.3.

    Args:
      x: [...] the image.
      corruption: as in `corrupt`.
      level: as in `corrupt`.

    Returns:
      a, c, and Var[x̃|x] [...].

    Raises:
      ValueError: where the name is another one.
    """
    if corruption == "gaussian":
        return 1.0, 0.0, jnp.full_like(x, level**2)
    gain = 1.0 - level
    if corruption == "masking":
        return gain, 0.0, level * gain * x**2
    if corruption == "salt_and_pepper":
        return gain, 0.5 * level, gain * x**2 + 0.5 * level - (gain * x + 0.5 * level) ** 2
    raise ValueError(f"corruption='{corruption}' is unknown; expected one of {CORRUPTIONS}.")
