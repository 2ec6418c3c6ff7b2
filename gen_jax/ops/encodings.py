"""Coordinates as waves, so that a network can follow fine detail. One point; mapped by `vmap`."""

from __future__ import annotations

import math

import jax.numpy as jnp

from gen_jax.contracts import Array
from gen_jax.ops.cameras import exact_product

# Whether frequencies are multiplied by π, and whether the coordinates themselves come first.
_CONVENTIONS = {
    "paper": (True, False),
    "paper_with_input": (True, True),
    "code": (False, True),
    "code_without_input": (False, False),
}
CONVENTIONS = tuple(_CONVENTIONS)


def positional_encoding(x: Array, num_frequencies: int, *, convention: str = "code") -> Array:
    """Sines and cosines of coordinates at doubling frequencies.

    γ(x) = (sin 2⁰πx, cos 2⁰πx, …, sin 2^{L−1}πx, cos 2^{L−1}πx), without the π and after x itself in the paper's code

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Eq. 4.

    Args:
      x: [D].
      num_frequencies: L; 0 for none.
      convention: "paper", "code" (which the published weights have), "paper_with_input" or "code_without_input".

    Returns:
      [2 L D], or [(2 L + 1) D] with the input: for each frequency the sines of all coordinates, then their cosines.

    Raises:
      ValueError: where the convention is not known.
    """
    if convention not in _CONVENTIONS:
        raise ValueError(f"convention={convention!r} is not known; expected one of {', '.join(CONVENTIONS)}.")
    with_pi, with_input = _CONVENTIONS[convention]
    frequencies = 2.0 ** jnp.arange(num_frequencies, dtype=x.dtype) * (math.pi if with_pi else 1.0)
    angles = frequencies[:, None] * x[None]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=1).reshape(-1)
    return jnp.concatenate([x, waves]) if with_input else waves


def integrated_encoding(mean: Array, variance: Array, num_frequencies: int) -> Array:
    """What `positional_encoding` is on average over a normal distribution: waves finer than its spread fade.

    E[sin(2^l x)] = sin(2^l μ) exp(−½ 4^l σ²), and likewise the cosines

    See "Mip-NeRF: A Multiscale Representation for Anti-Aliasing Neural Radiance Fields", Barron et al., 2021
    (arXiv:2103.13415), Eq. 14.

    Args:
      mean: μ [D].
      variance: [D], the diagonal of Σ, ≥ 0.
      num_frequencies: L.

    Returns:
      [2 L D], in the order of `positional_encoding` with the convention "code_without_input".
    """
    waves = positional_encoding(mean, num_frequencies, convention="code_without_input")
    fading = jnp.exp(-0.5 * 4.0 ** jnp.arange(num_frequencies, dtype=mean.dtype)[:, None] * variance[None])
    return waves * jnp.stack([fading, fading], axis=1).reshape(-1)


def fourier_features(x: Array, frequencies: Array) -> Array:
    """Cosines and sines of coordinates at given frequencies: γ(x) = (cos 2πBx, sin 2πBx).

    See "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains", Tancik et al., 2020
    (arXiv:2006.10739), Section 6.1, where the entries of B are drawn from N(0, σ²).

    Args:
      x: [D].
      frequencies: B [F, D].

    Returns:
      [2 F].
    """
    angles = 2.0 * math.pi * exact_product(frequencies, x)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
