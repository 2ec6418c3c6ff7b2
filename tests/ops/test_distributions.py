"""Gaussian and Bernoulli likelihoods and the Gaussian divergence against closed forms, scipy and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from gen_jax.ops import distributions


@pytest.mark.parametrize(
    ("mean", "std", "nats"), [(1, 1, 0.5), (0, 0.5, 0.318147), (1, 0.5, 0.818147), (2, 0.1, 3.807585), (0, 1, 0.0)]
)
def test_gaussian_kl_values(mean: float, std: float, nats: float):
    """KL(N(μ, σ²) ‖ N(0, 1)) has the known values to six digits."""
    kl = distributions.gaussian_kl(jnp.array([float(mean)]), jnp.array([2 * np.log(std)]))
    assert float(kl) == pytest.approx(nats, abs=6e-7)


def test_gaussian_kl_sums_over_dimensions():
    """The divergence of a product is the sum of its factors' divergences, not their mean."""
    kl = distributions.gaussian_kl(jnp.array([1.0, 0.0, 1.0]), 2 * jnp.log(jnp.array([1.0, 0.5, 0.5])))
    assert float(kl) == pytest.approx(0.5 + 0.318147 + 0.818147, abs=2e-6)


def test_gaussian_kl_against_monte_carlo():
    """The closed form equals E_q[log q − log p] within 4 standard errors."""
    mean, std = np.array([0.7, -1.2, 0.1]), np.array([0.3, 1.7, 1.0])
    z = mean + std * np.random.default_rng(0).standard_normal((200_000, 3))
    log_ratio = (scipy.stats.norm.logpdf(z, mean, std) - scipy.stats.norm.logpdf(z)).sum(-1)
    error = log_ratio.std() / np.sqrt(len(z))
    kl = distributions.gaussian_kl(jnp.asarray(mean, jnp.float32), jnp.asarray(2 * np.log(std), jnp.float32))
    assert error < 0.006
    assert abs(float(kl) - log_ratio.mean()) < 4 * error


def test_gaussian_kl_keeps_its_digits_near_the_prior():
    """At log σ² = 1e−3, where KL ≈ (log σ²)² / 4 = 2.5e−7, float32 still has it to 1%; σ² − 1 − log σ² has not."""
    kl = distributions.gaussian_kl(jnp.zeros(1), jnp.full(1, 1e-3))
    assert float(kl) == pytest.approx(0.25e-6 + 1e-9 / 12, rel=1e-2)


@pytest.mark.parametrize("log_var_shape", [(3, 4, 2), (1, 1, 1), ()])
def test_gaussian_log_likelihood_against_scipy(log_var_shape: tuple[int, ...]):
    """The log-density is scipy's, summed over all dimensions, for a variance a dimension or one for all."""
    random = np.random.default_rng(1)
    x, mean = random.standard_normal((2, 3, 4, 2))
    log_var = random.uniform(-3, 2, log_var_shape)
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(0.5 * log_var)).sum()
    found = distributions.gaussian_log_likelihood(*(jnp.asarray(a, jnp.float32) for a in (x, mean, log_var)))
    assert found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_density_of_a_mixture():
    """Near the modes, and so far from them that every mode's density is 0 in float32."""
    centres = np.array([[2.0, 0.5], [-1.0, 0.0], [0.3, -4.0]])
    for x in ([0.1, -0.2], [1.9, 0.6], [40.0, -70.0]):
        logs = [scipy.stats.multivariate_normal(c, 0.3**2 * np.eye(2)).logpdf(x) for c in centres]
        expected = scipy.special.logsumexp(logs) - np.log(3)
        np.testing.assert_allclose(distributions.mixture_log_density(jnp.float32(x), centres, 0.3), expected, rtol=1e-5)


def test_bernoulli_log_likelihood_against_scipy():
    """The log-probability is scipy's, summed over all dimensions."""
    random = np.random.default_rng(2)
    logits = random.normal(0, 3, (5, 4, 3))
    x = random.integers(0, 2, logits.shape)
    expected = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(logits)).sum()
    found = distributions.bernoulli_log_likelihood(jnp.asarray(x, jnp.float32), jnp.asarray(logits, jnp.float32))
    assert found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_most_probable_class_is_one_alone():
    """Of the logits of many classes the largest, and of equals the first."""
    for logits, expected in (([0.5, 2.0, -1.0], 1), ([3.0, 3.0, 3.0], 0), ([-np.inf, -5.0, -5.0], 1)):
        found = [float(distributions.is_most_probable(jnp.array(logits), jnp.int32(c))) for c in range(3)]
        assert found == [float(c == expected) for c in range(3)]


@pytest.mark.parametrize("x", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
def test_bernoulli_at_extreme_logits(x: float, logit: float):
    """Value and gradient are finite and right at logits to ±1e4: log p = −x log(1 + e^−ℓ) − (1 − x) log(1 + e^ℓ)."""
    value, gradient = jax.value_and_grad(distributions.bernoulli_log_likelihood, argnums=1)(
        jnp.array([x]), jnp.array([logit])
    )
    expected = -x * np.logaddexp(0, -logit) - (1 - x) * np.logaddexp(0, logit)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert float(value) == pytest.approx(expected, rel=1e-6, abs=1e-30)
    assert float(gradient[0]) == pytest.approx(x - scipy.special.expit(logit), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("log_var", [-40.0, -10.0, 10.0, 40.0])
def test_gaussian_finite_at_extreme_variances(log_var: float):
    """Values and gradients of the density and the divergence are finite and right for σ² from e^−40 to e^40."""
    arguments = jnp.array([0.5]), jnp.array([0.25]), jnp.array([log_var])
    value, gradients = jax.value_and_grad(distributions.gaussian_log_likelihood, argnums=(0, 1, 2))(*arguments)
    assert float(value) == pytest.approx(scipy.stats.norm.logpdf(0.5, 0.25, np.exp(log_var / 2)), rel=1e-5)
    kl, kl_gradients = jax.value_and_grad(distributions.gaussian_kl, argnums=(0, 1))(*arguments[1:])
    assert float(kl) == pytest.approx(0.5 * (0.0625 + np.exp(log_var) - 1 - log_var), rel=1e-5)
    assert all(np.isfinite(g).all() for g in gradients + kl_gradients)


@pytest.mark.parametrize("name", ["gaussian_kl", "gaussian_log_likelihood", "bernoulli_log_likelihood"])
def test_gradients_in_float64(name: str):
    """Automatic derivatives agree with finite differences."""
    random = np.random.default_rng(3)
    with jax.enable_x64(True):
        a, b, c = (jnp.asarray(random.uniform(-1.5, 1.5, 6)) for _ in range(3))
        arguments = {
            "gaussian_kl": (a, b),
            "gaussian_log_likelihood": (a, b, c),
            "bernoulli_log_likelihood": (jnp.abs(a) / 2, 3 * b),
        }[name]
        assert a.dtype == jnp.float64
        value = jax.jit(getattr(distributions, name))
        check_grads(value, arguments, order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


def test_bernoulli_gradient_vanishes_at_the_data_mean():
    """Σ over examples of the score is 0 where σ(ℓ) is the mean of x, the maximum of the likelihood."""
    x = jnp.asarray(np.random.default_rng(4).integers(0, 2, (50, 3)), jnp.float32)
    logits = jnp.asarray(scipy.special.logit(np.asarray(x).mean(0)), jnp.float32)
    total = jax.grad(lambda ell: jnp.sum(jax.vmap(distributions.bernoulli_log_likelihood, (0, None))(x, ell)))(logits)
    np.testing.assert_allclose(total, 0.0, atol=1e-4)
