"""The forward process: constants of the schedules, the posterior, kept steps, conversions, continuous time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.contracts import UserError
from gen_jax.families import diffusion
from gen_jax.families.diffusion.parameterization import PREDICTIONS
from gen_jax.families.diffusion.process import SPACINGS

_LINEAR = diffusion.make_process(diffusion.linear_betas(1000))
_SCHEDULES = {
    "linear": diffusion.linear_betas(1000),
    "cosine": diffusion.cosine_betas(1000),
    "given": np.random.default_rng(0).uniform(1e-4, 0.3, 60),
}


def test_constants_of_the_linear_schedule():
    """D1; the paper's step t is row t − 1."""
    bar = _LINEAR.alphas_bar
    assert bar[0] == pytest.approx(0.9999, abs=1e-12)
    for t, value in {250: 0.524085, 500: 0.0785872, 750: 0.00335055}.items():
        assert bar[t - 1] == pytest.approx(value, rel=2e-6), t
    assert bar[999] == pytest.approx(4.035830e-5, rel=2e-7)
    assert _LINEAR.signal[999] == pytest.approx(0.00635282, rel=1e-6)
    assert _LINEAR.posterior_variance[1] == pytest.approx(5.45e-5, abs=5e-8)
    assert _LINEAR.posterior_variance[999] == pytest.approx(0.0199999835, abs=5e-11)
    # The ratio crosses 1 after the paper's step 259.
    assert _LINEAR.snr[258] > 1 > _LINEAR.snr[259]
    assert bar.mean() == pytest.approx(0.2755132334, abs=5e-11)


def test_constants_of_the_cosine_schedule():
    """D2, and that exactly one β is clipped, the last."""
    betas = diffusion.cosine_betas(1000)
    bar = diffusion.make_process(betas).alphas_bar
    assert betas[0] == pytest.approx(4.128422e-5, rel=2e-7)
    assert betas[998] == pytest.approx(0.749999, abs=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(betas == 0.999), [999])
    assert bar[998] == pytest.approx(2.428767e-6, rel=3e-7)
    assert bar[999] == pytest.approx(2.428767e-9, rel=3e-7)
    assert bar[499] == pytest.approx(0.493844, abs=5e-7)
    assert bar.mean() == pytest.approx(0.495578, abs=5e-7)

    longer = diffusion.cosine_betas(4000)
    assert longer[0] == pytest.approx(9.865819e-6, rel=1e-7)
    assert diffusion.make_process(longer).alphas_bar[-1] == pytest.approx(1.518e-10, rel=4e-4)
    rescaled = diffusion.make_process(diffusion.rescaled_linear_betas(4000))
    assert rescaled.alphas_bar[-1] == pytest.approx(4.246652e-5, rel=2e-7)
    np.testing.assert_array_equal(diffusion.rescaled_linear_betas(1000), diffusion.linear_betas(1000))


@pytest.mark.parametrize("name", _SCHEDULES)
def test_posterior_is_the_law_of_bayes(name: str):
    """From q(x_{t−1} | x_0) and q(x_t | x_{t−1}) as two Gaussians in x_{t−1}: precisions add (D14)."""
    betas = _SCHEDULES[name]
    process = diffusion.make_process(betas)
    x0, x_t = 0.7, -1.3
    bar = np.cumprod(1 - betas)
    with jax.enable_x64(True):
        posterior = jax.vmap(lambda t: diffusion.q_posterior(process, jnp.float64(x0), jnp.float64(x_t), t))
        mean, log_var = map(np.asarray, jax.jit(posterior)(jnp.arange(len(betas))))
    prior_precision = 1 / (1 - bar[:-1])
    precision = prior_precision + (1 - betas[1:]) / betas[1:]
    expected = (prior_precision * np.sqrt(bar[:-1]) * x0 + np.sqrt(1 - betas[1:]) / betas[1:] * x_t) / precision
    np.testing.assert_allclose(mean[1:], expected, rtol=1e-8)
    np.testing.assert_allclose(np.exp(log_var[1:]), 1 / precision, rtol=1e-8)
    assert mean[0] == x0  # Nothing of x_1 is left: the step before the first is the example itself.


def test_first_posterior_variance_is_the_seconds():
    """Pitfall 1: log 0 is replaced by the second step's, not by the logarithm of a small number."""
    assert _LINEAR.posterior_variance[0] == 0.0
    assert _LINEAR.posterior_log_var[0] == np.log(_LINEAR.posterior_variance[1])
    assert diffusion.log_var_table(_LINEAR, "fixed_large")[0] == np.log(_LINEAR.posterior_variance[1])
    assert diffusion.log_var_table(_LINEAR, "beta")[0] == pytest.approx(np.log(1e-4), abs=1e-12)


def test_fixed_variances_are_those_of_two_laws():
    """Var(x_{t−1} | x_t): β of data N(0, I), where all x_t are so, and β̃ of one point, by conditioning Gaussians.

    Pitfall 1: the first step has that of one point at the second in both, not the logarithm of 0.
    """
    before, betas = _LINEAR.alphas_bar_prev[1:], _LINEAR.betas[1:]
    for name, data_variance in {"fixed_large": 1.0, "fixed_small": 0.0}.items():
        prior = before * data_variance + 1 - before
        conditioned = prior - (1 - betas) * prior**2 / ((1 - betas) * prior + betas)
        noise = 1 - before[0]
        first = noise - (1 - betas[0]) * noise**2 / ((1 - betas[0]) * noise + betas[0])
        expected = np.log(np.append(first, conditioned))
        np.testing.assert_allclose(diffusion.log_var_table(_LINEAR, name), expected, rtol=1e-9)
    np.testing.assert_array_equal(diffusion.log_var_table(_LINEAR, "beta"), np.log(_LINEAR.betas))


def test_q_sample_is_the_end_of_the_chain():
    """The moments of x_t after t + 1 steps of the chain, followed one by one, are those of the closed form."""
    process = diffusion.make_process(_SCHEDULES["given"])
    scale, variance = 1.0, 0.0
    q_sample = jax.jit(functools.partial(diffusion.q_sample, process))
    with jax.enable_x64(True):
        for t, beta in enumerate(process.betas):
            scale, variance = np.sqrt(1 - beta) * scale, (1 - beta) * variance + beta
            value = q_sample(np.float64(2.0), np.int32(t), np.float64(0.0))
            spread = q_sample(np.float64(0.0), np.int32(t), np.float64(1.0))
            assert float(value) == pytest.approx(2 * scale, rel=1e-12)
            assert float(spread) ** 2 == pytest.approx(variance, rel=1e-12)


def test_diffused_examples_have_the_law_of_their_steps():
    """N(√ᾱ_t x_0, (1 − ᾱ_t) I) over many keys, within 4 standard errors; and x_t has the very ε that comes with it."""
    count, steps = 20_000, np.array([0, 300, 999])
    x0 = np.array([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.0]])
    keys = jax.vmap(jax.random.key)(np.arange(3 * count))
    batch = jnp.asarray(np.repeat(x0, count, axis=0), jnp.float32), jnp.asarray(np.repeat(steps, count), jnp.int32)
    x_t, epsilon = (
        np.asarray(a, np.float64) for a in jax.jit(functools.partial(diffusion.diffuse, _LINEAR))(*batch, keys)
    )
    signal, noise = (np.repeat(table[steps], count)[:, None] for table in (_LINEAR.signal, _LINEAR.noise))
    np.testing.assert_allclose(x_t, signal * np.repeat(x0, count, axis=0) + noise * epsilon, rtol=1e-5, atol=1e-5)
    assert len(np.unique(epsilon)) > 0.99 * epsilon.size
    for i, t in enumerate(steps):
        part = x_t[i * count : (i + 1) * count]
        variance = 1 - _LINEAR.alphas_bar[t]
        error = np.sqrt(variance / count)
        assert (np.abs(part.mean(0) - np.sqrt(_LINEAR.alphas_bar[t]) * x0[i]) < 4 * error).all(), t
        assert (np.abs(part.var(0) / variance - 1) < 4 * np.sqrt(2 / count)).all(), t
        assert abs(np.corrcoef(part.T)[0, 1]) < 4 / np.sqrt(count), t


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 50, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_fewer_steps_keep_the_marginals(spacing: str, count: int):
    """Pitfall 2: the level before each kept step is that of the kept step before, and 1 before the first."""
    steps = diffusion.spaced_steps(_LINEAR, count, spacing)
    assert len(steps) == count and (np.diff(steps) > 0).all() and steps[0] >= 0 and steps[-1] < 1000
    spaced = diffusion.space(_LINEAR, steps)
    np.testing.assert_array_equal(spaced.timesteps, steps)
    np.testing.assert_allclose(spaced.alphas_bar, _LINEAR.alphas_bar[steps], rtol=1e-10)
    np.testing.assert_allclose(spaced.alphas_bar_prev, np.append(1.0, _LINEAR.alphas_bar[steps[:-1]]), rtol=1e-10)
    np.testing.assert_allclose(spaced.noise, _LINEAR.noise[steps], rtol=1e-10)
    if count == 1000:
        assert spaced is _LINEAR
    # A choice of a choice is a choice, and its network is still told the original's steps.
    half = np.arange(0, count, 2)
    np.testing.assert_array_equal(diffusion.space(spaced, half).timesteps, steps[half])
    np.testing.assert_array_equal(np.asarray(diffusion.told_time(spaced, jnp.arange(count))), steps)


def test_choices_of_steps():
    """The spacings by their definitions, where nothing needs to move apart."""
    np.testing.assert_array_equal(diffusion.spaced_steps(_LINEAR, 10, "uniform"), np.arange(0, 1000, 100))
    np.testing.assert_array_equal(diffusion.spaced_steps(_LINEAR, 10, "trailing"), np.arange(99, 1000, 100))
    even = diffusion.spaced_steps(_LINEAR, 4, "even")
    np.testing.assert_array_equal(even, [0, 333, 666, 999])
    quadratic = diffusion.spaced_steps(_LINEAR, 10, "quadratic")
    np.testing.assert_array_equal(quadratic, (np.linspace(0, np.sqrt(800), 10) ** 2).astype(int))
    np.testing.assert_array_equal(diffusion.spaced_steps(_LINEAR, 1, "uniform"), [999])
    even_snr = diffusion.spaced_steps(_LINEAR, 20, "log_snr")
    half_log_snr = 0.5 * np.log(_LINEAR.signal**2 / _LINEAR.noise**2)
    assert even_snr[0] == 0 and even_snr[-1] == 999
    distance = (half_log_snr[0] - half_log_snr[-1]) / 19
    # Of the first steps the process has few at such low noise: they are as near as its own steps allow.
    np.testing.assert_allclose(-np.diff(half_log_snr[even_snr[4:]]), distance, rtol=0.05)


def test_told_times_that_are_not_integers():
    """Rescaled timesteps are told as they are, and kept by a choice of steps."""
    process = diffusion.make_process(diffusion.rescaled_linear_betas(4000), np.arange(4000) / 4)
    told = diffusion.told_time(diffusion.space(process, [1, 3999]), jnp.arange(2))
    np.testing.assert_array_equal(told, [0.25, 999.75])


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="1001 sampling steps of a process of 1000"):
        diffusion.spaced_steps(_LINEAR, 1001)
    with pytest.raises(UserError, match="0 sampling steps"):
        diffusion.spaced_steps(_LINEAR, 0)
    with pytest.raises(UserError, match="'linear' is unknown"):
        diffusion.spaced_steps(_LINEAR, 10, "linear")
    for betas in ([0.1, 1.0], [0.0, 0.1], [0.1, float("nan")]):
        with pytest.raises(UserError, match="inside"):
            diffusion.make_process(betas)
    with pytest.raises(UserError, match="inside"):
        diffusion.make_process(diffusion.rescaled_linear_betas(10))
    for betas in ([], 0.1):
        with pytest.raises(UserError, match="in a row"):
            diffusion.make_process(betas)
    for steps in ([3, 2], [1, 1], [0, 1000], [-1, 5], []):
        with pytest.raises(UserError, match="rise strictly"):
            diffusion.space(_LINEAR, steps)
    with pytest.raises(ValueError, match="must agree"):
        diffusion.make_process([0.1, 0.2], [0])


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_names_its_x0_and_epsilon(kind: str):
    """The pair that a target was made of comes back from it and from x_t, at the ends of a process and inside."""
    x0, epsilon = np.random.default_rng(2).standard_normal((2, 5, 3))
    with jax.enable_x64(True):
        for t in (0, 258, 999):
            signal, noise = _LINEAR.signal[t], _LINEAR.noise[t]
            x_t = jnp.asarray(signal * x0 + noise * epsilon)
            target = diffusion.prediction_target(kind, jnp.asarray(x0), jnp.asarray(epsilon), signal, noise)
            found = diffusion.x0_and_epsilon(kind, target, x_t, signal, noise)
            np.testing.assert_allclose(found[0], x0, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(found[1], epsilon, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_conversions(source: str, target: str):
    """Every kind from every other, and back, against their definitions (D14), at the ends and inside."""
    rng = np.random.default_rng(1)
    x0, epsilon = rng.standard_normal((2, 5, 3))
    with jax.enable_x64(True):
        for t in (0, 258, 999):
            signal, noise = _LINEAR.signal[t], _LINEAR.noise[t]
            x_t = signal * x0 + noise * epsilon
            truth = {
                "epsilon": epsilon,
                "x0": x0,
                "v": signal * epsilon - noise * x0,
                "score": (signal * x0 - x_t) / (1 - _LINEAR.alphas_bar[t]),
            }
            levels = (x_t, signal, noise)
            converted = diffusion.convert(jnp.asarray(truth[source]), *levels, source=source, target=target)
            np.testing.assert_allclose(converted, truth[target], rtol=1e-7, atol=1e-9)
            back = diffusion.convert(converted, *levels, source=target, target=source)
            np.testing.assert_allclose(back, truth[source], rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(
                diffusion.prediction_target(target, x0, epsilon, signal, noise), truth[target], rtol=1e-9, atol=1e-9
            )


def test_unknown_names():
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match="'noise' is unknown"):
        diffusion.prediction_target("noise", x, x, 1.0, 1.0)
    with pytest.raises(ValueError, match="'noise' is unknown"):
        diffusion.x0_and_epsilon("noise", x, x, 1.0, 1.0)
    with pytest.raises(ValueError, match="'large' is not a fixed one"):
        diffusion.log_var_table(_LINEAR, "large")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_reverse_step_of_the_true_prediction_is_the_posterior(prediction: str):
    """Fed what is to be predicted, the reverse step's mean is q's, and the equal of the paper's Eq. 11."""
    rng = np.random.default_rng(2)
    x0, epsilon = rng.standard_normal((2, 4))

    @jax.jit
    def all_of(t, signal, noise):
        x_t = diffusion.q_sample(_LINEAR, x0, t, epsilon)
        output = diffusion.prediction_target(prediction, x0, epsilon, signal, noise)
        step = diffusion.reverse(_LINEAR, output, x_t, t, prediction=prediction)
        return x_t, step, diffusion.q_posterior(_LINEAR, x0, x_t, t)[0]

    with jax.enable_x64(True):
        for t in (0, 1, 500, 999):
            x_t, step, expected = all_of(jnp.int32(t), _LINEAR.signal[t], _LINEAR.noise[t])
            np.testing.assert_allclose(step.mean, expected, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(step.x0, x0, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(step.epsilon, epsilon, rtol=1e-7, atol=1e-9)
            beta = _LINEAR.betas[t]
            eq_11 = (np.asarray(x_t) - beta / _LINEAR.noise[t] * epsilon) / np.sqrt(1 - beta)
            np.testing.assert_allclose(step.mean, eq_11, rtol=1e-7, atol=1e-9)


def test_constrained_x0_changes_epsilon_with_it():
    """Clipping keeps x_t = √ᾱ x_0 + √(1 − ᾱ) ε, so that a deterministic step lands where the clipped x_0 says."""
    t, x_t = jnp.int32(700), jnp.array([2.0, 0.1])
    step = diffusion.reverse(_LINEAR, jnp.array([-1.0, 0.1]), x_t, t, constrain=diffusion.clip_to_unit)
    assert float(step.x0[0]) == 1.0
    np.testing.assert_allclose(_LINEAR.signal[700] * step.x0 + _LINEAR.noise[700] * step.epsilon, x_t, rtol=1e-6)


@pytest.mark.parametrize("continuous", [diffusion.linear_continuous(), diffusion.cosine_continuous()])
def test_time_is_the_inverse_of_the_level(continuous: diffusion.Continuous):
    with jax.enable_x64(True):
        s = jnp.linspace(continuous.first, continuous.last, 50)
        np.testing.assert_allclose(continuous.time(continuous.log_snr(s)), s, rtol=1e-9)
        assert (np.diff(continuous.log_snr(s)) < 0).all()


def test_levels_of_continuous_time():
    """The linear one solves d log ᾱ / ds = −β(s); the cosine one has √ᾱ = cos(πs/2); signal² + noise² = 1."""
    with jax.enable_x64(True):
        linear = diffusion.linear_continuous(0.1, 20.0)
        s = jnp.linspace(0.01, 1.0, 20)
        log_alpha_bar = jax.vmap(jax.grad(lambda s: 2 * jnp.log(diffusion.signal_and_noise(linear.log_snr(s))[0])))
        np.testing.assert_allclose(log_alpha_bar(s), -(0.1 + s * 19.9), rtol=1e-8)
        signal, noise = diffusion.signal_and_noise(diffusion.cosine_continuous().log_snr(s[:-1]))
        np.testing.assert_allclose(signal, np.cos(np.pi / 2 * s[:-1]), rtol=1e-10)
        np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-12)
        # DDPM's schedule is the linear one with β(s) = T β_t, up to 1 / T.
        small = diffusion.signal_and_noise(linear.log_snr(jnp.array(0.5)))[0] ** 2
        assert float(small) == pytest.approx(_LINEAR.alphas_bar[499], rel=0.02)


def test_steps_in_continuous_time():
    """At the steps' own times the levels are the steps'; the times of kept steps are the original's."""
    spaced = diffusion.space(_LINEAR, diffusion.spaced_steps(_LINEAR, 50, "quadratic"))
    with jax.enable_x64(True):
        continuous = diffusion.in_continuous_time(spaced)
        assert (continuous.first, continuous.last) == (spaced.timesteps[0], spaced.timesteps[-1])
        levels = continuous.log_snr(jnp.asarray(spaced.timesteps, jnp.float64))
        np.testing.assert_allclose(levels, np.log(spaced.snr), rtol=1e-12)
        np.testing.assert_allclose(continuous.time(levels), spaced.timesteps, rtol=1e-12)
        between = continuous.time(continuous.log_snr(jnp.array(300.5)))
        assert float(between) == pytest.approx(300.5, abs=1e-9)
    with pytest.raises(ValueError, match="rise strictly"):
        diffusion.in_continuous_time(diffusion.make_process([0.1, 0.2], [1, 1]))
