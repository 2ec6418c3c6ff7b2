"""The best discriminator of two known densities, and what the game is worth with it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.contracts import Array
from gen_jax.families import gan
from gen_jax.ops import distributions

_GRID = np.linspace(-14.0, 18.0, 4001, dtype=np.float32)


def _gaussian(mean: float, scale: float = 1.0):
    """Log N(x; μ, s²) of one number."""
    log_var = jnp.float32(2 * math.log(scale))
    return lambda x: distributions.gaussian_log_likelihood(x, jnp.float32(mean), log_var)


def _accuracy(delta: float) -> float:
    """How often the best discriminator of N(0, 1) against N(δ, 1) is right about a real example."""
    p = np.exp(-0.5 * _GRID.astype(np.float64) ** 2) / math.sqrt(2 * math.pi)
    logits = jax.vmap(lambda x: gan.optimal_discriminator(_gaussian(0), _gaussian(delta), x))(_GRID)
    return float(np.trapezoid(np.where(np.asarray(logits) > 0, p, 0), _GRID))


@pytest.mark.parametrize(
    ("delta", "divergence", "accuracy"),
    [
        (0.5, 0.030311, 0.598706),
        (1.0, 0.111421, 0.691462),
        (2.0, 0.336831, 0.841345),
        (3.0, 0.526777, None),
        (4.0, 0.632720, None),
    ],
)
def test_two_gaussians_apart(delta: float, divergence: float, accuracy: float | None):
    """N(0, 1) against N(δ, 1): logit δ²/2 − δx, the JSD to its digits, and V(D*) = 2 JSD − log 4 (G1)."""
    p, q = _gaussian(0), _gaussian(delta)
    x = jnp.linspace(-5.0, 6.0, 23)
    logits = jax.vmap(lambda x: gan.optimal_discriminator(p, q, x))(x)
    np.testing.assert_allclose(logits, delta**2 / 2 - delta * np.asarray(x), atol=3e-6)
    assert float(gan.jensen_shannon_divergence(p, q, _GRID)) == pytest.approx(divergence, abs=1.5e-6)
    value = float(gan.value_at_optimum(p, q, _GRID))
    assert value == pytest.approx(2 * divergence - math.log(4), abs=3e-6)
    expected = {0.5: -1.325672, 1.0: -1.163451, 2.0: -0.712633}
    if delta in expected:
        assert value == pytest.approx(expected[delta], abs=2e-6)
    if accuracy is not None:
        assert _accuracy(delta) == pytest.approx(accuracy, abs=2e-3)


@pytest.mark.parametrize(("scale", "divergence"), [(2.0, 0.092733), (3.0, 0.186494)])
def test_two_gaussians_of_different_widths(scale: float, divergence: float):
    """N(0, 1) against N(0, s²): the JSD and V to their digits (G2)."""
    p, q, grid = _gaussian(0), _gaussian(0, scale), np.linspace(-40.0, 40.0, 8001, dtype=np.float32)
    assert float(gan.jensen_shannon_divergence(p, q, grid)) == pytest.approx(divergence, abs=2e-6)
    value = float(gan.value_at_optimum(p, q, grid))
    assert value == pytest.approx(2 * divergence - math.log(4), abs=4e-6)
    if scale == 2.0:
        assert value == pytest.approx(-1.200828, abs=2e-6)


def test_the_best_discriminator_is_the_best():
    """V(D*) is −E[the shipped discriminator's loss] at D*, and every shifted or scaled logit is worth less."""
    p, q = _gaussian(0), _gaussian(1)
    logits = jax.vmap(lambda x: gan.optimal_discriminator(p, q, x))(_GRID)
    weight_p, weight_q = (np.exp(jax.vmap(f)(_GRID), dtype=np.float64) for f in (p, q))

    def value(logits: Array) -> float:
        silent = jnp.full_like(logits, 1e4)  # The half of the loss that is 0 there.
        real = gan.minimax_discriminator_loss(logits, -silent)
        fake = gan.minimax_discriminator_loss(silent, logits)
        return -float(np.trapezoid(weight_p * np.asarray(real) + weight_q * np.asarray(fake), _GRID))

    best = float(gan.value_at_optimum(p, q, _GRID))
    assert value(logits) == pytest.approx(best, abs=3e-6)
    for worse in (logits + 0.2, logits - 0.2, 0.8 * logits, 1.2 * logits):
        assert value(worse) < best - 1e-4


def test_the_bounds_of_the_divergence():
    """0 for equal densities, with V = −log 4; log 2 and V = 0 for densities that do not meet, also where one is 0."""
    p = _gaussian(0)
    assert float(gan.jensen_shannon_divergence(p, p, _GRID)) == pytest.approx(0, abs=1e-7)
    assert float(gan.value_at_optimum(p, p, _GRID)) == pytest.approx(-math.log(4), rel=1e-6)
    far, grid = _gaussian(40), np.linspace(-15.0, 55.0, 8001, dtype=np.float32)
    assert float(gan.jensen_shannon_divergence(p, far, grid)) == pytest.approx(math.log(2), rel=1e-6)
    assert float(gan.value_at_optimum(p, far, grid)) == pytest.approx(0, abs=1e-6)

    def uniform(low: float):
        return lambda x: jnp.where((x >= low) & (x < low + 1), 0.0, -jnp.inf)

    grid = np.arange(0, 2.75, 1 / 1024, dtype=np.float32) + np.float32(1 / 2048)
    # Half of each lies in the other: JSD = ½ log 2, by hand; V = 2 JSD − log 4 = −log 2.
    found = gan.jensen_shannon_divergence(uniform(0.5), uniform(1.0), grid)
    assert float(found) == pytest.approx(0.5 * math.log(2), rel=2e-3)
    assert float(gan.value_at_optimum(uniform(0.5), uniform(1.0), grid)) == pytest.approx(-math.log(2), rel=2e-3)
