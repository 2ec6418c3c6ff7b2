"""Guidance on Gaussians and quadratic classifiers, where every moved mean and every mixed score is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng
from gen_jax.contracts import UserError
from gen_jax.families import diffusion

_LINEAR = diffusion.make_process(diffusion.linear_betas(1000))
_T = 400


def _step(x: np.ndarray, std: float = 1.0) -> diffusion.Reverse:
    """The reverse step of N(0, s²) data at `_T`, a batch."""
    slope = _LINEAR.noise[_T] / (_LINEAR.signal[_T] ** 2 * std**2 + _LINEAR.noise[_T] ** 2)
    return jax.jit(jax.vmap(lambda x: diffusion.reverse(_LINEAR, slope * x, x, jnp.int32(_T))))(x)


def _apply(guide: diffusion.Guide, x: np.ndarray, step: diffusion.Reverse) -> diffusion.Reverse:
    return jax.jit(lambda x, step: guide.apply(_LINEAR, x, jnp.int32(_T), step))(x, step)


def _quadratic(mean: float, precision: float, x: jax.Array, time: jax.Array) -> jax.Array:
    return -0.5 * precision * jnp.sum((x - mean) ** 2, axis=-1)


def test_quadratic_classifier():
    """Pitfall 4: with log p(y|x) = −½ c (x − m)², N(μ, Σ) p(y|x) is Gaussian with mean (μ + Σ c m) / (1 + Σ c).

    The derived guide is within (Σ c)² of it. The published one is μ − s Σ c (x_t − m), which is off by Σ c (x_t − μ)
    more, and no order of Σ nearer where x_t is far from μ.
    """
    mean, precision = 0.6, 2.0
    log_prob = functools.partial(_quadratic, mean, precision)
    with jax.enable_x64(True):
        x = np.array([[-1.5], [0.2], [2.0]])
        step = _step(x)
        derived = _apply(diffusion.shift_mean(log_prob, at_point="mean"), x, step)
        published = _apply(diffusion.shift_mean(log_prob), x, step)
        mu, sigma = np.asarray(step.mean), np.exp(np.asarray(step.log_var))
    exact = (mu + sigma * precision * mean) / (1 + sigma * precision)
    derived_mean, published_mean = np.asarray(derived.mean), np.asarray(published.mean)
    surplus = (sigma * precision) ** 2 * (mean - mu) / (1 + sigma * precision)
    np.testing.assert_allclose(derived_mean - exact, surplus, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(published_mean, mu - sigma * precision * (x - mean), rtol=1e-10)
    np.testing.assert_allclose(published_mean - derived_mean, -sigma * precision * (x - mu), rtol=1e-8)
    assert (np.abs(published_mean - derived_mean) > 1e-6).all()
    for guided in (derived, published):  # Only the mean moves.
        np.testing.assert_array_equal(guided.log_var, step.log_var)
        np.testing.assert_array_equal(guided.x0, step.x0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_logistic_classifier(scale: float):
    """D13: p(y|x) = σ(a x) moves the mean by s Σ a (1 − σ(a x)), at x_t as published or at the mean as derived."""
    a = 1.7
    log_prob = lambda x, time: jax.nn.log_sigmoid(a * x[:, 0])  # noqa: E731
    with jax.enable_x64(True):
        x = np.array([[-1.5], [0.2], [2.0]])
        step = _step(x)
        sigma = np.exp(np.asarray(step.log_var))
        for point, at_x in {"x_t": x, "mean": np.asarray(step.mean)}.items():
            guide = diffusion.shift_mean(log_prob, scale, at_point=point)
            moved = np.asarray(_apply(guide, x, step).mean) - np.asarray(step.mean)
            np.testing.assert_allclose(moved, scale * sigma * a * (1 - 1 / (1 + np.exp(-a * at_x))), atol=1e-14)


def test_what_the_classifier_is_told():
    """The published gradient is at the step's own time; the derived one at the step before, and at the first's last."""
    process = diffusion.space(_LINEAR, [3, 50, 700])
    told = []

    def log_prob(x, time):
        told.append(np.asarray(time))
        return jnp.sum(x, axis=-1)

    x = jnp.zeros((2, 1))
    step = jax.jit(jax.vmap(lambda x: diffusion.reverse(process, x, x, jnp.int32(1))))(x)
    for i in (2, 1, 0):
        diffusion.shift_mean(log_prob).apply(process, x, jnp.int32(i), step)
        diffusion.shift_mean(log_prob, at_point="mean").apply(process, x, jnp.int32(i), step)
        diffusion.shift_epsilon(log_prob).apply(process, x, jnp.int32(i), step)
    np.testing.assert_array_equal(np.stack(told)[:, 0], [700, 50, 700, 50, 3, 50, 3, 3, 3])


def test_shifted_epsilon_is_the_score_of_the_product():
    """Algorithm 2 with p(y|x_t) of Gaussian data: ε becomes the best one of the data given y.

    x_0 ~ N(0, 1), y = x_0 + N(0, r): p(y | x_t) = N(y; √ᾱ x_t, (1 − ᾱ) + r), and x_0 | y ~ N(y / (1 + r), r / (1 + r)).
    """
    y, r = 0.8, 0.5
    signal, noise = _LINEAR.signal[_T], _LINEAR.noise[_T]
    x = np.array([[-1.0], [0.4]])
    log_prob = lambda x, time: -0.5 * (y - signal * x[:, 0]) ** 2 / (noise**2 + r)  # noqa: E731
    with jax.enable_x64(True):
        step = jax.tree.map(np.asarray, _apply(diffusion.shift_epsilon(log_prob), x, _step(x)))
        mean, variance = y / (1 + r), r / (1 + r)
        expected = noise * (x - signal * mean) / (signal**2 * variance + noise**2)
        np.testing.assert_allclose(step.epsilon, expected, rtol=1e-10)
        np.testing.assert_allclose(signal * step.x0 + noise * step.epsilon, x, rtol=1e-10)
        posterior = jax.jit(lambda x0: diffusion.q_posterior(_LINEAR, x0, x, jnp.int32(_T)))(step.x0)[0]
        np.testing.assert_allclose(step.mean, posterior, rtol=1e-10)


def test_guided_samples_are_of_the_conditional_law():
    """The same classifier at every step: samples have the mean and the width of x_0 | y, whatever the sampler."""
    y, r = 0.8, 0.5
    process = diffusion.space(_LINEAR, diffusion.spaced_steps(_LINEAR, 200, "even"))

    def table(a, x, time):
        return jnp.asarray(a, x.dtype)[time][:, None]

    def predict(x, time):
        return table(_LINEAR.noise, x, time) * x

    def log_prob(x, time):
        signal, noise = table(_LINEAR.signal, x, time), table(_LINEAR.noise, x, time)
        return jnp.sum(-0.5 * (y - signal * x) ** 2 / (noise**2 + r), axis=-1)

    keys = rng.per_example(rng.root(0), jnp.arange(4000))
    samplers = {
        "ddim": diffusion.ddim(process, predict, guide=diffusion.shift_epsilon(log_prob)),
        "dpm": diffusion.dpm_solver(process, predict, guide=diffusion.shift_epsilon(log_prob)),
        "published": diffusion.ancestral(process, predict, guide=diffusion.shift_mean(log_prob)),
        "derived": diffusion.ancestral(process, predict, guide=diffusion.shift_mean(log_prob, at_point="mean")),
    }
    for name, sampler in samplers.items():
        samples = jax.jit(lambda k, s=sampler: diffusion.sample(s, k, (1,)))(keys)
        assert float(samples.mean()) == pytest.approx(y / (1 + r), abs=0.04), name
        assert float(samples.std()) == pytest.approx(np.sqrt(r / (1 + r)), abs=0.04), name


def test_guides_that_move_the_mean_are_for_ancestral_sampling_only():
    guide = diffusion.shift_mean(lambda x, time: x[:, 0])
    for make in (diffusion.ddim, diffusion.dpm_solver):
        with pytest.raises(ValueError, match="moves epsilon"):
            make(_LINEAR, lambda x, time: x, guide=guide)
    with pytest.raises(ValueError, match="'x0' is unknown"):
        diffusion.shift_mean(lambda x, time: x[:, 0], at_point="x0")


@pytest.mark.parametrize("snr", [0.01, 1.0, 100.0])
def test_classifier_free_score_of_gaussians(snr: float):
    """D12: (1 + w) s_c − w s_u is the score of a Gaussian of precision (1 + w) / σ_c² − w / σ_u², at every level."""
    w, mean_c, std_c, std_u = 1.0, 1.0, 0.5, 1.0
    with jax.enable_x64(True):
        signal, noise = (float(a) for a in diffusion.signal_and_noise(jnp.log(snr)))
        x = np.linspace(-3, 3, 7)
        variances = [signal**2 * s**2 + noise**2 for s in (std_c, std_u)]
        scores = -(x - signal * mean_c) / variances[0], -x / variances[1]
        epsilons = [-noise * jnp.asarray(s) for s in scores]
        mixed = diffusion.combine(*epsilons, w, "weight")
        precision = (1 + w) / variances[0] - w / variances[1]
        mean = (1 + w) * signal * mean_c / (variances[0] * precision)
        np.testing.assert_allclose(-mixed / noise, -(x - mean) * precision, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(diffusion.combine(*epsilons, 1 + w, "scale"), mixed, rtol=1e-10, atol=1e-12)


def test_classifier_free_score_without_noise():
    """D12: precision 7 and mean 1.142857 for μ_c = 1, σ_c = ½, σ_u = 1, w = 1."""
    with jax.enable_x64(True):
        score = lambda x: diffusion.combine(-(x - 1) / 0.25, -x, 1.0, "weight")  # noqa: E731
        assert float(jax.grad(score)(0.3)) == pytest.approx(-7.0, abs=1e-12)
        assert float(score(jnp.array(8 / 7))) == pytest.approx(0.0, abs=1e-12)
        assert pytest.approx(1.142857, abs=5e-7) == 8 / 7


def _labelled(x, time, label):
    """A network whose output depends on its label and, by the last bits, on nothing else of the batch."""
    return x * jnp.sin(1.0 + label.astype(x.dtype))[:, None] + 0.1 * time[:, None].astype(x.dtype)


@pytest.mark.parametrize(("convention", "conditional", "unconditional"), [("scale", 1.0, 0.0), ("weight", 0.0, -1.0)])
def test_ends_of_classifier_free_guidance(convention: str, conditional: float, unconditional: float):
    """Pitfall 4: at its two ends the guided network is the conditional or the unconditional one, bit for bit."""
    x = jax.random.normal(rng.root(0), (5, 3))
    time, label = jnp.full(5, 17), jnp.array([0, 1, 2, 3, 4])
    null = jnp.full(5, 10)
    guided = lambda s: diffusion.classifier_free(_labelled, label, 10, s, convention=convention)(x, time)  # noqa: E731
    np.testing.assert_array_equal(guided(conditional), _labelled(x, time, label))
    np.testing.assert_array_equal(guided(unconditional), _labelled(x, time, null))
    both = _labelled(x, time, label), _labelled(x, time, null)
    mixed = jax.jit(lambda s: diffusion.combine(*both, s, convention))
    np.testing.assert_array_equal(mixed(conditional), both[0])
    np.testing.assert_array_equal(mixed(unconditional), both[1])
    strength = {"scale": 4.0, "weight": 3.0}[convention]
    np.testing.assert_allclose(guided(strength), both[1] + 4 * (both[0] - both[1]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mixed(strength), guided(strength), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'s' is unknown"):
        diffusion.classifier_free(_labelled, label, 10, 1.0, convention="s")
    with pytest.raises(ValueError, match="'s' is unknown"):
        diffusion.combine(*both, 1.0, "s")


@pytest.mark.parametrize(("strength", "labels"), [(1.0, [3, 4]), (0.0, [10, 10]), (2.0, [3, 4, 10, 10])])
def test_the_unconditional_half_sees_no_label(strength: float, labels: list[int]):
    """Pitfall 4: a spy sees the labels for one half and the null label for the other, the same x and time for both."""
    seen = []

    def spy(x, time, label):
        seen.append((np.asarray(x), np.asarray(time), np.asarray(label)))
        return _labelled(x, time, label)

    x, time = jnp.array([[1.0], [2.0]]), jnp.array([7, 8])
    diffusion.classifier_free(spy, jnp.array([3, 4]), 10, strength)(x, time)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0][2], labels)
    copies = len(labels) // 2
    np.testing.assert_array_equal(seen[0][0], np.tile(x, (copies, 1)))
    np.testing.assert_array_equal(seen[0][1], np.tile(time, copies))


def test_learned_variance_is_not_mixed():
    """Only the mean's half is guided; the variance is the conditional network's."""

    def predict(x, time, label):
        return jnp.concatenate([_labelled(x, time, label)] * 2, axis=-1)

    x, time, label = jnp.ones((2, 3)), jnp.array([1, 1]), jnp.array([0, 1])
    output = diffusion.classifier_free(predict, label, 9, 3.0, learned_variance=True)(x, time)
    plain = diffusion.classifier_free(_labelled, label, 9, 3.0)(x, time)
    np.testing.assert_array_equal(output[:, :3], plain)
    np.testing.assert_array_equal(output[:, 3:], _labelled(x, time, label))


def test_label_dropout():
    """A share of the labels, by each example's own key, becomes the null label; the others stay."""
    keys = rng.per_example(rng.root(0), jnp.arange(10_000))
    label = jnp.arange(10_000) % 7
    dropped = jax.jit(jax.vmap(lambda k, y: diffusion.drop_labels(k, y, 7, 0.1)))(keys, label)
    share = float((dropped == 7).mean())
    assert share == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 10_000))
    np.testing.assert_array_equal(np.where(dropped == 7, label, dropped), label)
    for rate, expected in ((0.0, label), (1.0, np.full(10_000, 7))):
        keys = rng.per_example(rng.root(0), jnp.arange(10_000))
        result = jax.jit(jax.vmap(lambda k, y, r=rate: diffusion.drop_labels(k, y, 7, r)))(keys, label)
        np.testing.assert_array_equal(result, expected)


def test_labels_that_are_not_there():
    diffusion.check_labels([0, 9], 10)
    diffusion.check_labels([], 0)
    with pytest.raises(UserError, match="no class 10; the labels go from 0 to 9"):
        diffusion.check_labels([3, 10], 10)
    with pytest.raises(UserError, match="no class -1"):
        diffusion.check_labels([-1], 10)
    with pytest.raises(UserError, match="without labels"):
        diffusion.check_labels([1], 0)
