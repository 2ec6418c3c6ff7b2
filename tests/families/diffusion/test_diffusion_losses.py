"""The losses on data whose best predictor is known: Gaussian, ±1, a ring; the decoder, the weights, the variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

from gen_jax.families import diffusion
from gen_jax.families.diffusion.parameterization import PREDICTIONS
from gen_jax.ops.distributions import gaussian_log_likelihood

_LINEAR = diffusion.make_process(diffusion.linear_betas(1000))
_STEPS = np.arange(1000)
_decode = diffusion.discretized_gaussian_log_likelihood
_DECODE = jax.jit(jax.vmap(_decode, in_axes=(0, None, None)))


def _gauss_hermite(count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def _epsilon_errors(x0: np.ndarray, epsilon: np.ndarray, best_x0, t: np.ndarray) -> np.ndarray:
    """[T, N] what the shipped loss makes of the best predictor of x_0, as one of ε, at each pair (x_0, ε)."""

    def of_one(t, x0, epsilon):
        signal, noise = jnp.asarray(_LINEAR.signal)[t], jnp.asarray(_LINEAR.noise)[t]
        x_t = diffusion.q_sample(_LINEAR, x0, t, epsilon)
        predicted = diffusion.convert(best_x0(x_t, signal, noise), x_t, signal, noise, source="x0", target="epsilon")
        return diffusion.l_simple(epsilon, predicted)

    over_pairs = jax.vmap(of_one, in_axes=(None, 0, 0))
    return np.asarray(jax.jit(jax.vmap(over_pairs, in_axes=(0, None, None)))(t, x0, epsilon))


@pytest.mark.parametrize(("variance", "expected"), [(0.25, 0.173053), (1.0, 0.275513), (4.0, 0.395407)])
def test_optimal_simple_loss_of_gaussian_data(variance: float, expected: float):
    """D3, the mean over all steps, by quadrature over x_0 and ε, which is exact for the square of a linear map."""
    nodes, weights = _gauss_hermite(4)
    x0, epsilon = (a.ravel() for a in np.meshgrid(np.sqrt(variance) * nodes, nodes))
    weight = np.outer(weights, weights).ravel()
    with jax.enable_x64(True):
        best = lambda x, a, b: a * variance / (a**2 * variance + b**2) * x  # noqa: E731
        errors = _epsilon_errors(x0, epsilon, best, _STEPS)
    assert (errors @ weight).mean() == pytest.approx(expected, abs=5e-7)


def test_optimal_simple_loss_of_binary_data():
    """D4: x_0 = ±1 with x̂_0 = tanh(√ᾱ x / (1 − ᾱ)); by symmetry x_0 = 1."""
    epsilon = np.linspace(-9, 9, 1201)
    weight = scipy.stats.norm.pdf(epsilon) * (epsilon[1] - epsilon[0])
    with jax.enable_x64(True):
        best = lambda x, a, b: jnp.tanh(a * x / b**2)  # noqa: E731
        errors = _epsilon_errors(np.ones_like(epsilon), epsilon, best, _STEPS)
    assert (errors @ weight).mean() == pytest.approx(0.121457, abs=5e-7)


@jax.jit
def _errors_of_binary_data(log_snr, epsilon):
    signal, noise = diffusion.signal_and_noise(log_snr)
    predicted = jnp.tanh(signal * (signal + noise * epsilon) / noise**2)
    return jax.vmap(lambda p: diffusion.l_simple(jnp.ones(()), p))(predicted)


@pytest.mark.parametrize(
    ("snr", "expected"),
    [(0.1, 0.908659), (0.5, 0.649887), (1.0, 0.449600), (2.0, 0.231018), (5.0, 0.038463), (10.0, 0.002411)],
)
def test_least_error_of_binary_data(snr: float, expected: float):
    """D4, as the loss of an x_0-prediction."""
    epsilon = np.linspace(-12, 12, 4001)
    weight = scipy.stats.norm.pdf(epsilon) * (epsilon[1] - epsilon[0])
    with jax.enable_x64(True):
        errors = _errors_of_binary_data(jnp.log(snr), epsilon)
    assert np.asarray(errors) @ weight == pytest.approx(expected, abs=6e-7)


def test_optimal_simple_loss_of_a_ring():
    """D5: eight Gaussians of σ = 0.02 on a circle of radius 2, per dimension, by simulation."""
    rng = np.random.default_rng(0)
    count = 700_000
    angles = 2 * np.pi * np.arange(8) / 8
    modes = 2 * np.stack([np.cos(angles), np.sin(angles)], -1)
    t = np.arange(count) % 1000
    x0 = modes[rng.integers(0, 8, count)] + 0.02 * rng.standard_normal((count, 2))
    epsilon = rng.standard_normal((count, 2))

    def of_one(x0, t, epsilon):
        signal, noise = jnp.asarray(_LINEAR.signal)[t], jnp.asarray(_LINEAR.noise)[t]
        x_t = diffusion.q_sample(_LINEAR, x0, t, epsilon)
        variance = signal**2 * 0.02**2 + noise**2
        offsets = x_t[None] - signal * modes
        share = jax.nn.softmax(-0.5 * jnp.sum(offsets**2, -1) / variance)
        score = -jnp.sum(share[:, None] * offsets, 0) / variance
        predicted = diffusion.convert(score, x_t, signal, noise, source="score", target="epsilon")
        return diffusion.l_simple(epsilon, predicted)

    with jax.enable_x64(True):
        errors = np.asarray(jax.jit(jax.vmap(of_one))(x0, t, epsilon))
    # Strata by step: the spread within steps alone makes the standard error.
    by_step = errors.reshape(-1, 1000)
    error = np.sqrt(by_step.var(axis=0).mean() / count)
    assert error < 6e-4
    assert abs(errors.mean() - 0.1837) < 4 * np.hypot(error, 0.0005 / 2)


@pytest.mark.parametrize("continuous", [diffusion.linear_continuous(first=1e-4), diffusion.cosine_continuous()])
def test_continuous_bound_of_binary_data_is_one_bit(continuous: diffusion.Continuous):
    """D10: ½ ∫ mmse dγ = log 2 whatever the schedule; below the last level's γ the error is 1, up to γ²."""
    epsilon = np.linspace(-9, 9, 1201)
    weight = scipy.stats.norm.pdf(epsilon) * (epsilon[1] - epsilon[0])
    with jax.enable_x64(True):
        ends = continuous.log_snr(jnp.array([continuous.first, continuous.last]))
        times = continuous.time(jnp.linspace(min(ends[0], np.log(150.0)), ends[1], 1501))

        def rate(s):
            log_snr = continuous.log_snr(s)
            signal, noise = diffusion.signal_and_noise(log_snr)
            x_t = signal + noise * epsilon
            x0 = jnp.tanh(signal * x_t / noise**2)
            predicted = diffusion.convert(x0, x_t, signal, noise, source="x0", target="epsilon")
            slope = jax.grad(continuous.log_snr)(s)
            losses = jax.vmap(lambda e, p: diffusion.l_continuous(e, p, slope))(jnp.asarray(epsilon), predicted)
            return losses @ weight

        rates = np.asarray(jax.jit(lambda times: jax.lax.map(rate, times))(times))
        tail = 0.5 * float(jnp.exp(ends[1]))
    assert scipy.integrate.simpson(rates, x=np.asarray(times)) + tail == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.parametrize(("second_moment", "bits"), [(1.0, 2.911e-5), (1 / 3, 9.705e-6)])
def test_prior_term(second_moment: float, bits: float):
    """D11, with the mean over dimensions."""
    x0 = np.sqrt(second_moment) * np.array([1.0, -1.0, 1.0, 1.0])
    with jax.enable_x64(True):
        assert float(diffusion.l_prior(_LINEAR, jnp.asarray(x0))) == pytest.approx(bits, rel=2e-4)
    # In float32 a difference of numbers near 1 would leave no digits of it.
    assert float(diffusion.l_prior(_LINEAR, jnp.asarray(x0, jnp.float32))) == pytest.approx(bits, rel=1e-2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_epsilon_weight_makes_every_kind_the_same_loss(prediction: str):
    """The weighted error of a kind is the error of the ε it names."""
    rng = np.random.default_rng(3)
    x0, epsilon, wrong = rng.standard_normal((3, 6))
    with jax.enable_x64(True):

        @jax.jit
        def weighted(signal, noise, snr):
            x_t = signal * x0 + noise * epsilon
            predicted = diffusion.convert(jnp.asarray(wrong), x_t, signal, noise, source="epsilon", target=prediction)
            target = diffusion.prediction_target(prediction, x0, epsilon, signal, noise)
            return diffusion.epsilon_weight(prediction, snr) * diffusion.l_simple(target, predicted)

        for t in (0, 100, 999):
            assert float(weighted(_LINEAR.signal[t], _LINEAR.noise[t], _LINEAR.snr[t])) == pytest.approx(
                ((epsilon - wrong) ** 2).mean(), rel=1e-7
            )


def test_min_snr_weights():
    """Hang et al., 2023: min(SNR, γ) on x_0, over SNR on ε, over SNR + 1 on v."""
    for snr in (0.01, 1.0, 4.9, 5.1, 1e4):
        ratio = jnp.asarray(snr)
        least = min(snr, 5.0)
        for prediction, expected in {"x0": least, "epsilon": least / snr, "v": least / (snr + 1)}.items():
            assert float(diffusion.min_snr_weight(prediction, ratio)) == pytest.approx(expected, rel=1e-6)
    assert float(diffusion.min_snr_weight("x0", jnp.array(9.0), gamma=7.0)) == pytest.approx(7.0, rel=1e-6)
    with pytest.raises(ValueError, match="unknown"):
        diffusion.epsilon_weight("mean", jnp.ones(()))


def test_divergence_of_gaussians():
    """Against its integral, and 0 with gradient 0 of a law from itself."""
    mean, std, other_mean, other_std = 0.3, 0.7, -0.4, 1.1

    def integrand(x):
        log_p = scipy.stats.norm.logpdf(x, mean, std)
        return np.exp(log_p) * (log_p - scipy.stats.norm.logpdf(x, other_mean, other_std))

    expected = scipy.integrate.quad(integrand, -12, 12)[0]
    with jax.enable_x64(True):
        arguments = [jnp.array([a]) for a in (mean, 2 * np.log(std), other_mean, 2 * np.log(other_std))]
        assert float(diffusion.normal_kl(*arguments)) == pytest.approx(expected, rel=1e-9)
        assert float(diffusion.normal_kl(*(jnp.concatenate([a, a]) for a in arguments))) == pytest.approx(2 * expected)
        slopes = jax.jit(jax.grad(diffusion.normal_kl, argnums=(0, 1)))(*(arguments[:2] + arguments[:2]))
        assert all(float(jnp.abs(slope).max()) < 1e-12 for slope in slopes)


@pytest.mark.parametrize("mean", [-3.0, -0.4, 0.0, 0.77, 1.0])
@pytest.mark.parametrize("std", [1e-3, 0.01, 0.3, 5.0])
def test_decoder_sums_to_one(mean: float, std: float):
    """D15: 256 probabilities are a law, whatever the Gaussian; each is the integral over its bin."""
    levels = np.arange(256) / 127.5 - 1
    with jax.enable_x64(True):
        log_p = np.asarray(_DECODE(jnp.asarray(levels), jnp.float64(mean), jnp.float64(2 * np.log(std))))
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-12)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    expected = np.diff(scipy.stats.norm.cdf(edges, mean, std))
    np.testing.assert_allclose(np.exp(log_p), expected, atol=1e-13)


def test_decoder_in_float32():
    """Values and gradients are finite and right far out in the tails, where the difference of two Φ is 0."""
    levels = np.arange(256) / 127.5 - 1
    value_and_grad = jax.jit(jax.vmap(jax.value_and_grad(_decode, argnums=(1, 2)), in_axes=(0, None, None)))
    for mean, log_var in ((0.9, -9.0), (-1.5, -12.0), (0.1, 3.0), (0.0, 12.0)):
        with jax.enable_x64(True):
            expected = np.asarray(_DECODE(jnp.asarray(levels), jnp.float64(mean), jnp.float64(log_var)))
        arguments = jnp.asarray(levels, jnp.float32), jnp.float32(mean), jnp.float32(log_var)
        values, slopes = value_and_grad(*arguments)
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-4)
        assert all(np.isfinite(slope).all() for slope in slopes)


def test_decoder_in_float32_where_bins_are_narrow():
    """On both sides of the width at which the parabola takes over, six digits of the probability are right."""
    levels = np.arange(100, 156) / 127.5 - 1
    for std in (0.15, 0.19, 0.21, 0.26, 0.6):
        with jax.enable_x64(True):
            expected = np.asarray(_DECODE(jnp.asarray(levels), jnp.float64(0.0), jnp.float64(2 * np.log(std))))
        values = _DECODE(jnp.asarray(levels, jnp.float32), jnp.float32(0.0), jnp.float32(2 * np.log(std)))
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


def test_decoder_tail_against_the_mean_value_of_the_density():
    """Forty standard deviations out, the logarithm of the bin is that of its integral in 64-bit logarithms."""
    std, x = 0.01, 51 / 127.5 - 1 + 0.4  # Both edges on the same side of the mean, −0.2 away from it.
    level = 51 / 127.5 - 1
    mean = level + 0.4
    lower, upper = (level - 1 / 255 - mean) / std, (level + 1 / 255 - mean) / std
    larger, smaller = scipy.special.log_ndtr(upper), scipy.special.log_ndtr(lower)
    with jax.enable_x64(True):
        value = diffusion.discretized_gaussian_log_likelihood(jnp.array(level), mean, 2 * np.log(std))
    assert x == pytest.approx(mean)
    assert float(value) == pytest.approx(larger + np.log1p(-np.exp(smaller - larger)), rel=1e-12)


_TABLE_D7 = {
    0.25: [0.9995, 0.9948, 0.7656, 0.2657, 0.2501],
    0.5: [0.9998, 0.9983, 0.9074, 0.5206, 0.5001],
    1.0: [1.0, 1.0, 1.0, 1.0, 1.0],
    1e-12: [0.0, 0.0, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("variance", _TABLE_D7)
def test_best_learned_variance(variance: float):
    """D7: the fraction between log β̃ and log β at which the slope of the expected L_hybrid is 0."""
    nodes, weights = _gauss_hermite(4)
    x0, epsilon = (a.ravel() for a in np.meshgrid(np.sqrt(variance) * nodes, nodes))
    weight = np.outer(weights, weights).ravel()
    with jax.enable_x64(True):
        slopes = _LINEAR.noise / (_LINEAR.signal**2 * variance + _LINEAR.noise**2)

        def loss(v, t):
            def of_one(x0, epsilon):
                x_t = diffusion.q_sample(_LINEAR, x0, t, epsilon)[None]
                output = jnp.concatenate([jnp.asarray(slopes)[t] * x_t, v[None]])
                return diffusion.l_hybrid(_LINEAR, output, x0[None], x_t, t, epsilon[None])[0]

            return jax.vmap(of_one)(jnp.asarray(x0), jnp.asarray(epsilon)) @ weight

        derivative = jax.jit(jax.grad(loss))
        for t, expected in zip((1, 9, 99, 499, 899), _TABLE_D7[variance], strict=True):
            v = scipy.optimize.brentq(
                lambda v, t=t: float(derivative(jnp.float64(v), jnp.int32(t))), -1.5, 1.5, xtol=1e-7
            )
            assert (v + 1) / 2 == pytest.approx(expected, abs=6e-5), t


def test_hybrid_loss_trains_the_mean_by_the_simple_loss_alone():
    """The gradient of the mean's half is L_simple's; that of the variance's half is λ L_vlb's; both terms are there."""
    rng = np.random.default_rng(4)
    x0, epsilon = jnp.asarray(rng.standard_normal((2, 3, 2)))
    t = jnp.int32(300)
    with jax.enable_x64(True):
        x_t = diffusion.q_sample(_LINEAR, x0, t, epsilon)
        output = jnp.asarray(rng.standard_normal((3, 4)))

        def hybrid(output):
            return diffusion.l_hybrid(_LINEAR, output, x0, x_t, t, epsilon)[0]

        def bound(output):
            step = diffusion.reverse(_LINEAR, output, x_t, t, variance="learned")
            return 1000 * diffusion.l_vlb(_LINEAR, x0, x_t, t, step.mean, step.log_var)

        loss, terms = jax.jit(lambda o: diffusion.l_hybrid(_LINEAR, o, x0, x_t, t, epsilon))(output)
        assert float(terms["vlb"]) == pytest.approx(float(jax.jit(bound)(output)), rel=1e-12)
        assert float(loss) == pytest.approx(float(terms["simple"]) + 0.001 * float(terms["vlb"]), rel=1e-12)
        mean_slope, v_slope = jnp.split(jax.jit(jax.grad(hybrid))(output), 2, axis=-1)
        simple = jax.grad(lambda p: diffusion.l_simple(epsilon, p))(output[:, :2])
        np.testing.assert_allclose(mean_slope, simple, rtol=1e-12)
        np.testing.assert_allclose(v_slope, 0.001 * jax.jit(jax.grad(bound))(output)[:, 2:], rtol=1e-10)
        assert float(jnp.abs(v_slope).min()) > 0
        # With a fixed variance the bound moves nothing.
        fixed = jax.jit(
            jax.grad(
                lambda p: diffusion.l_hybrid(_LINEAR, p, x0, x_t, t, epsilon, variance="fixed_small", vlb_weight=1.0)[0]
            )
        )
        np.testing.assert_allclose(fixed(output[:, :2]), simple, rtol=1e-12)


def test_interpolated_variance_at_its_ends():
    """V = −1 is β̃, v = 1 is β, v = 0 their geometric mean."""
    for t in (0, 5, 999):
        small, large = np.exp(_LINEAR.posterior_log_var[t]), _LINEAR.betas[t]
        variances = np.exp(diffusion.interpolated_log_var(_LINEAR, jnp.array([-1.0, 0.0, 1.0]), jnp.int32(t)))
        np.testing.assert_allclose(variances, [small, np.sqrt(small * large), large], rtol=2e-6)


def test_first_term_of_the_bound_is_the_decoder():
    """At t = 0 the term is −log p(x_0 | x_1), at any other the divergence; both per dimension and in bits."""
    x0, x_t = jnp.array([0.2, -0.4]), jnp.array([0.21, -0.39])
    mean, log_var = jnp.array([0.19, -0.41]), jnp.full(2, -9.0)
    first = diffusion.l_vlb(_LINEAR, x0, x_t, jnp.int32(0), mean, log_var, gaussian_log_likelihood)
    density = scipy.stats.norm.logpdf(x0, mean, np.exp(-4.5)).sum()
    assert float(first) == pytest.approx(-density / (2 * np.log(2)), rel=1e-5)
    later = diffusion.l_vlb(_LINEAR, x0, x_t, jnp.int32(40), mean, log_var, gaussian_log_likelihood)
    true_mean, true_log_var = diffusion.q_posterior(_LINEAR, x0, x_t, jnp.int32(40))
    kl = diffusion.normal_kl(true_mean, true_log_var, mean, log_var)
    assert float(later) == pytest.approx(float(kl) / (2 * np.log(2)), rel=1e-6)


def test_prior_term_of_a_process_that_leaves_much_of_the_data():
    """The same where 1 − ᾱ is far from 1, so that its logarithm counts."""
    x0, kept = np.array([1.0, -2.0, 0.5]), 0.9 * 0.8
    expected = np.mean(kept * x0**2 + (1 - kept) - 1 - np.log(1 - kept)) / (2 * np.log(2))
    found = diffusion.l_prior(diffusion.make_process([0.1, 0.2]), jnp.asarray(x0, jnp.float32))
    assert float(found) == pytest.approx(expected, rel=1e-5)
