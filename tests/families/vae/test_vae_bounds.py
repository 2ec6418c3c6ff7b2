"""The bounds as mathematics: the ELBO in both forms and the importance-weighted bound on a toy solved by hand.

The toy: z ~ N(0, 1), x|z ~ N(z, 1), x = 1. Then log p(x) = log N(1; 0, 2) and p(z|x) = N(½, ½).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from gen_jax.families.vae import elbo, elbo_monte_carlo, iwae_bound, log_importance_weight

_LOG_P = -1.515512
_PRIOR = (0.0, 1.0)
_NARROW = (0.0, np.sqrt(0.5))
_EXACT = (0.5, np.sqrt(0.5))


def _toy_log_w(q: tuple[float, float], k: int, repeats: int, seed: int) -> np.ndarray:
    """Log-weights [repeats, k] of the toy under q = N(mean, std²), by numpy and the shipped formula."""
    mean, std = q
    z = mean + std * np.random.default_rng(seed).standard_normal((repeats, k))
    terms = scipy.stats.norm.logpdf(1.0, z, 1), scipy.stats.norm.logpdf(z), scipy.stats.norm.logpdf(z, mean, std)
    return np.asarray(jax.jit(log_importance_weight)(*(t.astype(np.float32) for t in terms)))


def _bounds(log_w: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(iwae_bound))(log_w), np.float64)


def _bound_estimate(q: tuple[float, float], k: int, repeats: int, seed: int) -> tuple[float, float]:
    """E[L_k] and its standard error; w̄ / p(x) − 1, of mean 0, is taken off as a control variate."""
    values = _bounds(_toy_log_w(q, k, repeats, seed))
    values = values - np.expm1(values - scipy.stats.norm.logpdf(1, 0, np.sqrt(2)))
    return values.mean(), values.std() / np.sqrt(repeats)


def test_log_p_of_the_toy():
    """The number that the other tests hold against is log N(1; 0, 2)."""
    assert scipy.stats.norm.logpdf(1, 0, np.sqrt(2)) == pytest.approx(_LOG_P, abs=5e-7)


@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_exact_posterior_has_no_variance(k: int):
    """With q = p(z|x) every weight is p(x): L_k = log p for every k and every draw."""
    values = _bounds(_toy_log_w(_EXACT, k, 200, seed=k))
    np.testing.assert_allclose(values, _LOG_P, atol=2e-6)


@pytest.mark.parametrize(
    ("q", "k", "nats", "table_error"),
    [
        (_PRIOR, 1, -1.918939, 1e-6),
        (_PRIOR, 2, -1.6537, 6e-4),
        (_PRIOR, 5, -1.5575, 6e-4),
        (_PRIOR, 10, -1.5345, 6e-4),
        (_PRIOR, 50, -1.5189, 6e-4),
        (_NARROW, 1, -1.765512, 1e-6),
        (_NARROW, 5, -1.5748, 6e-4),
        (_NARROW, 50, -1.5224, 6e-4),
    ],
)
def test_known_bounds(q: tuple[float, float], k: int, nats: float, table_error: float):
    """E[L_k] is the known value within 4 standard errors, the value's own included."""
    mean, error = _bound_estimate(q, k, repeats=400_000 // k, seed=1)
    assert error < 4e-3
    assert abs(mean - nats) < 4 * np.hypot(error, table_error)


def test_two_samples_against_quadrature():
    """E[L_2] with q = N(0, 1) is the double integral, by Gauss-Hermite quadrature, within 4 standard errors."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    log_w = scipy.stats.norm.logpdf(1.0, nodes, 1)
    expected = weights @ (np.logaddexp(log_w[:, None], log_w[None]) - np.log(2)) @ weights
    mean, error = _bound_estimate(_PRIOR, 2, repeats=200_000, seed=2)
    assert error < 2e-3
    assert abs(mean - expected) < 4 * error


@pytest.mark.parametrize("q", [_PRIOR, _NARROW])
def test_asymptotic_gap(q: tuple[float, float]):
    """K (log p − L_k) tends to (E[w²] / E[w]² − 1) / 2, here by quadrature; at k = 400 it is there within 5%."""
    z = np.linspace(-12, 12, 20_001)
    log_w = scipy.stats.norm.logpdf(1.0, z, 1) + scipy.stats.norm.logpdf(z) - scipy.stats.norm.logpdf(z, *q)
    density = scipy.stats.norm.pdf(z, *q)
    first, second = (np.trapezoid(np.exp(power * log_w) * density, z) for power in (1, 2))
    assert np.log(first) == pytest.approx(_LOG_P, abs=1e-6)
    slope = 0.5 * (second / first**2 - 1)
    mean, error = _bound_estimate(q, 400, repeats=10_000, seed=3)
    gap = 400 * (scipy.stats.norm.logpdf(1, 0, np.sqrt(2)) - mean)
    assert 400 * error < 0.02 * slope
    assert gap == pytest.approx(slope, rel=0.05)


def test_bound_grows_with_the_samples():
    """L_1 ≤ L_2 ≤ L_4 ≤ … ≤ log p, each step by more than 4 standard errors, on nested sets of one draw."""
    log_w = _toy_log_w(_NARROW, 32, 40_000, seed=4)
    levels = [_bounds(log_w.reshape(-1, k)).reshape(40_000, -1).mean(axis=1) for k in (1, 2, 4, 8, 16, 32)]
    for fewer, more in itertools.pairwise(levels):
        gain = more - fewer
        # By Jensen's inequality true of every draw, not only on average.
        assert gain.min() > -1e-5
        assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))
    top = levels[-1]
    assert _LOG_P - top.mean() > 4 * top.std() / np.sqrt(len(top))


def test_one_sample_bound_is_the_sampled_elbo():
    """L_1 is the ELBO of Eq. 6 with one sample, to the bit of its terms."""
    random = np.random.default_rng(5)
    for _ in range(5):
        log_px_z, log_pz, log_qz_x = random.normal(-50, 20, (3, 1)).astype(np.float32)
        bound = iwae_bound(log_importance_weight(log_px_z, log_pz, log_qz_x))
        value, _ = elbo_monte_carlo(log_px_z, log_pz, log_qz_x)
        assert float(bound) == pytest.approx(float(value), rel=1e-6)


def test_bound_of_extreme_weights():
    """Weights far below e^−87 neither underflow nor overflow, and a common factor comes out of the logarithm."""
    log_w = np.array([-1.0, 0.3, 2.0, -4.0], np.float32)
    plain = np.log(np.mean(np.exp(log_w.astype(np.float64))))
    for shift in (0.0, -1e4, 1e4):
        value, gradient = jax.value_and_grad(iwae_bound)(jnp.asarray(log_w + np.float32(shift)))
        assert float(value) == pytest.approx(plain + shift, abs=2e-3 if shift else 1e-6)
        assert np.isfinite(gradient).all()
    # The gradient is the normalised weights (IWAE Eq. 13).
    np.testing.assert_allclose(jax.grad(iwae_bound)(jnp.asarray(log_w)), scipy.special.softmax(log_w), rtol=1e-5)


def _gaussian_case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A q of 3 dimensions and 2d points z whose plain average integrates every quadratic under q exactly.

    Returns `mean`, `log_var`, `log_px_z`, `log_pz`, `log_qz_x`, where x|z is a Gaussian about a linear map of z.
    """
    random = np.random.default_rng(6)
    mean, log_var = random.normal(size=3), random.normal(size=3)
    steps = np.sqrt(3) * np.exp(0.5 * log_var) * np.eye(3)
    z = mean + np.concatenate([steps, -steps])
    matrix, x = random.normal(size=(4, 3)), random.normal(size=4)
    log_px_z = scipy.stats.norm.logpdf(x, z @ matrix.T, 0.7).sum(-1)
    log_qz_x = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * log_var)).sum(-1)
    return tuple(np.float32(a) for a in (mean, log_var, log_px_z, scipy.stats.norm.logpdf(z).sum(-1), log_qz_x))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_both_elbos_are_equal_where_the_average_is_exact(beta: float):
    """Over points that integrate quadratics exactly, Eq. 6 and Eq. 7 give one number, and the same terms.

    The number is that of scipy's densities: the mean of log p(x|z) − β (log q(z|x) − log p(z)) over the points.
    """
    mean, log_var, log_px_z, log_pz, log_qz_x = _gaussian_case()
    closed, closed_terms = elbo(log_px_z, mean, log_var, beta)
    sampled, sampled_terms = elbo_monte_carlo(log_px_z, log_pz, log_qz_x, beta)
    assert float(closed) == pytest.approx(float(sampled), rel=2e-6)
    for name in ("log_likelihood", "kl"):
        assert float(closed_terms[name]) == pytest.approx(float(sampled_terms[name]), rel=2e-6)
    expected = np.mean(log_px_z - beta * (log_qz_x - log_pz), dtype=np.float64)
    assert float(closed) == pytest.approx(expected, rel=2e-6)


def test_elbo_of_the_exact_linear_posterior_is_log_p():
    """With the toy's exact posterior the ELBO's two terms sum to log p(x) over exact points."""
    mean, std = _EXACT
    z = np.array([mean + std, mean - std])
    log_px_z = scipy.stats.norm.logpdf(1.0, z, 1).astype(np.float32)
    value, _ = elbo(log_px_z, jnp.array([mean]), jnp.array([2 * np.log(std)]))
    assert float(value) == pytest.approx(_LOG_P, abs=1e-6)


def test_beta_scales_only_the_divergence():
    """dL/dβ = −KL in both forms, and the terms do not depend on β."""
    mean, log_var, log_px_z, log_pz, log_qz_x = _gaussian_case()
    for bound in (
        functools.partial(elbo, log_px_z, mean, log_var),
        functools.partial(elbo_monte_carlo, log_px_z, log_pz, log_qz_x),
    ):
        (_, terms), slope = jax.value_and_grad(bound, has_aux=True)(2.5)
        assert float(slope) == pytest.approx(-float(terms["kl"]), rel=1e-6)
        unweighted, same_terms = bound(0.0)
        assert float(unweighted) == float(terms["log_likelihood"])
        assert {k: float(v) for k, v in terms.items()} == {k: float(v) for k, v in same_terms.items()}
