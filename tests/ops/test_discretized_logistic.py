"""The discretised logistic likelihood against float64 differences of scipy's logistic distribution function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from gen_jax.ops.distributions import discretized_logistic_log_likelihood

_MEANS = (-100.0, -2.0, -0.3, 0.0, 0.25, 0.5, 0.7331, 1.0, 1.5, 3.0, 100.0)
_LOG_SCALES = (-7.0, -5.0, -3.0, -1.0, 0.0, 2.0, 5.0)


@functools.partial(jax.jit, static_argnums=2)
def _table(means: jax.Array, log_scales: jax.Array, num_levels: int) -> jax.Array:
    """Log-probabilities [means, log_scales, levels]."""
    levels = jnp.arange(num_levels) / (num_levels - 1)

    def one(mean: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
        return discretized_logistic_log_likelihood(x, mean, log_scale, num_levels)

    over_levels = jax.vmap(one, (None, None, 0))
    return jax.vmap(jax.vmap(over_levels, (None, 0, None)), (0, None, None))(means, log_scales, levels)


def _by_scipy(mean: float, log_scale: float, num_levels: int) -> np.ndarray:
    """Probabilities [levels]: the mass of each bin, taken on the side of the mean where it loses no digits."""
    edges = (np.arange(1, num_levels) - 0.5) / (num_levels - 1)
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    law = scipy.stats.logistic(mean, np.exp(log_scale))
    below, above = law.cdf(edges), law.sf(edges)
    return np.where(edges[1:] <= mean, below[1:] - below[:-1], above[:-1] - above[1:])


@pytest.mark.parametrize("num_levels", [2, 32, 256])
def test_sums_to_one_over_the_levels(num_levels: int):
    """Σ_v P(v) = 1 for means inside and outside of [0, 1] and for narrow and wide scales."""
    table = np.asarray(_table(jnp.array(_MEANS), jnp.array(_LOG_SCALES), num_levels), np.float64)
    assert table.shape == (len(_MEANS), len(_LOG_SCALES), num_levels)
    assert table.max() <= 1e-6
    # Float32 has the bins' edges to 6e-8 · |edge − μ| / s, s ≥ e^−7, around means of at most 3.
    np.testing.assert_allclose(np.exp(table).sum(-1), 1.0, atol=5e-4)
    np.testing.assert_allclose(np.exp(table[:, 2:]).sum(-1), 1.0, atol=2e-5)


def test_sums_to_one_at_the_promised_extremes():
    """Down to log s = −80 a mean in the middle of a bin has all of its mass there; up to +120 the two ends share it."""
    bins = np.array([0, 1, 37, 128, 254, 255])
    narrow = np.asarray(_table(jnp.asarray(bins / 255.0), jnp.array([-80.0, -60.0, -40.0, -20.0, -10.0]), 256))
    np.testing.assert_allclose(np.exp(narrow).sum(-1), 1.0, atol=1e-6)
    for row, level in zip(narrow, bins, strict=True):
        assert (row.argmax(-1) == level).all()
    outside = np.asarray(_table(jnp.array([-5.0, 7.0, 100.0]), jnp.array([-80.0, -30.0]), 256))
    np.testing.assert_allclose(outside[0, :, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(outside[1:, :, 255], 0.0, atol=1e-6)
    wide = np.asarray(_table(jnp.array([0.5]), jnp.array([20.0, 50.0, 120.0]), 256), np.float64)[0]
    np.testing.assert_allclose(wide[:, [0, 255]], -np.log(2), atol=1e-6)
    # In between the density is flat, 1 / (4 s), so that a bin has log(δ / 4) − log s nats.
    np.testing.assert_allclose(wide[:, 128], -np.log(4 * 255) - np.array([20.0, 50.0, 120.0]), rtol=1e-6)


@pytest.mark.parametrize("num_levels", [2, 32, 256])
def test_agrees_with_scipy(num_levels: int):
    """Every level's log-probability is the float64 difference of the distribution function, tails included."""
    means = [m for m in _MEANS if abs(m) < 50]
    table = np.asarray(_table(jnp.array(means), jnp.array(_LOG_SCALES), num_levels), np.float64)
    compared = 0
    for mean, rows in zip(means, table, strict=True):
        for log_scale, found in zip(_LOG_SCALES, rows, strict=True):
            p = _by_scipy(mean, log_scale, num_levels)
            kept = p > 1e-290
            compared += kept.sum()
            tolerance = 5e-6 + 3e-7 * (1 + abs(mean)) * np.exp(-log_scale)
            np.testing.assert_allclose(found[kept], np.log(p[kept]), rtol=2e-6, atol=tolerance)
    assert compared > 0.7 * table.size


def test_narrow_bins_in_float64():
    """In float64 the logarithm of a wide logistic's tiny bins is right to ten digits, where a difference loses them."""
    with jax.enable_x64(True):
        found = [float(discretized_logistic_log_likelihood(jnp.array(0.4), 0.1, s)) for s in (0.0, 4.0, 8.0, 14.0)]
    # The bin's mass as an integral of the density, by Gauss-Legendre quadrature.
    delta = 1 / 255
    points, weights = np.polynomial.legendre.leggauss(8)
    at = 0.4 - 0.1 + points * delta / 2
    masses = [delta / 2 * weights @ scipy.stats.logistic.pdf(at, 0, np.exp(s)) for s in (0.0, 4.0, 8.0, 14.0)]
    np.testing.assert_allclose(found, np.log(masses), rtol=1e-10)


def test_two_levels_are_a_bernoulli():
    """With two levels, P(1) = σ((μ − ½) / s)."""
    table = np.asarray(_table(jnp.array([-0.2, 0.4, 0.9]), jnp.array([-1.0, 0.5]), 2), np.float64)
    logits = (np.array([-0.2, 0.4, 0.9])[:, None] - 0.5) / np.exp([-1.0, 0.5])
    np.testing.assert_allclose(np.exp(table[..., 1]), scipy.special.expit(logits), rtol=1e-5)
    np.testing.assert_allclose(np.exp(table[..., 0]), scipy.special.expit(-logits), rtol=1e-5)


def test_finite_value_and_gradient_at_extremes():
    """At means of ±100 and scales from e^−80 to e^120 every level has a finite value and a finite gradient."""
    mean, log_scale, x = np.meshgrid(
        [-100.0, -1.0, 0.0, 0.5, 100.0], [-80.0, -30.0, -7.0, 0.0, 50.0, 120.0], [0.0, 0.4, 1.0]
    )
    arguments = (jnp.asarray(a.ravel(), jnp.float32) for a in (x, mean, log_scale))
    values, gradients = jax.vmap(jax.value_and_grad(discretized_logistic_log_likelihood, argnums=(1, 2)))(*arguments)
    assert np.isfinite(values).all()
    assert all(np.isfinite(g).all() for g in gradients)
    assert (np.asarray(values) <= 0).all()


def test_gradient_does_not_vanish_far_from_the_mean():
    """A level far below the mean pulls it down with the slope −1/s of the logistic's tail; far above, up with 1/s."""
    slope = jax.grad(discretized_logistic_log_likelihood, argnums=1)
    for x in (0.0, 0.5):
        assert float(slope(jnp.array(x), 100.0, -7.0)) == pytest.approx(-np.exp(7), rel=1e-4)
    for x in (0.5, 1.0):
        assert float(slope(jnp.array(x), -100.0, -7.0)) == pytest.approx(np.exp(7), rel=1e-4)


def test_gradients_in_float64():
    """Automatic derivatives agree with finite differences at both ends and inside."""
    with jax.enable_x64(True):
        x = jnp.array([0.0, 10 / 255, 128 / 255, 200 / 255, 1.0])
        mean = jnp.array([0.1, 0.2, 0.4, 0.9, 0.8])
        log_scale = jnp.array([-3.0, -2.0, 5.0, -1.0, -2.5])
        value = jax.jit(functools.partial(discretized_logistic_log_likelihood, x))
        check_grads(value, (mean, log_scale), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


def test_sums_over_dimensions_with_one_scale_for_all():
    """An image's log-probability is the sum of its pixels', with the scale given once or for each."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3)) / 255.0, jnp.float32)
    mean = jnp.full(x.shape, 0.3)
    once = discretized_logistic_log_likelihood(x, mean, jnp.array(-1.0))
    each = discretized_logistic_log_likelihood(x, mean, jnp.full(x.shape, -1.0))
    levels = np.round(np.asarray(x, np.float64) * 255).astype(int)
    expected = np.log(_by_scipy(0.3, -1.0, 256))[levels].sum()
    assert once.shape == each.shape == ()
    assert float(once) == pytest.approx(expected, rel=1e-5)
    assert float(each) == pytest.approx(expected, rel=1e-5)
