"""The samplers on data whose best predictor is known: widths of samples, exact paths, orders of error, keys."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng
from gen_jax.contracts import Array, UserError
from gen_jax.families import diffusion
from gen_jax.families.diffusion.process import SPACINGS

_LINEAR = diffusion.make_process(diffusion.linear_betas(1000))


def _predict(std: float, x: Array, time: Array) -> Array:
    """The best ε for N(0, s²) data, told the original process's steps."""
    slopes = _LINEAR.noise / (_LINEAR.signal**2 * std**2 + _LINEAR.noise**2)
    return jnp.asarray(slopes, x.dtype)[time].reshape(-1, *[1] * (x.ndim - 1)) * x


def _spaced(count: int, spacing: str = "uniform") -> diffusion.Process:
    return diffusion.space(_LINEAR, diffusion.spaced_steps(_LINEAR, count, spacing))


def _keys(count: int, seed: int = 0) -> Array:
    return rng.per_example(rng.root(seed), jnp.arange(count))


def _run(sampler: diffusion.Sampler, x: Array, keys: Array, **options: bool) -> Any:
    """`diffusion.run` as one program; by itself each operation before and after its loop would be compiled alone."""
    return jax.jit(functools.partial(diffusion.run, sampler, **options))(x, keys)


def _sample(sampler: diffusion.Sampler, keys: Array, shape: tuple[int, ...]) -> Array:
    return jax.jit(lambda keys: diffusion.sample(sampler, keys, shape))(keys)


def _ancestral_std(process: diffusion.Process, std: float, variance: str | np.ndarray) -> float:
    """The standard deviation of x_0 after all steps: each is linear, so that its slope and its noise say all."""
    with jax.enable_x64(True):
        steps = jnp.arange(process.num_steps)

        @jax.jit
        def of_all(steps):
            output = _predict(std, jnp.ones((process.num_steps, 1)), diffusion.told_time(process, steps))
            of_one = lambda o, t: diffusion.reverse(process, o, jnp.ones(1), t, variance=variance)  # noqa: E731
            return jax.vmap(of_one)(output, steps)

        reverse = of_all(steps)
        slopes, noise = np.asarray(reverse.mean)[:, 0], np.exp(np.asarray(reverse.log_var))[:, 0]
    total = 1.0
    for t in range(process.num_steps - 1, -1, -1):
        total = slopes[t] ** 2 * total + (noise[t] if t else 0.0)
    return float(np.sqrt(total))


@pytest.mark.parametrize(
    ("std", "small", "large", "best"),
    [(0.5, 0.49611, 0.500752, 0.4999), (1.0, 0.995524, 0.99995, 0.99995), (2.0, 1.993684, 1.997641, 1.999975)],
)
def test_width_of_ancestral_samples(std: float, small: float, large: float, best: float):
    """D8, for both fixed variances and for the true one."""
    assert _ancestral_std(_LINEAR, std, "fixed_small") == pytest.approx(small, abs=6e-6)
    assert _ancestral_std(_LINEAR, std, "fixed_large") == pytest.approx(large, abs=6e-6)
    prev = _LINEAR.alphas_bar_prev * std**2 + 1 - _LINEAR.alphas_bar_prev
    log_var = -np.log(1 / prev + (1 - _LINEAR.betas) / _LINEAR.betas)
    assert _ancestral_std(_LINEAR, std, log_var) == pytest.approx(best, abs=6e-5 if std == 0.5 else 6e-6)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "beta", "learned"])
def test_ancestral_step_is_its_mean_and_its_noise(variance: str):
    """(x_{t−1} − μ) / √Σ is the same standard normal number for every choice of Σ."""
    keys = _keys(20_000)
    x = jnp.full((20_000, 2), 0.3)

    def predict(x, time):
        return jnp.concatenate([x, 0.2 * jnp.ones_like(x)], axis=-1) if variance == "learned" else x

    sampler = diffusion.ancestral(_LINEAR, predict, variance=variance)
    new_x, _, x0 = jax.jit(sampler.step)(x, (), jnp.int32(500), keys)
    output = predict(x, None)[:1]
    reverse = jax.jit(functools.partial(diffusion.reverse, _LINEAR), static_argnames="variance")
    step = jax.tree.map(np.asarray, reverse(output, x[:1], jnp.int32(500), variance=variance))
    z = (np.asarray(new_x) - step.mean) * np.exp(-0.5 * step.log_var)
    plain = jax.jit(diffusion.ancestral(_LINEAR, lambda x, time: x).step)(x, (), jnp.int32(500), keys)[0]
    large = reverse(x[:1], x[:1], jnp.int32(500))
    np.testing.assert_allclose(z, (plain - large.mean) * np.exp(-0.5 * large.log_var), atol=2e-4)
    assert abs(float(z.mean())) < 4 / np.sqrt(40_000)
    assert abs(float(z.var()) - 1) < 4 * np.sqrt(2 / 40_000)
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 4 / np.sqrt(20_000)
    np.testing.assert_allclose(x0[:1], step.x0, rtol=1e-6)


def test_last_step_has_no_noise():
    """Pitfall 1: at t = 0 the result is the mean to the bit, whatever the keys; one step earlier it is not."""
    x = jax.random.normal(rng.root(5), (4, 3))
    for sampler in (
        diffusion.ancestral(_LINEAR, functools.partial(_predict, 0.5)),
        diffusion.ddim(_LINEAR, functools.partial(_predict, 0.5), eta=1.0),
    ):
        step = jax.jit(sampler.step)
        first, second = (step(x, (), jnp.int32(0), _keys(4, seed))[0] for seed in (1, 2))
        np.testing.assert_array_equal(first, second)
        output = _predict(0.5, x, jnp.zeros(4, jnp.int32))
        mean = jax.jit(jax.vmap(lambda o, x: diffusion.reverse(_LINEAR, o, x, jnp.int32(0)).mean))(output, x)
        np.testing.assert_allclose(first, mean, rtol=1e-6)
        first, second = (step(x, (), jnp.int32(1), _keys(4, seed))[0] for seed in (1, 2))
        assert (np.asarray(first) != np.asarray(second)).all()


_DDIM = [10, 20, 50, 100, 200, 500, 1000]
_WIDTHS_D9 = {
    (1.0, 0.0): [0.8317, 0.91253, 0.96408, 0.98185, 0.99086, 0.9963, 0.99812],
    (1.0, 1.0): [0.74041, 0.84305, 0.92598, 0.96, 0.97896, 0.99123, 0.99552],
    (0.5, 0.0): [0.37413, 0.43373, 0.47244, 0.48598, 0.49289, 0.49709, 0.4985],
    (2.0, 0.0): [1.71988, 1.85496, 1.94063, 1.97002, 1.98488, 1.99385, 1.99685],
}


@pytest.mark.parametrize(("std", "eta"), _WIDTHS_D9)
def test_width_of_ddim_samples(std: float, eta: float):
    """D9: at η = 0 the sampler run from 1 is its own slope; at η = 1 it is ancestral with β̃ (see the test of that)."""
    for count, expected in zip(_DDIM, _WIDTHS_D9[std, eta], strict=True):
        process = _spaced(count)
        if eta:
            width = _ancestral_std(process, std, "fixed_small")
        else:
            with jax.enable_x64(True):
                sampler = diffusion.ddim(process, functools.partial(_predict, std))
                width = float(_run(sampler, jnp.ones((1, 1)), _keys(1))[0][0, 0])
        assert width == pytest.approx(expected, abs=6e-6), count


@pytest.mark.parametrize("count", [1, 2, 7, 50, 1000])
def test_ddim_with_all_noise_is_ancestral(count: int):
    """D14 and pitfall 2: η = 1 is ancestral sampling with β̃, number by number, on all steps and on a few."""
    process = _spaced(count, "quadratic")
    with jax.enable_x64(True):
        x = jax.random.normal(rng.root(1), (3, 2))
        predict = functools.partial(_predict, 0.5)
        ancestral = _run(diffusion.ancestral(process, predict, variance="fixed_small"), x, _keys(3))[0]
        ddim = _run(diffusion.ddim(process, predict, eta=1.0), x, _keys(3))[0]
        np.testing.assert_allclose(ddim, ancestral, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.7, 1.0])
def test_a_step_of_ddim_is_the_papers(eta: float):
    """x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1 − ᾱ_{t−1} − σ²) ε̂ + σ z, σ = η √((1 − ᾱ_{t−1}) / (1 − ᾱ_t)) √(1 − ᾱ_t / ᾱ_{t−1}).

    z is the same for every η, that of an ancestral step with the same keys, whose law has a test of its own.
    """
    process, keys = _spaced(20, "even"), _keys(3)
    bar = np.append(1.0, process.alphas_bar)
    with jax.enable_x64(True):
        x = jax.random.normal(rng.root(8), (3, 2))
        predict = functools.partial(_predict, 0.5)
        small = jax.jit(diffusion.ancestral(process, predict, variance="fixed_small").step)
        reverse = jax.jit(functools.partial(diffusion.reverse, process))
        step = jax.jit(diffusion.ddim(process, predict, eta=eta).step)
        for i in (19, 10, 1, 0):
            epsilon = np.asarray(predict(x, jnp.full(3, process.timesteps[i])))
            x0 = (np.asarray(x) - np.sqrt(1 - bar[i + 1]) * epsilon) / np.sqrt(bar[i + 1])
            variance = (1 - bar[i]) / (1 - bar[i + 1]) * (1 - bar[i + 1] / bar[i])
            z = 0.0
            if i:
                mean = reverse(jnp.asarray(epsilon), x, jnp.int32(i)).mean
                z = np.asarray(small(x, (), jnp.int32(i), keys)[0] - mean) / np.sqrt(variance)
            direction = np.sqrt(1 - bar[i] - eta**2 * variance)
            expected = np.sqrt(bar[i]) * x0 + direction * epsilon + eta * np.sqrt(variance) * z
            found, _, believed = step(x, (), jnp.int32(i), keys)
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9, err_msg=str(i))
            np.testing.assert_allclose(believed, x0, rtol=1e-8, atol=1e-9, err_msg=str(i))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [2, 3, 7, 10, 50, 1000])
def test_ddim_path_of_gaussian_data(spacing: str, count: int):
    """Pitfall 2: in x̄ = x / √ᾱ and σ̄ each step is Euler's on dx̄/dσ̄ = σ̄ x̄ / (s² + σ̄²), the last to σ̄ = 0."""
    std, process = 0.5, _spaced(count, spacing)
    grid = np.append(0.0, np.sqrt((1 - _LINEAR.alphas_bar) / _LINEAR.alphas_bar)[process.timesteps])
    x_bar = 1.0 / np.sqrt(_LINEAR.alphas_bar[process.timesteps[-1]])
    expected = []
    for here, there in zip(grid[:0:-1], grid[-2::-1], strict=True):
        x_bar = x_bar + (there - here) * here * x_bar / (std**2 + here**2)
        expected.append(x_bar / np.sqrt(1 + there**2))
    with jax.enable_x64(True):
        sampler = diffusion.ddim(process, functools.partial(_predict, std))
        _, (chain, _) = _run(sampler, jnp.ones((1, 1)), _keys(1), intermediates=True)
    np.testing.assert_allclose(chain[:, 0, 0], expected, rtol=1e-8)


def _even_process(count: int) -> tuple[diffusion.Process, np.ndarray]:
    """A process with levels at even distances of λ, and its σ̄."""
    log_snr = np.linspace(8.0, -8.0, count)
    log_alpha_bar = -np.logaddexp(0, -log_snr)
    return diffusion.make_process(-np.expm1(np.diff(log_alpha_bar, prepend=0.0))), np.exp(-log_snr / 2)


def _gaussian_error(make, count: int, std: float = 0.5) -> float:
    """How far a deterministic sampler of N(0, s²) is from x̄ ∝ √(s² + σ̄²), at the last level that has noise."""
    process, sigma = _even_process(count)
    slopes = process.noise / (process.signal**2 * std**2 + process.noise**2)

    def predict(x, time):
        return jnp.asarray(slopes)[time][:, None] * x

    with jax.enable_x64(True):
        _, (chain, _) = _run(make(process, predict), jnp.ones((1, 1)), _keys(1), intermediates=True)
    x_bar = float(chain[-2, 0, 0]) / process.signal[0]
    exact = np.sqrt((std**2 + sigma[0] ** 2) / (std**2 + sigma[-1] ** 2)) / process.signal[-1]
    return abs(x_bar / exact - 1)


def test_orders_of_the_solvers():
    """Twice the steps halve DDIM's error and quarter DPM-Solver++(2M)'s, which is the smaller one already at 20."""
    first = [_gaussian_error(diffusion.ddim, n) for n in (80, 160, 320)]
    second = [_gaussian_error(diffusion.dpm_solver, n) for n in (80, 160, 320)]
    assert first[0] / first[1] == pytest.approx(2, rel=0.1)
    assert first[1] / first[2] == pytest.approx(2, rel=0.05)
    assert second[0] / second[1] == pytest.approx(4, rel=0.15)
    assert second[1] / second[2] == pytest.approx(4, rel=0.1)
    assert _gaussian_error(diffusion.dpm_solver, 20) < 0.25 * _gaussian_error(diffusion.ddim, 20)


@pytest.mark.parametrize("std", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [diffusion.linear_betas, diffusion.cosine_betas])
def test_dpm_solver_has_the_width_of_gaussian_data_after_twenty_steps(schedule, std: float):
    """On the steps of "log_snr", to the last: noise is mapped to s times it; DDIM's data are too narrow."""
    whole = diffusion.make_process(schedule(1000))
    process = diffusion.space(whole, diffusion.spaced_steps(whole, 20, "log_snr"))
    slopes = whole.noise / (whole.signal**2 * std**2 + whole.noise**2)

    def predict(x, time):
        return jnp.asarray(slopes)[time][:, None] * x

    def width(make) -> float:
        with jax.enable_x64(True):
            x0, _ = _run(make(process, predict), jnp.ones((1, 1)), _keys(1))
        return float(x0[0, 0]) / std * np.sqrt(whole.signal[-1] ** 2 * std**2 + whole.noise[-1] ** 2)

    assert width(diffusion.dpm_solver) == pytest.approx(1, abs=0.03)
    assert width(diffusion.ddim) < 0.97


@pytest.mark.parametrize("count", [1, 2])
def test_shortest_solves_are_of_first_order(count: int):
    """With no step between the first and the last, DPM-Solver++ is DDIM."""
    process = _spaced(count, "trailing")
    with jax.enable_x64(True):
        x = jnp.array([[0.4, -1.0]])
        predict = functools.partial(_predict, 0.5)
        results = [_run(make(process, predict), x, _keys(1))[0] for make in (diffusion.ddim, diffusion.dpm_solver)]
        np.testing.assert_allclose(*results, rtol=1e-10)


def test_inversion():
    """D14 and pitfall 2: encoded and decoded again, an example comes back with an error that falls as 1 / S."""

    def error(count: int) -> float:
        process = _spaced(count, "even")
        predict = functools.partial(_predict, 0.5)
        x0 = jnp.array([[0.3, -0.8]])
        x1, _ = _run(diffusion.ddim_inversion(process, predict), x0, _keys(1))
        back, _ = _run(diffusion.ddim(process, predict), x1, _keys(1))
        return float(jnp.abs(back / x0 - 1).max())

    with jax.enable_x64(True):
        errors = [error(count) for count in (50, 100, 200, 400)]
        # The encoding alone tends to the end of the exact path, x̄ ∝ √(s² + σ̄²).
        process = _spaced(1000)
        x1, _ = _run(diffusion.ddim_inversion(process, functools.partial(_predict, 0.5)), jnp.ones((1, 1)), _keys(1))
    assert all(1.7 < a / b < 2.4 for a, b in itertools.pairwise(errors)), errors
    v = _LINEAR.alphas_bar[-1] * 0.25 + 1 - _LINEAR.alphas_bar[-1]
    assert float(x1[0, 0]) == pytest.approx(np.sqrt(v / 0.25), rel=5e-3)


def test_inversion_is_told_the_level_at_which_it_is():
    """The level that a step leaves, not the one that it goes to; the example itself is at the first step's."""
    seen = []

    def spy(x, time):
        seen.append(int(time[0]))
        return x

    steps = diffusion.spaced_steps(_LINEAR, 5, "even")
    sampler = diffusion.ddim_inversion(diffusion.space(_LINEAR, steps), spy)
    diffusion.run(sampler, jnp.ones((1, 1)), _keys(1), loop="python")
    assert seen == [0, *steps[:-1]]


@pytest.mark.parametrize("prediction", ["x0", "v", "score"])
@pytest.mark.parametrize("make", [diffusion.ancestral, diffusion.ddim, diffusion.dpm_solver, diffusion.ddim_inversion])
def test_samplers_take_every_prediction(make, prediction: str):
    """The same predictor in another parameterisation gives the same samples."""
    process = _spaced(20)

    def converted(x, time):
        signal, noise = (jnp.asarray(a)[time][:, None] for a in (_LINEAR.signal, _LINEAR.noise))
        epsilon = _predict(0.5, x, time)
        return diffusion.convert(epsilon, x, signal, noise, source="epsilon", target=prediction)

    with jax.enable_x64(True):
        x = jnp.array([[1.0, -0.3], [0.2, 2.0]])
        plain = _run(make(process, functools.partial(_predict, 0.5)), x, _keys(2))[0]
        other = _run(make(process, converted, prediction=prediction), x, _keys(2))[0]
        np.testing.assert_allclose(other, plain, rtol=1e-7)


def test_samples_are_constrained():
    """With x_0 clipped at each step no sample leaves [−1, 1], where the same sampler without does."""
    process = _spaced(25)
    for make in (diffusion.ancestral, diffusion.ddim, diffusion.dpm_solver):
        free = _sample(make(process, functools.partial(_predict, 1.0)), _keys(50), (2,))
        cut = _sample(
            make(process, functools.partial(_predict, 1.0), constrain=diffusion.clip_to_unit), _keys(50), (2,)
        )
        assert float(jnp.abs(free).max()) > 1.2
        assert float(jnp.abs(cut).max()) <= 1.0


@pytest.mark.parametrize("loop", ["scan", "python"])
def test_run_is_its_loop(loop: str):
    """A sampler that counts: each step gets what the one before left, its own number, and the keys."""

    def step(x, memory, i, keys):
        drawn = jax.vmap(lambda key: jax.random.uniform(rng.at_step(key, i)))(keys)[:, None]
        return 0.5 * x + i * memory + drawn, memory + x, x - memory

    sampler = diffusion.Sampler(np.array([4, 2, 1]), lambda x: 3 * x, step)
    x, keys = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32), _keys(2)
    end, kept = diffusion.run(sampler, jnp.asarray(x), keys, intermediates=True, loop=loop)
    memory = 3 * x
    for n, i in enumerate((4, 2, 1)):
        drawn = np.array([jax.random.uniform(rng.at_step(key, i)) for key in keys])[:, None]
        x, memory, x0 = 0.5 * x + i * memory + drawn, memory + x, x - memory
        np.testing.assert_allclose(kept[0][n], x, rtol=1e-6)
        np.testing.assert_allclose(kept[1][n], x0, rtol=1e-6)
    np.testing.assert_array_equal(end, kept[0][-1])


@pytest.mark.parametrize(
    "make", [diffusion.ancestral, functools.partial(diffusion.ddim, eta=0.5), diffusion.dpm_solver]
)
def test_sample_depends_on_its_key_alone(make):
    """Example i of a batch is, to the bit, what its key gives alone or among others, in either loop, kept or not."""
    sampler = make(_spaced(12), functools.partial(_predict, 0.5))
    keys = _keys(6)
    draw = jax.jit(lambda keys: diffusion.sample(sampler, keys, (3, 2)))
    whole = np.asarray(draw(keys))
    np.testing.assert_array_equal(whole[2:4], draw(rng.per_example(rng.root(0), jnp.arange(2, 4))))
    np.testing.assert_array_equal(whole[::-1], draw(rng.per_example(rng.root(0), jnp.arange(6)[::-1])))
    assert len(np.unique(whole)) == whole.size

    start = diffusion.start_noise(keys, (3, 2))
    result, (chain, x0) = jax.jit(lambda x, k: diffusion.run(sampler, x, k, intermediates=True))(start, keys)
    np.testing.assert_array_equal(result, whole)
    np.testing.assert_array_equal(chain[-1], whole)
    assert chain.shape == x0.shape == (12, 6, 3, 2)
    jitted = sampler._replace(step=jax.jit(sampler.step))
    by_python, (chain_by_python, _) = diffusion.run(jitted, start, keys, loop="python", intermediates=True)
    np.testing.assert_allclose(by_python, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(chain_by_python, chain, rtol=1e-5, atol=1e-6)
    assert diffusion.run(jitted, start, keys, loop="python")[1] is None
    with pytest.raises(ValueError, match="'for' is unknown"):
        diffusion.run(sampler, start, keys, loop="for")


def test_network_is_told_the_original_steps():
    """Pitfall 2: whatever the choice of steps, in their order, as integers, and every example alike."""
    seen = []

    def spy(x, time):
        seen.append(np.asarray(time))
        return x

    steps = diffusion.spaced_steps(_LINEAR, 7, "quadratic")
    process = diffusion.space(_LINEAR, steps)
    for make in (diffusion.ancestral, diffusion.ddim, diffusion.dpm_solver):
        seen.clear()
        diffusion.sample(make(process, spy), _keys(2), (1,), loop="python")
        np.testing.assert_array_equal(np.stack(seen), np.stack([steps[::-1]] * 2, axis=1))
        assert seen[0].dtype == np.int32


def test_width_by_simulation():
    """D8 once more, through the sampler with its own noise: 40,000 numbers of the width that the slopes foretell."""
    process = _spaced(100, "even")
    sampler = diffusion.ancestral(process, functools.partial(_predict, 0.5), variance="fixed_large")
    samples = _sample(sampler, _keys(400), (100,))
    expected = _ancestral_std(process, 0.5, "fixed_large")
    assert float(samples.std()) == pytest.approx(expected, abs=4 * expected / np.sqrt(80_000))
    assert abs(float(samples.mean())) < 4 * 0.5 / np.sqrt(40_000)


def test_samplers_refuse_numbers_that_mean_nothing():
    with pytest.raises(ValueError, match=r"eta=1\.5; DDIM's noise has a share from 0 to 1"):
        diffusion.ddim(_LINEAR, functools.partial(_predict, 0.5), eta=1.5)
    sampler = diffusion.ddim(_LINEAR, functools.partial(_predict, 0.5))
    with pytest.raises(ValueError, match="num_resamples=0; each step is taken once"):
        diffusion.inpaint(_LINEAR, sampler, jnp.zeros((1, 2)), jnp.zeros((1, 2)), num_resamples=0)
    learned = diffusion.ancestral(_LINEAR, lambda x, t: x, variance="learned")
    with pytest.raises(ValueError, match=r"prediction is \(1,\) where x_t is \(2,\)"):
        learned.step(jnp.ones((1, 2)), (), jnp.int32(3), _keys(1))
    with pytest.raises(UserError, match="Kept steps must rise strictly"):
        diffusion.space(_LINEAR, np.array([0.5, 1.5]))


def test_inpainting_does_not_take_the_last_step_again():
    """With one step alone, resampling changes nothing."""
    process = _spaced(1)
    sampler = diffusion.ddim(process, functools.partial(_predict, 0.5))
    known, mask = jnp.full((3, 2), 0.7), jnp.tile(jnp.array([1.0, 0.0]), (3, 1))
    once, often = (
        _sample(diffusion.inpaint(process, sampler, known, mask, num_resamples=count), _keys(3), (2,))
        for count in (1, 4)
    )
    np.testing.assert_allclose(often, once, atol=1e-6)


def test_inpainting():
    """Two numbers of correlation 0.9, the first known: it is kept to the bit, and resampling finds the other's mean.

    The conditional mean of the second is 0.9 times the first. Replacement alone stays well short of it.
    """
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    process = _spaced(30, "even")
    signal, noise = _LINEAR.signal[:, None, None], _LINEAR.noise[:, None, None]
    best = noise * np.linalg.inv(signal**2 * covariance + noise**2 * np.eye(2))

    def predict(x, time):
        return jnp.einsum("bij,bj->bi", jnp.asarray(best, x.dtype)[time], x)

    count = 2000
    known = jnp.tile(jnp.array([1.5, jnp.finfo(jnp.float32).max]), (count, 1))
    mask = jnp.tile(jnp.array([1, 0]), (count, 1))
    means, errors = {}, {}
    for num_resamples in (1, 6):
        sampler = diffusion.inpaint(
            process, diffusion.ancestral(process, predict), known, mask, num_resamples=num_resamples
        )
        samples = np.asarray(_sample(sampler, _keys(count), (2,)))
        np.testing.assert_array_equal(samples[:, 0], 1.5)
        means[num_resamples] = samples[:, 1].mean()
        errors[num_resamples] = samples[:, 1].std() / np.sqrt(count)
    assert abs(means[6] - 1.35) < 0.05 + 4 * errors[6]
    assert abs(means[1] - 1.35) > 2 * abs(means[6] - 1.35) + 4 * errors[1]
    # Mask of ones: everything is known. Mask of zeros: the sampler itself.
    plain = diffusion.ancestral(process, predict)
    few = _keys(3)
    nothing_known = diffusion.inpaint(process, plain, jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    np.testing.assert_array_equal(_sample(nothing_known, few, (2,)), _sample(plain, few, (2,)))
    all_known = diffusion.inpaint(process, plain, jnp.full((3, 2), 0.7), jnp.ones((3, 2)))
    np.testing.assert_array_equal(_sample(all_known, few, (2,)), np.float32(0.7))
