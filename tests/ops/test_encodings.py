"""Encodings against vectors written out by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.ops import encodings
from gen_jax.ops.encodings import CONVENTIONS

positional_encoding = jax.jit(encodings.positional_encoding, static_argnums=1, static_argnames="convention")
integrated_encoding = jax.jit(encodings.integrated_encoding, static_argnums=2)
fourier_features = jax.jit(encodings.fourier_features)


def test_vectors_of_every_convention():
    x = jnp.array([0.3, -0.7])

    def waves(scale):
        return [wave(2.0**k * scale * v) for k in range(3) for wave in (math.sin, math.cos) for v in (0.3, -0.7)]

    expected = {
        "paper": waves(math.pi),
        "paper_with_input": [0.3, -0.7, *waves(math.pi)],
        "code": [0.3, -0.7, *waves(1.0)],
        "code_without_input": waves(1.0),
    }
    assert expected.keys() == set(CONVENTIONS)
    for convention, vector in expected.items():
        found = positional_encoding(x, 3, convention=convention)
        np.testing.assert_allclose(found, vector, atol=2e-6, err_msg=convention)


def test_sizes_are_the_papers():
    place, view = jnp.zeros(3), jnp.zeros(3)
    assert positional_encoding(place, 10, convention="paper").shape == (60,)
    assert positional_encoding(view, 4, convention="paper").shape == (24,)
    assert positional_encoding(place, 10).shape == (63,) and positional_encoding(view, 4).shape == (27,)
    assert positional_encoding(place, 0).shape == (3,)
    found = positional_encoding(jnp.zeros(1), 2, convention="paper")
    np.testing.assert_array_equal(found, [0, 1, 0, 1])


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="expected one of paper, "):
        positional_encoding(jnp.zeros(3), 2, convention="jaxnerf")


def test_the_integrated_encoding_is_the_mean_over_a_normal_distribution():
    found = integrated_encoding(jnp.array([1.0]), jnp.array([0.5]), 1)
    np.testing.assert_allclose(found[0], 0.655338, atol=1e-6)
    found = integrated_encoding(jnp.array([0.3]), jnp.array([0.01]), 4)
    np.testing.assert_allclose(found[6], 0.490487, atol=1e-6)
    # All of it against Gauss and Hermite's quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    mean, variance = np.array([0.4, -1.1, 0.2]), np.array([0.05, 0.2, 0.0])
    points = jnp.asarray(mean + np.sqrt(variance) * nodes[:, None], jnp.float32)
    encode = lambda x: positional_encoding(x, 4, convention="code_without_input")  # noqa: E731
    expected = weights @ np.asarray(jax.jit(jax.vmap(encode))(points)) / weights.sum()
    found = integrated_encoding(jnp.asarray(mean), jnp.asarray(variance), 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    exact = integrated_encoding(jnp.asarray(mean), jnp.zeros(3), 4)
    np.testing.assert_allclose(exact, encode(jnp.asarray(mean)), atol=1e-7)


def test_fourier_features():
    frequencies, x = np.array([[1.0, 2.0], [0.5, -0.25], [3.0, 0.0]]), np.array([0.1, 0.2])
    angles = 2 * np.pi * frequencies @ x
    found = fourier_features(jnp.asarray(x, jnp.float32), jnp.asarray(frequencies, jnp.float32))
    np.testing.assert_allclose(found, [*np.cos(angles), *np.sin(angles)], atol=1e-6)
    # Their inner products are a kernel of the difference alone.
    other = fourier_features(jnp.asarray(x + 0.3, jnp.float32), jnp.asarray(frequencies, jnp.float32))
    np.testing.assert_allclose(found @ other, np.sum(np.cos(2 * np.pi * frequencies @ [0.3, 0.3])), atol=1e-5)
