"""Twice and half the size."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nn.resampling import mean_pool, upsample


def test_upsample_repeats_and_mean_pool_averages():
    """Against numpy, on images that are not square."""
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(upsample(jnp.asarray(x)), x.repeat(2, axis=1).repeat(2, axis=2))
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(mean_pool(jnp.asarray(x)), sum(corners) / 4, atol=1e-6)


def test_mean_pool_undoes_upsample():
    """pool(up(x)) = x, and the two are adjoint up to the factor 4: ⟨up x, y⟩ = 4 ⟨x, pool y⟩."""
    random = np.random.default_rng(1)
    x = jnp.asarray(random.integers(-8, 8, (2, 4, 6, 3)), jnp.float32)
    y = jnp.asarray(random.integers(-8, 8, (2, 8, 12, 3)), jnp.float32)
    np.testing.assert_array_equal(jax.jit(lambda x: mean_pool(upsample(x)))(x), x)
    assert float(jnp.vdot(upsample(x), y)) == 4 * float(jnp.vdot(x, mean_pool(y))) != 0.0
