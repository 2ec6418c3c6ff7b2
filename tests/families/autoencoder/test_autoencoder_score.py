"""The denoising autoencoder as an estimate of the score, against mixtures of Gaussians whose score is known.

Noise N(0, σ²) makes of Σ_k π_k N(m_k, S_k) the mixture Σ_k π_k N(m_k, S_k + σ² I), and its best denoiser is the
posterior mean E[x | x̃], so that (E[x | x̃] − x̃) / σ² = ∇ log p_σ(x̃) (Tweedie's formula).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.families.autoencoder import MLPAutoencoder, reconstruction_error, sampling
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

# Three Gaussians on the line: π, m, s.
_WEIGHTS, _MEANS, _STDS = np.array([0.3, 0.5, 0.2]), np.array([-1.5, 0.0, 1.8]), np.array([0.3, 0.4, 0.25])
_SIGMA = 0.5


def _line_density(x: np.ndarray, sigma: float) -> np.ndarray:
    return scipy.stats.norm.pdf(x[:, None], _MEANS, np.hypot(_STDS, sigma)) @ _WEIGHTS


def _line_score(x: np.ndarray, sigma: float) -> np.ndarray:
    """The slope of log p_σ, as the responsibilities' mean of (m_k − x) / (s_k² + σ²)."""
    density = scipy.stats.norm.pdf(x[:, None], _MEANS, np.hypot(_STDS, sigma)) * _WEIGHTS
    slopes = (_MEANS - x[:, None]) / (_STDS**2 + sigma**2)
    return (density * slopes).sum(1) / density.sum(1)


def test_the_closed_form_is_the_slope_of_the_log_density():
    """The oracle itself, by central differences of scipy's densities."""
    x = np.linspace(-3, 3, 41)
    slope = (np.log(_line_density(x + 1e-5, _SIGMA)) - np.log(_line_density(x - 1e-5, _SIGMA))) / 2e-5
    np.testing.assert_allclose(_line_score(x, _SIGMA), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_the_score_of_the_posterior_mean_is_exact(sigma: float):
    """In the plane, with full covariances: the posterior mean by conditioning, the score by automatic derivatives."""
    weights, means = np.array([0.6, 0.4]), np.array([[-1.0, 0.5], [1.2, -0.3]])
    covariances = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.6]]])
    noisy = covariances + sigma**2 * np.eye(2)
    grid = np.stack(np.meshgrid(np.linspace(-3, 3, 9), np.linspace(-2, 2, 7)), -1).reshape(-1, 2)

    def posterior_mean(x: jax.Array) -> jax.Array:
        points = np.asarray(x).reshape(-1, 2)
        joint = [
            w * scipy.stats.multivariate_normal.pdf(points, m, c) for w, m, c in zip(weights, means, noisy, strict=True)
        ]
        share = np.stack(joint) / np.sum(joint, axis=0)
        each = [m + (points - m) @ np.linalg.solve(n, c) for m, c, n in zip(means, covariances, noisy, strict=True)]
        return jnp.asarray(np.einsum("kn,knd->nd", share, np.stack(each))).reshape(x.shape)

    def log_density(x: jax.Array) -> jax.Array:
        offsets = x[None] - means
        squares = jnp.einsum("ki,kij,kj->k", offsets, np.linalg.inv(noisy), offsets)
        return jax.nn.logsumexp(-0.5 * squares + np.log(weights) - 0.5 * np.log(np.linalg.det(noisy)))

    with jax.enable_x64(True):
        expected = jax.jit(jax.vmap(jax.grad(log_density)))(jnp.asarray(grid))
        found = sampling.score(posterior_mean, jnp.asarray(grid).reshape(-1, 1, 1, 2), sigma)
        assert found.shape == (63, 1, 1, 2)
        np.testing.assert_allclose(found.reshape(-1, 2), expected, rtol=1e-6, atol=1e-9)


def test_a_trained_denoiser_knows_the_score():
    """A network trained on the exact expected error has the score within 2 % of its root mean square, everywhere.

    The expectation over x and the noise is the trapezoidal rule on a grid of both, exact to many digits for Gaussians.
    The grid of the comparison is where p_σ is more than 1 % of its peak.
    """
    shape = (1, 1, 1)
    clean, noise = np.arange(-3, 3.2, 0.2), np.arange(-5, 5.01, 0.7) * _SIGMA
    weights = np.outer(_line_density(clean, 0.0), scipy.stats.norm.pdf(noise, scale=_SIGMA)).ravel()
    weights /= weights.sum()
    x, corrupted = np.repeat(clean, len(noise)), np.add.outer(clean, noise).ravel()
    # The rule itself: the moments of the mixture.
    assert weights @ corrupted == pytest.approx(_WEIGHTS @ _MEANS, abs=1e-6)
    second = _WEIGHTS @ (_MEANS**2 + _STDS**2) + _SIGMA**2
    assert weights @ corrupted**2 == pytest.approx(second, rel=1e-5)

    model = MLPAutoencoder(shape, (32, 16), code_activation=nn.gelu, output="linear")
    num_steps = 8000
    tx = optax.adam(optax.cosine_decay_schedule(0.01, num_steps))

    def loss(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
        del key
        z = apply_in_param_dtype(model, params, batch["corrupted"], method="encode")
        raw = apply_in_param_dtype(model, params, z, method="decode")
        return jnp.sum(batch["weight"] * jax.vmap(reconstruction_error)(batch["x"], raw)), (model_state, {})

    step = make_train_step(loss, tx)
    data = {"x": x.reshape(-1, *shape), "corrupted": corrupted.reshape(-1, *shape), "weight": weights}
    data = {name: value.astype(np.float32) for name, value in data.items()}
    params = jax.jit(model.init)(rng.root(0), jnp.zeros((1, *shape)))["params"]

    def run(state: Any, batch: Any) -> Any:
        return jax.lax.scan(lambda state, _: (step(state, batch)[0], None), state, length=num_steps)[0]

    # Runs for longer than it is compiled.
    options = {"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False}
    params = jax.jit(run, compiler_options=options)(init_state(params, tx, rng.root(1)), data).params
    grid = np.linspace(-4, 4, 401)
    density = _line_density(grid, _SIGMA)
    grid = grid[density > 0.01 * density.max()]
    assert grid.min() < -2.5 and grid.max() > 2.7

    def denoise(x: jax.Array) -> jax.Array:
        return sampling.reconstruct(params, x, model=model)

    found = jax.jit(lambda x: sampling.score(denoise, x, _SIGMA))(jnp.float32(grid).reshape(-1, *shape)).ravel()
    expected = _line_score(grid, _SIGMA)
    error = np.asarray(found, np.float64) - expected
    assert np.abs(error).max() < 0.02 * np.sqrt(np.mean(expected**2))
