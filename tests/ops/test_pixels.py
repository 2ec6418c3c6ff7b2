"""From 8-bit levels to what a likelihood scores: binarisation and dequantisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.ops import pixels

_LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)


def test_unit_levels():
    """V / 255 in float32, from 0 to exactly 1."""
    x = pixels.unit_levels(_LEVELS)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(np.ravel(x), np.arange(256) / 255, rtol=1e-7)
    assert float(x.max()) == 1.0


def test_examples_and_the_way_back():
    """Levels 0, 51 and 255 are −1, −0.6 and 1, and 0, 0.2 and 1 again; points stay; what is outside is cut off."""
    x = pixels.examples_of({"image": np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1)})
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x.ravel(), [-1, -0.6, 1], atol=1e-6)
    np.testing.assert_allclose(pixels.to_unit(x).ravel(), [0, 0.2, 1], atol=1e-6)
    np.testing.assert_array_equal(pixels.to_unit(jnp.array([-1.5, 1.5])), [0, 1])
    np.testing.assert_array_equal(pixels.examples_of({"point": np.array([[3.0, -4.0]])}), [[3, -4]])


def test_dynamic_binarization_has_the_grey_levels_mean():
    """The frequency of 1 is v / 255 within 4 standard errors at every level, and 0 and 255 never change."""
    count = 20_000
    keys = jax.random.split(jax.random.key(0), count)
    draws = jax.jit(jax.vmap(pixels.dynamic_binarization, (0, None)))(keys, _LEVELS)
    assert draws.dtype == jnp.float32
    assert set(np.unique(draws)) == {0.0, 1.0}
    frequency = np.asarray(draws, np.float64).mean(0).ravel()
    p = np.arange(256) / 255
    standard_error = np.sqrt(p * (1 - p) / count)
    assert (np.abs(frequency - p) <= 4 * standard_error).all()
    assert frequency[0] == 0.0
    assert frequency[255] == 1.0
    # All levels together resolve a scale of 256 in place of 255, which is 0.002 on average.
    assert abs((frequency - p).mean()) < 4 * np.sqrt((standard_error**2).sum()) / 256


def test_dynamic_binarization_pixels_are_independent():
    """Two pixels of one image are uncorrelated (4 standard errors) and another key gives another image."""
    keys = jax.random.split(jax.random.key(1), 20_000)
    draws = np.asarray(jax.vmap(pixels.dynamic_binarization, (0, None))(keys, np.full((2, 2), 128, np.uint8)))
    correlation = np.corrcoef(draws.reshape(len(keys), 4).T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(len(keys))
    images = {draw.tobytes() for draw in draws[:200]}
    assert len(images) == 16


def test_threshold_binarization():
    """128 and above are 1."""
    x = np.ravel(pixels.threshold_binarization(_LEVELS))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, np.arange(256) >= 128)


@pytest.mark.parametrize("seed", [0, 1])
def test_dequantization_keeps_every_level(seed: int):
    """floor(256 x) = v and 0 ≤ x < 1 in a million draws over all 256 levels."""
    keys = jax.random.split(jax.random.key(seed), 4096)
    x = np.asarray(jax.jit(jax.vmap(pixels.uniform_dequantization, (0, None)))(keys, _LEVELS))
    assert x.dtype == np.float32
    assert x.min() >= 0.0
    assert np.count_nonzero(x >= 1.0) == 0
    assert np.count_nonzero(np.floor(x * 256) != _LEVELS) == 0


@pytest.mark.parametrize("level", [128, 200, 254, 255])
def test_dequantization_never_rounds_up_to_the_next_level(level: int):
    """Near 256 a float32 has 16 bits after the point, so v + u could round up; in two million draws it does not."""
    x = pixels.uniform_dequantization(jax.random.key(level), np.full((2, 1000, 1000), level, np.uint8))
    assert int(jnp.sum(jnp.floor(x * 256) != level)) == 0
    assert float(x.max()) < 1.0


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_dequantization_noise_is_uniform(level: int):
    """256 x − v has the mean ½, the variance 1/12 and the deciles of U[0, 1), each within 4 standard errors."""
    count = 500_000
    x = pixels.uniform_dequantization(jax.random.key(7), np.full(count, level, np.uint8))
    u = np.asarray(x, np.float64) * 256 - level
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / count)
    assert abs(np.mean((u - 0.5) ** 2) - 1 / 12) < 4 * np.sqrt(1 / 180 / count)
    deciles = np.histogram(u, bins=10, range=(0, 1))[0] / count
    assert np.abs(deciles - 0.1).max() < 4 * np.sqrt(0.09 / count)
