"""Importance-sampled log p(x) on linear-Gaussian models, where log p(x) is known."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.families.vae import VAE, MLPDecoder, MLPEncoder
from gen_jax.families.vae.sampling import log_marginal

_SHAPE = (2, 2, 1)
_STD = 0.6
# Most of this file's time is compilation; these programs run once each.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _linear_model() -> VAE:
    return VAE(MLPEncoder(2, ()), MLPDecoder(_SHAPE, ()), "gaussian", "fixed", fixed_std=_STD, squash_mean=False)


def _params(spread: float, shift: float) -> tuple[Any, np.ndarray, np.ndarray]:
    """Weights whose q(z|x) is the exact posterior, `spread` times as wide and `shift` away, and the decoder's W, b."""
    random = np.random.default_rng(0)
    # Orthogonal columns, so that the posterior's covariance is diagonal and q can be it.
    basis = np.linalg.qr(random.standard_normal((4, 2)))[0] * np.array([1.3, 0.8])
    bias = random.uniform(0, 1, 4)
    precision = 1 + np.sum(basis**2, axis=0) / _STD**2
    to_mean = basis / _STD**2 / precision
    encoder = {
        "mean": {"kernel": to_mean, "bias": -bias @ to_mean + shift},
        "log_var": {"kernel": np.zeros((4, 2)), "bias": 2 * np.log(spread) - np.log(precision)},
    }
    params = {"encoder": encoder, "decoder": {"Dense_0": {"kernel": basis.T, "bias": bias}}}
    return params, basis, bias


def _log_p(x: np.ndarray, basis: np.ndarray, bias: np.ndarray) -> float:
    """Log N(x; b, W Wᵀ + σ² I), of levels: in units of 1/256."""
    law = scipy.stats.multivariate_normal(bias, basis @ basis.T + _STD**2 * np.eye(4))
    return law.logpdf(x.ravel()) - 4 * np.log(256)


def _estimates(
    params: Any, x: np.ndarray, repeats: int, num_samples: int, chunk_size: int, seed: int = 0
) -> np.ndarray:
    """Independent estimates [repeats] in float64."""
    with jax.enable_x64(True):
        keys = rng.per_example(rng.root(seed), np.arange(repeats))
        one = functools.partial(log_marginal, model=_linear_model(), num_samples=num_samples, chunk_size=chunk_size)
        batched = _jit(jax.vmap(one, in_axes=(None, 0, None)))
        values = batched(jax.tree.map(jnp.asarray, params), keys, jnp.asarray(x))
        assert values.dtype == jnp.float64
        return np.asarray(values)


_X = np.random.default_rng(1).uniform(0, 1, _SHAPE)


@pytest.mark.parametrize("num_samples", [1, 60])
def test_exact_posterior_gives_log_p_without_variance(num_samples: int):
    """With q = p(z|x) one sample is enough, whatever its noise."""
    params, basis, bias = _params(1.0, 0.0)
    found = _estimates(params, _X, 20, num_samples, chunk_size=1)
    np.testing.assert_allclose(found, _log_p(_X, basis, bias), rtol=1e-12)


@pytest.mark.parametrize(("spread", "shift"), [(1.2, 0.1), (0.85, 0.0), (1.5, -0.3)])
def test_weights_are_unbiased(spread: float, shift: float):
    """The mean weight of an inexact q is p(x) within 4 standard errors, and log p(x) to 0.01 nats in one estimate."""
    params, basis, bias = _params(spread, shift)
    log_p = _log_p(_X, basis, bias)
    ratios = np.exp(_estimates(params, _X, 64, 2000, chunk_size=500) - log_p)
    error = ratios.std(ddof=1) / np.sqrt(len(ratios))
    assert 1e-6 < error < 0.01
    assert abs(ratios.mean() - 1) < 4 * error
    assert np.abs(np.log(ratios)).max() < 0.1


def test_bound_grows_with_the_samples():
    """E[L_k] rises with k and stays below log p(x), each by more than 4 standard errors."""
    params, basis, bias = _params(1.5, 0.4)
    log_p = _log_p(_X, basis, bias)
    sizes = (1, 8, 64)
    values = [_estimates(params, _X, 2000, k, chunk_size=k, seed=k) for k in sizes]
    values = [v - np.expm1(v - log_p) for v in values]  # The weights' mean is p(x): a control variate.
    means = np.array([v.mean() for v in values] + [log_p])
    errors = np.array([v.std() / np.sqrt(len(v)) for v in values] + [0.0])
    assert (np.diff(means) > 4 * np.hypot(errors[1:], errors[:-1])).all()


def test_independent_of_the_chunks():
    """The same samples in chunks of 1, 7 and 70 give the same number."""
    params, _, _ = _params(1.5, 0.4)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    x = jnp.asarray(_X, jnp.float32)
    found = [
        float(log_marginal(params, rng.root(2), x, model=_linear_model(), num_samples=70, chunk_size=chunk))
        for chunk in (1, 7, 70)
    ]
    np.testing.assert_allclose(found, found[0], rtol=0, atol=1e-5 * abs(found[0]))
    other = float(log_marginal(params, rng.root(3), x, model=_linear_model(), num_samples=70, chunk_size=70))
    assert abs(other - found[0]) > 1e-4


def test_refuses_chunks_that_do_not_divide():
    """A chunk that leaves samples over is an error that names both numbers."""
    params, _, _ = _params(1.0, 0.0)
    with pytest.raises(ValueError, match="chunk_size=30 must divide num_samples=100"):
        log_marginal(params, rng.root(0), jnp.asarray(_X), model=_linear_model(), num_samples=100, chunk_size=30)


def _toy(mean: float, log_var: float) -> tuple[VAE, Any]:
    """Z ~ N(0, 1), x|z ~ N(z, 1) as a one-pixel VAE with a q that does not look at x."""
    model = VAE(MLPEncoder(1, ()), MLPDecoder((1, 1, 1), ()), "gaussian", "fixed", squash_mean=False)
    encoder = {
        "mean": {"kernel": np.zeros((1, 1)), "bias": np.array([mean])},
        "log_var": {"kernel": np.zeros((1, 1)), "bias": np.array([log_var])},
    }
    return model, {"encoder": encoder, "decoder": {"Dense_0": {"kernel": np.ones((1, 1)), "bias": np.zeros(1)}}}


@pytest.mark.parametrize(
    ("mean", "var", "k", "nats"),
    [(0.5, 0.5, 3, -1.515512), (0.0, 1.0, 10, -1.5345), (0.0, 0.5, 5, -1.5748)],
)
def test_known_bounds_through_the_network(mean: float, var: float, k: int, nats: float):
    """The toy's known L_k at x = 1, in levels, come out of the model's own encoder and decoder (4 standard errors)."""
    model, params = _toy(mean, np.log(var))
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    keys = rng.per_example(rng.root(0), np.arange(20_000))
    one = functools.partial(log_marginal, model=model, num_samples=k, chunk_size=k)
    values = _jit(jax.vmap(one, in_axes=(None, 0, None)))(params, keys, jnp.ones((1, 1, 1)))
    values = np.asarray(values, np.float64) + np.log(256)
    corrected = values - np.expm1(values + 1.515512)  # The weights' mean is p(x): a control variate.
    error = corrected.std() / np.sqrt(len(corrected))
    assert error < 0.02
    assert abs(corrected.mean() - nats) < 4 * np.hypot(error, 6e-4)


def test_binary_images_by_enumeration():
    """For a Bernoulli decoder the estimates of all 16 binary images of 2x2 pixels are probabilities that sum to 1."""
    model = VAE(MLPEncoder(2, ()), MLPDecoder(_SHAPE, (6,)))
    params = _jit(model.init)(jax.random.key(0), jnp.zeros((1, *_SHAPE)))["params"]
    params = jax.tree.map(lambda a: 2.0 * a, params) | {"encoder": jax.tree.map(jnp.zeros_like, params["encoder"])}
    images = jnp.asarray([[(n >> bit) & 1 for bit in range(4)] for n in range(16)], jnp.float32).reshape(16, *_SHAPE)
    one = functools.partial(log_marginal, model=model, num_samples=2000, chunk_size=500)
    # The same key for all: the sum over images is then 1 for each sample and not on average only.
    log_p = _jit(jax.vmap(one, in_axes=(None, None, 0)))(params, rng.root(0), images)
    p = np.exp(np.asarray(log_p, np.float64))
    assert p.sum() == pytest.approx(1.0, abs=1e-4)
    assert p.max() - p.min() > 0.01
