"""The density along the probability-flow ODE, against densities that are known: Gaussian, correlated, uniform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.contracts import Array
from gen_jax.families import diffusion
from gen_jax.ops.distributions import gaussian_log_likelihood

_LINEAR = diffusion.make_process(diffusion.linear_betas(1000))
_COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.5]])
_POINTS = np.array([[0.0, 0.0], [1.0, 0.5], [-2.0, 0.3]])


def _keys(count: int, seed: int = 0) -> Array:
    return rng.per_example(rng.root(seed), jnp.arange(count))


def _even_levels(continuous: diffusion.Continuous, num_steps: int) -> np.ndarray:
    """[num_steps + 1] λ, falling, at equal distances."""
    ends = continuous.log_snr(jnp.array([continuous.first, continuous.last]))
    return np.linspace(float(ends[0]), float(ends[1]), num_steps + 1)


def _gaussian(continuous: diffusion.Continuous, x: Array, time: Array) -> Array:
    """The best ε for N(0, Σ) data at any time, axis by axis of Σ."""
    signal, noise = diffusion.signal_and_noise(continuous.log_snr(time))
    variances, axes = np.linalg.eigh(_COVARIANCE)
    slopes = noise[:, None] / (signal[:, None] ** 2 * variances[None] + noise[:, None] ** 2)
    return (slopes * (x @ axes)) @ axes.T


def _error(continuous: diffusion.Continuous, levels: np.ndarray, **options) -> float:
    """The largest error in nats, of the density that the paths are of: with the first level's noise added.

    The law at the paths' end is N(0, ᾱ Σ + (1 − ᾱ) I), and what N(0, I) in its place costs is no error of the solver's.
    """
    with jax.enable_x64(True):
        predict = functools.partial(_gaussian, continuous)
        flow = jax.jit(lambda x, k: diffusion.probability_flow(continuous, predict, x, k, levels, **options))
        log_density, x1 = (np.asarray(a) for a in flow(jnp.asarray(_POINTS), _keys(3)))
    blurred = _COVARIANCE + np.exp(-levels[0]) * np.eye(2)
    expected = scipy.stats.multivariate_normal([0, 0], blurred).logpdf(_POINTS)
    alpha_bar = 1 / (1 + np.exp(-levels[-1]))
    end = scipy.stats.multivariate_normal([0, 0], alpha_bar * _COVARIANCE + (1 - alpha_bar) * np.eye(2))
    prior = scipy.stats.multivariate_normal([0, 0]).logpdf(x1) - end.logpdf(x1)
    return float(np.abs(log_density - prior - expected).max())


_PROCESSES = {
    "linear": diffusion.linear_continuous(),
    "cosine": diffusion.cosine_continuous(last=0.9999),
    "steps": diffusion.in_continuous_time(_LINEAR),
}


@pytest.mark.parametrize("name", _PROCESSES)
def test_density_of_correlated_gaussians(name: str):
    """With 100 steps of fourth order and the exact trace the density is right to 2e-5 nats, with 400 to 1e-7."""
    continuous = _PROCESSES[name]
    with jax.enable_x64(True):
        grids = [_even_levels(continuous, count) for count in (100, 400)]
    assert _error(continuous, grids[0], solver="rk4", trace="exact") < 2e-5
    assert _error(continuous, grids[1], solver="rk4", trace="exact") < 1e-7


def test_density_does_not_need_the_noise_of_the_first_level():
    """As the first level's noise goes to 0 the density is the data's."""
    continuous = diffusion.linear_continuous(first=1e-5)
    with jax.enable_x64(True):
        predict = functools.partial(_gaussian, continuous)
        levels = _even_levels(continuous, 200)
        flow = functools.partial(diffusion.probability_flow, continuous, predict, solver="rk4", trace="exact")
        log_density, _ = jax.jit(functools.partial(flow, levels=levels))(jnp.asarray(_POINTS), _keys(3))
    expected = scipy.stats.multivariate_normal([0, 0], _COVARIANCE).logpdf(_POINTS)
    np.testing.assert_allclose(log_density, expected, atol=1e-3)


def test_orders_of_the_solvers():
    """Twice the steps: a quarter of Heun's error, a sixteenth of the fourth-order one's."""
    continuous = diffusion.linear_continuous()
    with jax.enable_x64(True):
        grids = [_even_levels(continuous, n) for n in (40, 80, 160)]
    heun = [_error(continuous, levels, solver="heun", trace="exact") for levels in grids]
    rk4 = [_error(continuous, levels, solver="rk4", trace="exact") for levels in grids[:2]]
    assert heun[0] / heun[1] == pytest.approx(4, rel=0.3)
    assert heun[1] / heun[2] == pytest.approx(4, rel=0.2)
    assert rk4[0] / rk4[1] == pytest.approx(16, rel=0.5)
    assert rk4[1] < heun[1] / 10


def test_trace_by_random_signs():
    """One probe's density is right on average over keys; many probes have less spread; one key gives one number."""
    continuous = diffusion.linear_continuous()
    with jax.enable_x64(True):
        predict = functools.partial(_gaussian, continuous)
        levels = _even_levels(continuous, 50)
        x = jnp.tile(jnp.asarray(_POINTS[1:2]), (512, 1))
        flow = functools.partial(diffusion.probability_flow, continuous, predict, levels=levels, solver="rk4")
        exact = float(jax.jit(functools.partial(flow, trace="exact"))(x[:1], _keys(1))[0][0])
        one = np.asarray(jax.jit(flow)(x, _keys(512))[0])
        eight = np.asarray(jax.jit(functools.partial(flow, num_probes=8))(x, _keys(512))[0])
        again = np.asarray(jax.jit(flow)(x[:3], _keys(3))[0])
    np.testing.assert_allclose(again, one[:3], rtol=1e-10)
    assert one.std() > 0.1
    assert eight.std() == pytest.approx(one.std() / np.sqrt(8), rel=0.2)
    assert abs(one.mean() - exact) < 4 * one.std() / np.sqrt(512)


def test_levels_between_the_steps_are_never_asked_for():
    """Heun's method on a process's own levels tells the network timesteps that it was trained with."""
    process = diffusion.space(_LINEAR, diffusion.spaced_steps(_LINEAR, 20, "even"))
    told = []

    def predict(x, time):
        jax.debug.callback(lambda t: told.append(np.asarray(t)), time)
        return x

    with jax.enable_x64(True):
        result, _ = diffusion.probability_flow(
            diffusion.in_continuous_time(_LINEAR), predict, jnp.ones((1, 2)), _keys(1), diffusion.step_levels(process)
        )
        result.block_until_ready()
        jax.effects_barrier()
    times = np.unique(np.round(np.concatenate(told), 6))
    np.testing.assert_array_equal(times, process.timesteps)


def test_paths_end_where_inverted_ddim_does():
    """The same differential equation by another road, DDIM's inversion: both ends agree as their steps grow."""
    process = diffusion.space(_LINEAR, diffusion.spaced_steps(_LINEAR, 1000))
    continuous = diffusion.in_continuous_time(process)
    with jax.enable_x64(True):
        predict = functools.partial(_gaussian, continuous)
        x0 = jnp.asarray(_POINTS)
        levels = diffusion.step_levels(process)
        _, x1 = jax.jit(lambda x, k: diffusion.probability_flow(continuous, predict, x, k, levels))(x0, _keys(3))
        float_time = lambda x, time: predict(x, time.astype(x.dtype))  # noqa: E731
        sampler = diffusion.ddim_inversion(process, float_time)
        encoded, _ = jax.jit(lambda x, k: diffusion.run(sampler, x, k))(x0, _keys(3))
    np.testing.assert_allclose(encoded, x1, atol=0.02)


def _uniform(process: diffusion.Continuous, x: Array, time: Array) -> Array:
    """The best ε for independent numbers uniform on [−1, 1): noise · −d log q(x_t) / dx."""
    signal, noise = diffusion.signal_and_noise(process.log_snr(time))
    signal, noise = signal[:, None], noise[:, None]
    upper, lower = (x + signal) / noise, (x - signal) / noise
    mass = jax.scipy.stats.norm.cdf(upper) - jax.scipy.stats.norm.cdf(lower)
    return (jax.scipy.stats.norm.pdf(lower) - jax.scipy.stats.norm.pdf(upper)) / mass


@pytest.mark.parametrize("num_dims", [1, 3, 12])
def test_uniform_data_are_eight_bits(num_dims: int):
    """Pitfall 8: levels spread evenly, dequantised, cost 8.000 bits/dim under their true density, to 1e-3."""
    continuous = diffusion.linear_continuous(first=2e-4)
    # Away from the ends by some of the first level's noise, which blurs the density there.
    levels = np.random.default_rng(0).integers(8, 248, (4, num_dims))
    x = 2 * (levels + 0.5) / 256 - 1
    with jax.enable_x64(True):
        predict = functools.partial(_uniform, continuous)
        grid = _even_levels(continuous, 400)
        flow = jax.jit(lambda x, k: diffusion.probability_flow(continuous, predict, x, k, grid, solver="rk4")[0])
        log_density = flow(jnp.asarray(x), _keys(4))
        bits = diffusion.density_bits_per_dim(log_density, num_dims)
    np.testing.assert_allclose(bits, 8.0, atol=1e-3)


def test_conversion_of_densities():
    """The uniform density on [−1, 1), log ½ a dimension, is 8 bits of 256 levels, 5 of 32; on [0, 1) it is log 1."""
    log_density = jnp.asarray(12 * np.log(0.5))
    assert float(diffusion.density_bits_per_dim(log_density, 12)) == pytest.approx(8.0, abs=2e-6)
    assert float(diffusion.density_bits_per_dim(log_density, 12, num_levels=32)) == pytest.approx(5.0, abs=2e-6)
    assert float(diffusion.density_bits_per_dim(jnp.zeros(()), 12, width=1.0)) == pytest.approx(8.0, abs=2e-6)
    # 255 for 256 is 0.0056 bits, which this sees.
    assert abs(float(diffusion.density_bits_per_dim(log_density, 12, num_levels=255)) - 8.0) > 5e-3


def test_bound_and_flow_agree():
    """For Gaussian data and the exact predictor, the bound of a density is at most its gap above the flow's density."""
    process = diffusion.make_process(diffusion.linear_betas(1000))
    continuous = diffusion.in_continuous_time(process)
    slopes = process.noise  # The best ε for N(0, I).
    with jax.enable_x64(True):
        x = jax.random.normal(rng.root(3), (1024, 3))

        def predict(x, time):
            return jnp.interp(time.astype(x.dtype), jnp.arange(1000.0), jnp.asarray(slopes))[:, None] * x

        flow = jax.jit(
            lambda x, k: diffusion.probability_flow(continuous, predict, x, k, diffusion.step_levels(process))
        )
        density = np.asarray(flow(x[:16], _keys(16))[0])
        bound = jax.jit(
            lambda x, k: diffusion.variational_bound(
                process, predict, x, k, chunk_size=50, variance="beta", decoder=gaussian_log_likelihood
            )["total"]
        )(x, _keys(1024))
    nats = np.asarray(bound) * 3 * np.log(2)
    exact = scipy.stats.norm.logpdf(np.asarray(x)).sum(1)
    blurred = scipy.stats.norm.logpdf(np.asarray(x), scale=np.sqrt(1 + 1 / process.snr[0])).sum(1)
    np.testing.assert_allclose(density, blurred[:16], atol=1e-5)
    error = (nats + exact).std() / 32
    assert error < 0.06
    assert abs((nats + exact).mean()) < 4 * error  # The gap is 0 for s² = 1.


def test_bad_input():
    continuous = diffusion.linear_continuous()
    x = jnp.ones((1, 2))
    flow = functools.partial(diffusion.probability_flow, continuous, lambda x, time: x, x)
    with pytest.raises(ValueError, match="'euler'"):
        flow(_keys(1), np.array([1.0, 0.0]), solver="euler")
    with pytest.raises(ValueError, match="fall strictly"):
        flow(_keys(1), np.array([0.0, 1.0]))
