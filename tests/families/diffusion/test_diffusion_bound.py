"""The whole bound: its gap for Gaussian data, its first term, and bits per dimension of data with a known entropy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.families import diffusion
from gen_jax.ops.distributions import gaussian_log_likelihood

_LINEAR = diffusion.make_process(diffusion.linear_betas(1000))


def _expected_bound(process: diffusion.Process, data_variance: float, variance: str | np.ndarray) -> float:
    """E[L_T + Σ_t L_{t−1}] in nats of N(0, s²) with the best ε, a Gaussian decoder, by quadrature (exact: squares)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    x0, epsilon = (a.ravel() for a in np.meshgrid(np.sqrt(data_variance) * nodes, nodes))
    weight = np.outer(weights, weights).ravel() / weights.sum() ** 2
    slopes = process.noise / (process.signal**2 * data_variance + process.noise**2)

    def of_one(t, x0, epsilon):
        x_t = diffusion.q_sample(process, x0, t, epsilon)
        step = diffusion.reverse(process, jnp.asarray(slopes)[t] * x_t, x_t, t, variance=variance)
        return diffusion.l_vlb(process, x0, x_t, t, step.mean, step.log_var, gaussian_log_likelihood)

    with jax.enable_x64(True):
        over = jax.jit(jax.vmap(jax.vmap(of_one, in_axes=(None, 0, 0)), in_axes=(0, None, None)))
        terms = np.asarray(over(jnp.arange(process.num_steps), x0, epsilon)) @ weight
        prior = np.asarray(jax.jit(jax.vmap(lambda x: diffusion.l_prior(process, x)))(x0)) @ weight
    return float(np.log(2) * (terms.sum() + prior))


def _entropy(data_variance: float) -> float:
    return 0.5 * np.log(2 * np.pi * np.e * data_variance)


def _best_variance(process: diffusion.Process, data_variance: float) -> np.ndarray:
    """Log of the true variance of x_{t−1} given x_t: the inverse of the sum of two precisions."""
    prev = process.alphas_bar_prev * data_variance + 1 - process.alphas_bar_prev
    return -np.log(1 / prev + (1 - process.betas) / process.betas)


@pytest.mark.parametrize(("data_variance", "gap"), [(0.25, 0.001092), (1.0, 0.0), (4.0, 0.000853)])
def test_bound_of_gaussian_data_with_the_large_variance(data_variance: float, gap: float):
    """D6: β at every step, the first too; for s² = 1 the bound is the entropy."""
    bound = _expected_bound(_LINEAR, data_variance, "beta")
    assert bound - _entropy(data_variance) == pytest.approx(gap, abs=1e-6 if gap else 1e-9)
    if data_variance == 1.0:
        assert bound == pytest.approx(1.418939, abs=5e-7)
    if data_variance == 0.25:
        assert bound == pytest.approx(0.726884, abs=1e-6)


@pytest.mark.parametrize(("data_variance", "cost"), [(0.25, 0.113577), (1.0, 0.113703), (4.0, 0.113734)])
def test_price_of_the_official_first_variance(data_variance: float, cost: float):
    """D6: the second step's β̃ in the decoder instead of β_1."""
    difference = _expected_bound(_LINEAR, data_variance, "fixed_large") - _expected_bound(
        _LINEAR, data_variance, "beta"
    )
    assert difference == pytest.approx(cost, abs=1e-6)


@pytest.mark.parametrize(("data_variance", "gap"), [(0.25, 0.5699), (1.0, 0.5786), (4.0, 0.5839)])
def test_bound_of_gaussian_data_with_the_small_variance(data_variance: float, gap: float):
    """D6."""
    bound = _expected_bound(_LINEAR, data_variance, "fixed_small")
    assert bound - _entropy(data_variance) == pytest.approx(gap, abs=6e-5)


@pytest.mark.parametrize("data_variance", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("steps", [None, "uniform", "quadratic"])
def test_bound_with_the_best_variance_is_the_entropy(data_variance: float, steps: str | None):
    """D6 and pitfall 1: no gap for any data variance, on all steps and on a few, but that of L_T's approximation."""
    process = _LINEAR if steps is None else diffusion.space(_LINEAR, diffusion.spaced_steps(_LINEAR, 20, steps))
    bound = _expected_bound(process, data_variance, _best_variance(process, data_variance))
    # q(x_T) is N(0, v), not N(0, 1): its divergence is all that is missing.
    v = process.alphas_bar[-1] * data_variance + 1 - process.alphas_bar[-1]
    assert bound - _entropy(data_variance) == pytest.approx(0.5 * (v - 1 - np.log(v)), abs=1e-9)


def test_first_term_half_a_bin_off():
    """Pitfall 1: v = 0 and a mean half a bin (of width 2 / 255) from the truth cost under 3 bits a dimension in L_0."""
    x0 = jnp.arange(-1.0, 1.0, 2 / 255)
    t, epsilon = jnp.int32(0), jnp.zeros_like(x0)
    x_t = diffusion.q_sample(_LINEAR, x0, t, epsilon)
    output = jnp.stack([x0 + 1 / 255, jnp.zeros_like(x0)], axis=-1)

    @jax.jit
    def bits():
        step = diffusion.reverse(_LINEAR, output, x_t[:, None], t, prediction="x0", variance="learned")
        return diffusion.l_vlb(_LINEAR, x0[:, None], x_t[:, None], t, step.mean, step.log_var)

    assert 0.5 < float(bits()) < 3.0


def test_terms_of_one_point():
    """Of data that are one point c, with ε off by b: KL(N(μ̃, β̃) ‖ N(μ̃ − shift, β)) at each step, the decoder at 0.

    There x_t tells ε, so no term depends on the noise: the shift is b β / (√(1 − ᾱ) √α), and L_simple is b².
    """
    process, c, b = diffusion.make_process(diffusion.linear_betas(20, 1e-3, 0.3)), jnp.array([[0.4, -0.7, 0.1]]), 0.1

    def predict(x, time):
        signal, noise = (jnp.asarray(table, x.dtype)[time][:, None] for table in (process.signal, process.noise))
        return (x - signal * c) / noise + b

    steps, keys = np.array([[0, 7, 19], [3, 0, 12]]), rng.per_example(rng.root(0), jnp.arange(2))
    options = {"variance": "beta", "decoder": gaussian_log_likelihood}
    x0 = jnp.broadcast_to(c, (2, 3))
    found = jax.jit(lambda x0: diffusion.bound_terms(process, predict, x0, keys, jnp.asarray(steps), **options))(x0)
    beta, small = process.betas[steps], process.posterior_variance[steps]
    shift = b * beta / (process.noise[steps] * np.sqrt(1 - beta))
    divergence = 0.5 * (np.log(beta / np.where(steps, small, 1)) + (small + shift**2) / beta - 1)
    decoder = 0.5 * (np.log(2 * np.pi * beta) + shift**2 / beta)
    expected = np.where(steps == 0, decoder, divergence) / np.log(2)
    np.testing.assert_allclose(found["vlb"], expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(found["simple"], b**2, rtol=1e-3)


def test_bound_by_simulation():
    """`variational_bound` of Gaussian data: its parts add up, agree with the quadrature, and do not mind the chunks."""
    process = diffusion.make_process(diffusion.rescaled_linear_betas(50))
    slopes = process.noise / (process.signal**2 * 0.25 + process.noise**2)
    keys = rng.per_example(rng.root(0), jnp.arange(2000))
    x0 = 0.5 * jax.random.normal(rng.root(1), (2000, 3))

    def predict(x, time):
        return jnp.asarray(slopes, x.dtype)[time][:, None] * x

    options = {"variance": "beta", "decoder": gaussian_log_likelihood}
    bound = jax.jit(lambda x, k: diffusion.variational_bound(process, predict, x, k, chunk_size=7, **options))(x0, keys)
    np.testing.assert_allclose(bound["total"], bound["prior"] + bound["vlb"].sum(1), rtol=1e-6)
    assert bound["vlb"].shape == bound["x0_mse"].shape == bound["epsilon_mse"].shape == (2000, 50)
    total = np.log(2) * np.asarray(bound["total"], np.float64)
    error = total.std() / np.sqrt(2000)
    assert error < 0.02
    assert abs(total.mean() - _expected_bound(process, 0.25, "beta")) < 4 * error

    whole_chunk = lambda x, k: diffusion.variational_bound(process, predict, x, k, chunk_size=50, **options)  # noqa: E731
    few = jax.jit(whole_chunk)(x0[3:5], keys[3:5])
    np.testing.assert_allclose(few["total"], bound["total"][3:5], rtol=1e-5)
    np.testing.assert_allclose(few["vlb"], bound["vlb"][3:5], rtol=1e-3, atol=1e-4)
    # What is measured besides: the error of ε, whose least value is known at each step.
    least = process.signal**2 * 0.25 / (process.signal**2 * 0.25 + process.noise**2)
    np.testing.assert_allclose(bound["epsilon_mse"].mean(0), least, rtol=0.15)
    np.testing.assert_allclose(bound["x0_mse"].mean(0), least / process.snr, rtol=0.15)


def _levels_process(num_steps: int) -> diffusion.Process:
    """Steps at even distances of λ, from so little noise that levels 2 / 255 apart stay apart to none of the signal."""
    log_snr = np.linspace(14.7, -8.0, num_steps)
    log_alpha_bar = -np.logaddexp(0, -log_snr)
    return diffusion.make_process(-np.expm1(np.diff(log_alpha_bar, prepend=0.0)))


def _expected_bits(num_steps: int, levels: np.ndarray, p: np.ndarray, mirrored: bool = False) -> float:
    """The shipped bound of a categorical law on levels, with the exact posterior mean, over a grid of ε.

    Of a law that is its own mirror image only the lower half of the levels need be x_0.
    """
    process = _levels_process(num_steps)
    x_levels = levels / 127.5 - 1
    epsilon = np.linspace(-6.5, 6.5, 27)
    weight = scipy.stats.norm.pdf(epsilon) * (epsilon[1] - epsilon[0])

    def of_one(t, x0, epsilon):
        x_t = diffusion.q_sample(process, x0, t, epsilon)
        signal, noise = jnp.asarray(process.signal)[t], jnp.asarray(process.noise)[t]
        share = jax.nn.softmax(np.log(p) - 0.5 * ((x_t - signal * x_levels) / noise) ** 2)
        step = diffusion.reverse(process, share @ x_levels, x_t, t, prediction="x0", variance="fixed_small")
        return diffusion.l_vlb(process, x0, x_t, t, step.mean, step.log_var)

    half = len(levels) // 2 if mirrored else len(levels)
    x0_levels, x0_p = x_levels[:half], p[:half] / p[:half].sum()
    with jax.enable_x64(True):
        over_noise = jax.vmap(of_one, in_axes=(None, None, 0))
        over_levels = jax.vmap(over_noise, in_axes=(None, 0, None))

        def total(epsilon, x0):
            terms = jax.lax.map(lambda t: x0_p @ (over_levels(t, x0, epsilon) @ weight), jnp.arange(num_steps))
            return terms.sum() + x0_p @ jax.vmap(lambda x: diffusion.l_prior(process, x))(x0)

        # Of many levels it runs for longer than it is compiled.
        options = {"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False}
        program = jax.jit(total, compiler_options=options if len(levels) > 100 else None)
        return float(program(jnp.asarray(epsilon), jnp.asarray(x0_levels)))


def _limit(bits: list[float]) -> float:
    """The limit from n, 2n, 4n, … steps, by Richardson's extrapolation: 255 for 256 levels would be 0.0056 bits off."""
    values = np.array(bits)
    for order in range(1, len(bits)):
        values = (2**order * values[1:] - values[:-1]) / (2**order - 1)
    return float(values[0])


@pytest.mark.parametrize("law", ["five", *(pytest.param(law, marks=pytest.mark.slow) for law in ("uniform", "one"))])
def test_bits_of_a_categorical_law(law: str):
    """Pitfall 8: bits/dim ≥ the entropy in base 2, and the excess vanishes with more steps."""
    levels, p = {
        "uniform": (np.linspace(0, 255, 16), np.full(16, 1 / 16)),
        "five": (np.array([0, 1, 2, 128, 255]), np.array([0.4, 0.3, 0.2, 0.09, 0.01])),
        "one": (np.array([100]), np.ones(1)),
    }[law]
    entropy = scipy.stats.entropy(p, base=2)
    bits = [_expected_bits(n, levels, p) for n in (40, 80, 160, 320)]
    assert bits[0] > bits[1] > bits[2] > bits[3] > entropy or law == "one"
    assert _limit(bits) == pytest.approx(entropy, abs=1e-3)


def test_uniform_levels_are_eight_bits():
    """Pitfall 8: all 256 levels alike cost 8.000 bits/dim in the limit of many steps, channels counted alike."""
    levels, p = np.arange(256), np.full(256, 1 / 256)
    bits = [_expected_bits(n, levels, p, mirrored=True) for n in (40, 80, 160, 320)]
    assert bits[0] > bits[1] > bits[2] > bits[3] > 8.0
    assert _limit(bits) == pytest.approx(8.0, abs=1e-3)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (7,)])
def test_terms_are_per_dimension(shape: tuple[int, ...]):
    """An example of D equal dimensions has the bits/dim of one, channels counted, in every term."""
    one = jnp.full((1,), 0.3)
    many = jnp.full(shape, 0.3)

    @jax.jit
    def terms(x):
        step = diffusion.reverse(_LINEAR, 0.9 * x, 0.7 * x, jnp.int32(50), prediction="x0")
        later = diffusion.l_vlb(_LINEAR, x, 0.7 * x, jnp.int32(50), step.mean, step.log_var)
        first = diffusion.l_vlb(_LINEAR, x, 0.7 * x, jnp.int32(0), step.mean, step.log_var)
        return jnp.stack([later, first, diffusion.l_prior(_LINEAR, x)])

    np.testing.assert_allclose(terms(many), terms(one), rtol=1e-4)


def test_terms_are_of_the_constrained_step():
    """Where x_0 is held to be 0, that is what the step believes in, and its mean is the posterior's of 0."""
    process = diffusion.make_process([0.1, 0.2, 0.3])
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6)), jnp.float32)
    keys = rng.numbered(rng.root(0), "test", 4)
    terms = functools.partial(diffusion.bound_terms, process, lambda x, t: x, constrain=jnp.zeros_like)
    found = jax.jit(terms)(x0, keys, jnp.array([2]))
    np.testing.assert_allclose(found["x0_mse"][:, 0], np.mean(np.asarray(x0) ** 2, axis=1), rtol=1e-6)
    gap = np.mean((process.posterior_coef_x0[2] * np.asarray(x0, np.float64)) ** 2, axis=1)  # Of the two means.
    ratio = process.posterior_variance[2] / process.betas[2]
    expected = 0.5 * (gap / process.betas[2] + ratio - 1 - np.log(ratio)) / np.log(2)
    np.testing.assert_allclose(found["vlb"][:, 0], expected, rtol=1e-5)
