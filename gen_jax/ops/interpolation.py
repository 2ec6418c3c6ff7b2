"""Values on a grid at places between its points. One place; mapped by `vmap`."""

from __future__ import annotations

import itertools

import jax.numpy as jnp

from gen_jax.contracts import Array


def trilinear(values: Array, place: Array) -> Array:
    """What lies between the eight points of a cell: exact for functions that are linear in each coordinate.

    f(x) = Σ_b f(⌊x⌋ + b) Π_k (1 − |x_k − ⌊x_k⌋ − b_k|),  b ∈ {0, 1}³

    See "Numerical Recipes in C", Press et al., 1992, Section 3.6, for two coordinates.

    Args:
      values: [X, Y, Z, ...], each side 2 or more.
      place: [3], in steps of the grid from its first point on; outside of it the nearest place on its border counts.

    Returns:
      [...].
    """
    last = jnp.array(values.shape[:3], place.dtype) - 1
    place = jnp.clip(place, 0.0, last)
    cell = jnp.minimum(jnp.floor(place), last - 1)
    fraction = place - cell
    x, y, z = cell.astype(jnp.int32)
    total = jnp.zeros(values.shape[3:], values.dtype)
    for corner in itertools.product((0, 1), repeat=3):
        weight = jnp.prod(jnp.where(jnp.array(corner) == 1, fraction, 1.0 - fraction))
        total = total + weight * values[x + corner[0], y + corner[1], z + corner[2]]
    return total
