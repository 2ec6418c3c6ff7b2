"""Interpolation against functions that it is exact for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.ops import interpolation

trilinear = jax.jit(interpolation.trilinear)
SHAPE = (4, 5, 3)


def multilinear(x: np.ndarray) -> np.ndarray:
    a, b, c = np.moveaxis(x, -1, 0)
    return np.stack([1 + 2 * a - b + 0.5 * c, a * b * c - a * c + 3 * b * c], axis=-1)


def test_functions_linear_in_each_coordinate_are_exact():
    grid = jnp.asarray(multilinear(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)))
    places = np.random.default_rng(0).uniform(0, np.array(SHAPE) - 1, (200, 3))
    places = np.concatenate([places, [[0, 0, 0], [3, 4, 2], [3, 1.5, 0], [1, 4, 2]]])
    found = jax.jit(jax.vmap(lambda place: trilinear(grid, place)))(jnp.asarray(places, jnp.float32))
    np.testing.assert_allclose(found, multilinear(places), rtol=1e-5, atol=1e-5)


def test_the_weights_of_a_place_sum_to_one_and_are_its_neighbours():
    size = int(np.prod(SHAPE))
    grid = jnp.eye(size).reshape(*SHAPE, size)  # What comes out are the weights.
    for place in np.random.default_rng(1).uniform(0, np.array(SHAPE) - 1, (20, 3)):
        weights = np.asarray(trilinear(grid, jnp.asarray(place, jnp.float32))).reshape(SHAPE)
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
        assert weights.min() >= 0
        near = np.stack(np.nonzero(weights > 1e-6), axis=1)
        assert len(near) == 8 and np.abs(near - place).max() < 1


def test_outside_of_the_grid_its_border_counts():
    grid = jnp.arange(60.0).reshape(SHAPE)
    assert trilinear(grid, jnp.array([-1.0, 0.0, 0.0])) == 0
    assert trilinear(grid, jnp.array([9.0, 9.0, 9.0])) == 59
