"""The evaluation: strata, both bounds against sums in numpy, the flow against a density, and the best prediction."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.contracts import Array, Key
from gen_jax.families import diffusion
from gen_jax.families.diffusion import evaluation, strata
from gen_jax.families.diffusion.exact import best_epsilon
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.ops import pixels

KEY = rng.root(11)
TWENTY = diffusion.make_process(diffusion.linear_betas(20, 1e-3, 0.3))
HUNDRED = diffusion.make_process(diffusion.rescaled_linear_betas(100))
THOUSAND = diffusion.make_process(diffusion.linear_betas(1000))
STD = 0.3

image_values = jax.jit(evaluation.image_values, static_argnames="diffusion")
likelihood_values = jax.jit(evaluation.likelihood_values, static_argnames=("diffusion", "chunk_size", "flow_steps"))
flow_bits = jax.jit(evaluation.flow_bits, static_argnames=("diffusion", "num_steps"))


class Table(nn.Module):
    """The entry of a table at the step or at the label, whatever x_t is."""

    by: str = "time"

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, *, dropout_keys: Key | None = None) -> Array:
        table = self.param("table", nn.initializers.normal(), (20,))
        chosen = table[time if self.by == "time" else label]
        return jnp.broadcast_to(chosen.reshape(-1, *[1] * (x.ndim - 1)), x.shape)


class Scaled(nn.Module):
    """w x_t with a number for each step; with more halves than one, nothing behind it."""

    num_steps: int
    halves: int = 1

    @nn.compact
    def __call__(self, x: Array, time: Array, *, dropout_keys: Key | None = None) -> Array:
        weight = self.param("weight", nn.initializers.normal(), (self.num_steps,))
        # The flow tells floating-point times, here those of the steps.
        weight = weight[jnp.round(time).astype(jnp.int32)].reshape(-1, *[1] * (x.ndim - 1))
        return jnp.concatenate([weight * x, *[jnp.zeros_like(x)] * (self.halves - 1)], axis=-1)


class Best(nn.Module):
    """The best prediction of ε for a mixture, times a parameter."""

    centres: tuple[tuple[float, float], ...]
    std: float

    @nn.compact
    def __call__(self, x: Array, time: Array, *, dropout_keys: Key | None = None) -> Array:
        scale = self.param("scale", nn.initializers.ones_init(), (1,))
        signal, noise = (jnp.asarray(a, x.dtype)[time] for a in (THOUSAND.signal, THOUSAND.noise))
        best = functools.partial(best_epsilon, centres=np.array(self.centres), std=self.std)
        return scale[None] * jax.vmap(best)(x, signal, noise)


def images(count: int) -> dict[str, Any]:
    """Images of levels that are N(0, 0.3²) but for their rounding, with labels 0 … 4."""
    x = STD * np.random.default_rng(0).standard_normal((count, 4, 4, 1))
    levels = np.clip(np.round(127.5 * (x + 1)), 0, 255).astype(np.uint8)
    index = np.arange(count)
    return {"image": jnp.asarray(levels), "index": jnp.asarray(index), "label": jnp.asarray(index % 5)}


def ring() -> np.ndarray:
    angles = np.arange(8) * np.pi / 4
    return 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def best_for_gaussian(process: diffusion.Process) -> dict[str, Array]:
    """The parameters of `Scaled` with which it predicts best on N(0, 0.3²)."""
    weight = process.noise / (process.alphas_bar * STD**2 + process.noise**2)
    return {"weight": jnp.asarray(weight, jnp.float32)}


def test_best_prediction_is_the_posterior_mean():
    """(x_t − √ᾱ E[x_0 | x_t]) / √(1 − ᾱ), with the mean as a sum over a fine grid of all x_0."""
    centres, std = np.array([[1.0, 0.0], [-0.5, 1.0], [0.2, -0.3]]), 0.2
    side = np.linspace(-3, 3, 601)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    prior = sum(np.exp(-0.5 * ((grid - c) ** 2).sum(1) / std**2) for c in centres)
    for alpha_bar in (0.999, 0.7, 0.2, 0.001):
        signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        for x_t in np.array([[0.3, 0.2], [-1.0, 0.5], [2.0, 2.0]]):
            log_weight = -0.5 * ((x_t - signal * grid) ** 2).sum(1) / noise**2
            weight = prior * np.exp(log_weight - log_weight.max())
            expected = (x_t - signal * (weight @ grid) / weight.sum()) / noise
            with jax.enable_x64(True):
                found = best_epsilon(*(jnp.asarray(a) for a in (x_t, signal, noise)), centres, std)
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_best_prediction_of_one_gaussian():
    """√(1 − ᾱ) (x_t − √ᾱ c) / (ᾱ σ² + 1 − ᾱ), and in float32 as near to the data as a process comes."""
    x_t, centre = np.array([0.7, -1.2]), np.array([[2.0, 0.5]])
    for std in (0.0, 0.02, 1.5):
        for signal, noise in zip(THOUSAND.signal[::333], THOUSAND.noise[::333], strict=True):
            found = best_epsilon(*(jnp.asarray(a, jnp.float32) for a in (x_t, signal, noise)), centre, std)
            expected = noise * (x_t - signal * centre[0]) / (signal**2 * std**2 + noise**2)
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_best_prediction_of_two_points():
    """For ±1 the mean is tanh(√ᾱ x_t / (1 − ᾱ)), and the best loss over the 1000 steps is 0.121457."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(160)
    centres = np.array([[-1.0], [1.0]])
    with jax.enable_x64(True):
        signal, noise = jnp.asarray(THOUSAND.signal)[:, None], jnp.asarray(THOUSAND.noise)[:, None]
        x_t = signal + noise * jnp.asarray(nodes)[None]  # Of x_0 = 1; that of −1 mirrors it.
        of_steps = jax.vmap(jax.vmap(lambda x, s, n: best_epsilon(x[None], s, n, centres, 0.0)[0], (0, None, None)))
        found = np.asarray(of_steps(x_t, signal[:, 0], noise[:, 0]))
        x_t, signal, noise = (np.asarray(a) for a in (x_t, signal, noise))
    expected = (x_t - signal * np.tanh(signal * x_t / noise**2)) / noise
    np.testing.assert_allclose(found, expected, atol=1e-9)
    losses = (found - nodes[None]) ** 2 @ weights / weights.sum()
    assert losses.mean() == pytest.approx(0.121457, abs=2e-6)


def test_best_loss_on_the_ring_by_quadrature():
    """1 − E ε*² = 0.18369 a dimension, over the two coordinates of x_t about one mode; the others are alike."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    weight = np.outer(weights, weights).ravel() / weights.sum() ** 2

    def square(signal: Array, noise: Array) -> Array:
        x_t = signal * jnp.asarray(ring()[:1]) + jnp.sqrt(signal**2 * 0.02**2 + noise**2) * jnp.asarray(z)
        best = jax.vmap(lambda x: best_epsilon(x, signal, noise, ring(), 0.02))(x_t)
        return jnp.asarray(weight) @ jnp.mean(best**2, axis=-1)

    with jax.enable_x64(True):
        of_steps = jax.jit(lambda *tables: jax.lax.map(lambda entry: square(*entry), tables))
        squares = np.asarray(of_steps(THOUSAND.signal, THOUSAND.noise))
    assert 1 - np.mean(squares) == pytest.approx(0.18369, abs=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 16, 17, 1000, 4000])
def test_strata_cover_every_step_once(num_steps: int):
    """Doubling ranges: 1, 1, 2, 4, 8, … and what is left; even ones differ by one step at most."""
    edges = strata.doubling_strata(num_steps)
    widths = np.diff(edges)
    assert edges[0] == 0 and edges[-1] == num_steps and (widths > 0).all()
    np.testing.assert_array_equal(widths[:-1], [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024][: len(widths) - 1])
    assert widths[-1] <= max(1, num_steps / 2)
    for count in {1, min(3, num_steps), num_steps}:
        edges = strata.even_strata(num_steps, count)
        assert edges[0] == 0 and edges[-1] == num_steps and np.ptp(np.diff(edges)) <= 1 and len(edges) == count + 1


def test_draws_stay_in_their_strata():
    """One of each range, all steps of a range alike."""
    edges = strata.doubling_strata(20)
    draw = jax.jit(jax.vmap(lambda key: strata.draw_in_strata(key, edges)))
    t = np.asarray(draw(rng.per_example(KEY, np.arange(8000))))
    assert t.dtype == np.int32 and (t >= edges[:-1]).all() and (t < edges[1:]).all()
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        counts = np.bincount(t[:, i] - low, minlength=high - low)
        assert high - low == 1 or scipy.stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(t[:, -1], t[:, -2])[0, 1]) < 4 / np.sqrt(8000)


def test_a_sum_over_strata_is_unbiased():
    """Over all draws it is the sum of all steps: by listing them, and by many keys within 4 standard errors.

    Its variance is Σ_s n_s² Var f(t_s), where that of one step of all is far larger.
    """
    edges = strata.doubling_strata(20)
    f = np.exp(-0.3 * np.arange(20)) + 0.1 * np.cos(np.arange(20))
    parts, widths = [f[low:high] for low, high in itertools.pairwise(edges)], np.diff(edges)
    every = np.array(list(itertools.product(*parts)))
    with jax.enable_x64(True):
        sums = np.asarray(strata.stratified_sum(jnp.asarray(every), widths))
        means = np.asarray(strata.stratified_sum(jnp.asarray(every), widths / 20))
    assert sums.mean() == pytest.approx(f.sum(), rel=1e-12) and means.mean() == pytest.approx(f.mean(), rel=1e-12)
    variance = sum(width**2 * part.var() for width, part in zip(widths, parts, strict=True))
    assert sums.var() == pytest.approx(variance, rel=1e-9)
    assert 10 * variance < 400 * f.var()
    t = jax.jit(jax.vmap(lambda key: strata.draw_in_strata(key, edges)))(rng.per_example(KEY, np.arange(4000)))
    drawn = np.asarray(strata.stratified_sum(jnp.asarray(f, jnp.float32)[t], widths), np.float64)
    assert abs(drawn.mean() - f.sum()) < 4 * np.sqrt(variance / 4000)


def _bound_of_table(x0: np.ndarray, table: np.ndarray) -> np.ndarray:
    """[B, T] bits/dim: the terms for x̂_0 = the table's entry, cut to [−1, 1], with β as variance. No noise is in them.

    KL = (√ᾱ_{t−1} β / (1 − ᾱ_t))² (x_0 − x̂_0)² / 2β + ½ (β̃/β − 1 − log β̃/β)
    """
    beta, alphas_bar, x0 = TWENTY.betas, TWENTY.alphas_bar, x0.reshape(len(x0), -1)
    prev = np.append(1.0, alphas_bar[:-1])
    guess = np.clip(table, -1, 1)
    squared = ((x0[:, :, None] - guess) ** 2).mean(1)
    ratio = (1 - prev[1:]) / (1 - alphas_bar[1:])
    terms = np.empty((len(x0), 20))
    terms[:, 1:] = (prev * beta / (1 - alphas_bar) ** 2)[1:] * squared[:, 1:] / 2 + 0.5 * (ratio - 1 - np.log(ratio))
    law = scipy.stats.norm(guess[0], np.sqrt(beta[0]))
    terms[:, 0] = -np.log(law.cdf(x0 + 1 / 255) - law.cdf(x0 - 1 / 255)).mean(1)
    return terms / np.log(2)


def test_bounds_of_a_network_that_sees_no_noise():
    """Where every term is a number the whole bound is their sum, and the estimate's mean is too, within 4 errors."""
    model = Diffusion(TWENTY, Table(), prediction="x0", variance="beta")
    table = np.linspace(0.1, -0.4, 20)
    table[7] = 1.7  # Cut for the bound, and not for L_simple.
    params = {"table": jnp.asarray(table, jnp.float32)}
    image = np.random.default_rng(1).integers(125, 158, (1, 2, 2, 1))
    batch = {"image": jnp.asarray(np.tile(image, (4000, 1, 1, 1)), jnp.uint8), "index": jnp.arange(4000)}
    x0 = image / 127.5 - 1
    terms = _bound_of_table(x0, table)[0]
    simple = ((x0.reshape(-1, 1) - table) ** 2).mean(0)
    end = TWENTY.alphas_bar[-1]
    prior = 0.5 * (end * (x0**2).mean() - end - np.log(1 - end)) / np.log(2)

    few = jax.tree.map(lambda a: a[:3], batch)
    whole = likelihood_values(params, KEY, few, diffusion=model, chunk_size=7, flow_steps=0)
    for name, expected in {
        "vlb": terms.sum(), "decoder": terms[0], "prior": prior, "simple": simple.mean()
    }.items():  # fmt: skip
        np.testing.assert_allclose(whole[name], expected, rtol=2e-5, err_msg=name)
    estimate = {k: np.asarray(v, np.float64) for k, v in image_values(params, KEY, batch, diffusion=model).items()}
    np.testing.assert_allclose(estimate["prior"], prior, rtol=2e-5)
    for name, expected in {"vlb": terms.sum(), "simple": simple.mean()}.items():
        error = estimate[name].std() / np.sqrt(4000)
        assert 0 < error < 0.02 * expected
        assert abs(estimate[name].mean() - expected) < 4 * error
    # Of the first three strata the steps are known: what is left of an estimate is one of four, eight and four numbers.
    rests = estimate["vlb"] - terms[:2].sum()
    ends = (terms[[2, 3], None, None] * 2 + terms[4:8, None] * 4)[..., None] + terms[8:16, None] * 8
    possible = (ends + 4 * terms[16:]).ravel()
    assert np.abs(rests[:100, None] - possible[None]).min(axis=1).max() < 1e-4 * possible.max()


def test_estimate_of_a_network_that_sees_noise():
    """The estimate and the whole bound have the same mean, and L_simple's is known: (1 − w √(1 − ᾱ))² + w² ᾱ x_0²."""
    model = Diffusion(TWENTY, Scaled(20))
    params = best_for_gaussian(TWENTY)
    batch = jax.tree.map(lambda a: jnp.tile(a[:1], (4000, *[1] * (a.ndim - 1))), images(1))
    batch["index"] = jnp.arange(4000)
    few = jax.tree.map(lambda a: a[:1000], batch)
    estimate = image_values(params, KEY, batch, diffusion=model)
    whole = likelihood_values(params, KEY, few, diffusion=model, chunk_size=5, flow_steps=0)
    weight = np.asarray(params["weight"], np.float64)
    square = float((pixels.examples_of(few)[0] ** 2).mean())
    expected = ((1 - weight * TWENTY.noise) ** 2 + weight**2 * TWENTY.alphas_bar * square).mean()
    for name in ("simple", "vlb"):
        mean = np.array([np.mean(values[name]) for values in (estimate, whole)])
        error = np.array([np.std(values[name]) / np.sqrt(len(values[name])) for values in (estimate, whole)])
        assert abs(mean[0] - mean[1]) < 4 * np.hypot(*error) < 0.05 * mean[1]
        if name == "simple":
            assert (np.abs(mean - expected) < 4 * error).all()


def _expected_bound(x0: np.ndarray, weight: np.ndarray, first_variance: float) -> np.ndarray:
    """[...] bits of each number: the mean over x_t of the bound of `Scaled` on a hundred steps, β as variance."""
    beta, alphas_bar, x0 = HUNDRED.betas, HUNDRED.alphas_bar, x0[..., None]
    prev, noise = np.append(1.0, alphas_bar[:-1]), np.sqrt(1 - alphas_bar)
    error = (1 - weight * noise) ** 2 + weight**2 * alphas_bar * x0**2  # Of ε, its mean.
    ratio = (1 - prev[1:]) / (1 - alphas_bar[1:])
    later = (beta / (2 * (1 - beta) * noise**2) * error)[..., 1:] + 0.5 * (ratio - 1 - np.log(ratio))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x_1 = np.sqrt(alphas_bar[0]) * x0 + noise[0] * nodes
    mean = (1 - noise[0] * weight[0]) * x_1 / np.sqrt(alphas_bar[0])
    law, side = scipy.stats.norm(0, np.sqrt(first_variance)), -np.abs(x0 - mean)  # In the tail with the digits.
    first = -np.log(law.cdf(side + 1 / 255) - law.cdf(side - 1 / 255)) @ weights / weights.sum()
    end = alphas_bar[-1]
    prior = 0.5 * (end * x0[..., 0] ** 2 - end - np.log(1 - end))
    return (first + later.sum(-1) + prior) / np.log(2)


def test_code_lengths_of_gaussian_levels():
    """With the best predictor: the flow's is that of the density, and the bound is above −log₂ p and near it.

    The bound's mean over x_t is known; it is above −log₂ p by what it costs that the steps are only a hundred,
    and with "fixed_large" by what its first variance costs too.
    """
    batch, params = images(1000), best_for_gaussian(HUNDRED)
    x0 = np.asarray(pixels.examples_of(batch), np.float64)
    law = scipy.stats.norm(0, STD)
    bits = -np.log2(law.cdf(x0 + 1 / 255) - law.cdf(x0 - 1 / 255)).mean(axis=(1, 2, 3))
    weight = np.asarray(params["weight"], np.float64)
    gaps = []
    for variance, first in (("beta", HUNDRED.betas[0]), ("fixed_large", HUNDRED.posterior_variance[1])):
        model = Diffusion(HUNDRED, Scaled(100), variance=variance)
        values = likelihood_values(params, KEY, batch, diffusion=model, chunk_size=20, flow_steps=0)
        found = np.asarray(values["vlb"] + values["prior"], np.float64)
        expected = _expected_bound(x0, weight, first).mean(axis=(1, 2, 3))
        error = (found - expected).std(ddof=1) / np.sqrt(1000)
        assert error < 0.015 and abs((found - expected).mean()) < 4 * error
        gaps.append((expected - bits).mean())
        assert gaps[-1] > 0 and (found - bits).mean() > 0
    assert gaps[0] < 0.06 and gaps[1] > gaps[0] + 0.02
    lengths = flow_bits(params, KEY, batch, diffusion=model, num_steps=99)
    # Its points are spread over the levels' bins, and their law is blurred by the first step's noise.
    assert abs(np.mean(lengths) - bits.mean()) < 0.02


def test_flow_is_the_density_of_the_dequantised_image():
    """−log₂ N(x; 0, σ² + (1 − ᾱ_0) / ᾱ_0) − 1 + 8 for the very x = 2 (v + u) / 256 − 1 that it drew.

    A diagonal Jacobian has no error of the probes; Heun's method between 200 of the levels is right to 1e-3 bits.
    Neither a learned variance nor the best prediction of x_0 in the place of ε's changes anything.
    """
    batch, params = images(6), best_for_gaussian(THOUSAND)
    keys = rng.per_example(rng.stream(rng.stream(KEY, "eval"), "flow"), batch["index"])
    bits = jax.vmap(lambda k: jax.random.bits(rng.stream(k, "dequantize"), (4, 4, 1), jnp.uint16))(keys)
    x = 2 * (np.asarray(batch["image"], np.float64) + np.asarray(bits) / 65536) / 256 - 1
    law = scipy.stats.norm(0, np.sqrt(STD**2 + 1 / THOUSAND.snr[0]))
    expected = -law.logpdf(x).mean(axis=(1, 2, 3)) / np.log(2) - 1 + 8
    found = flow_bits(params, KEY, batch, diffusion=Diffusion(THOUSAND, Scaled(1000)), num_steps=200)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    learned = Diffusion(THOUSAND, Scaled(1000, halves=2), variance="learned")
    np.testing.assert_allclose(flow_bits(params, KEY, batch, diffusion=learned, num_steps=200), found, atol=1e-5)
    of_x0 = {"weight": params["weight"] * jnp.asarray(STD**2 * THOUSAND.signal / THOUSAND.noise, jnp.float32)}
    model = Diffusion(THOUSAND, Scaled(1000), prediction="x0")
    np.testing.assert_allclose(flow_bits(of_x0, KEY, batch, diffusion=model, num_steps=200), expected, atol=1e-3)


def test_levels_of_the_flow():
    """Both ends are kept, the levels fall, all are the process's own, and they are near even distances."""
    levels = np.log(THOUSAND.snr)
    for num_steps in (1, 10, 100, 5000):
        found = evaluation.flow_levels(THOUSAND, num_steps)
        assert found[0] == levels[0] and found[-1] == levels[-1] and np.isin(found, levels).all()
        assert (np.diff(found) < 0).all() and len(found) <= num_steps + 1
    np.testing.assert_array_equal(found, levels)
    ten = evaluation.flow_levels(THOUSAND, 10)
    np.testing.assert_allclose(ten, np.linspace(levels[0], levels[-1], 11), atol=0.3)


def test_labels_stay_with_their_examples():
    """Every step of an image is told that image's label."""
    model = Diffusion(TWENTY, Table(by="label"), prediction="x0", num_classes=5)
    batch = images(7)
    params = {"table": jnp.linspace(-0.5, 0.9, 20)}
    predicted = params["table"][batch["label"]][:, None, None, None]
    expected = ((pixels.examples_of(batch) - predicted) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(image_values(params, KEY, batch, diffusion=model)["simple"], expected, rtol=1e-5)
    values = likelihood_values(params, KEY, batch, diffusion=model, chunk_size=3, flow_steps=0)
    np.testing.assert_allclose(values["simple"], expected, rtol=1e-5)
    # Images that are alike but for the label have the flow's length in common with those of the same label alone.
    batch = jax.tree.map(lambda a: jnp.repeat(a[:1], 4, axis=0), batch) | {"label": jnp.array([0, 3, 0, 3])}
    found = np.asarray(flow_bits(params, KEY, batch, diffusion=model, num_steps=4))
    assert found[0] == found[2] and found[1] == found[3] and found[0] != found[1]


def test_values_depend_on_the_index_alone():
    """Images in another order have the values that they had."""
    model, batch, params = Diffusion(TWENTY, Scaled(20)), images(8), best_for_gaussian(TWENTY)
    order = np.random.default_rng(3).permutation(8)
    some = jax.tree.map(lambda a: a[order], batch)
    whole = likelihood_values(params, KEY, batch, diffusion=model, chunk_size=5, flow_steps=4)
    part = likelihood_values(params, KEY, some, diffusion=model, chunk_size=5, flow_steps=4)
    for name, values in whole.items():
        np.testing.assert_allclose(part[name], values[order], rtol=2e-5, err_msg=name)
    whole, part = (image_values(params, KEY, b, diffusion=model) for b in (batch, some))
    for name, values in whole.items():
        np.testing.assert_allclose(part[name], values[order], rtol=2e-5, err_msg=name)


def test_report_of_images():
    """The bound is all of it; the rate is what is not L_0."""
    means = {"simple": np.float32(0.5), "vlb": np.float32(3.0), "prior": np.float32(0.25)}
    short = {"l_simple": 0.5, "bits_per_dim": 3.25, "prior_bits_per_dim": 0.25}
    assert evaluation.image_report(means) == short
    means |= {"decoder": np.float32(1.0), "flow": np.float32(2.0)}
    parts = {"distortion_bits_per_dim": 1.0, "rate_bits_per_dim": 2.25, "flow_bits_per_dim": 2.0}
    assert evaluation.image_report(means) == short | parts


# Runs for longer than it is compiled.
@functools.partial(
    jax.jit,
    static_argnames=("diffusion", "num_strata"),
    compiler_options={"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False},
)
def _ring_values(params: Any, batch: Any, *, diffusion: Diffusion, num_strata: int = 20) -> Any:
    return evaluation.point_values(
        params, KEY, batch, diffusion=diffusion, centres=ring(), std=0.02, num_strata=num_strata
    )


def _ring_points(count: int) -> dict[str, Any]:
    generator = np.random.default_rng(2)
    point = ring()[generator.integers(0, 8, count)] + 0.02 * generator.standard_normal((count, 2))
    return {"point": jnp.asarray(point, jnp.float32), "index": jnp.arange(count)}


def test_best_loss_on_the_ring():
    """It is that of the quadrature; the best network has it exactly, and 0.9 times it costs 0.01 E ε*² more."""
    model = Diffusion(THOUSAND, Best(tuple(map(tuple, ring().tolist())), 0.02))
    batch = _ring_points(160_000)
    parts = []
    for start in range(0, 160_000, 20_000):
        part = jax.tree.map(lambda a, start=start: a[start : start + 20_000], batch)
        parts.append(_ring_values({"scale": jnp.ones(1)}, part, diffusion=model))
    values = {name: np.concatenate([part[name] for part in parts]) for name in ("simple", "best")}
    error = values["best"].std() / np.sqrt(160_000)
    mean = values["best"].mean(dtype=np.float64)
    assert error < 3e-4
    assert abs(mean - 0.18369) < 4 * error
    np.testing.assert_array_equal(values["simple"], values["best"])
    report = evaluation.point_report({name: np.mean(value) for name, value in values.items()})
    assert report["above_best_percent"] == 0 and report["l_simple"] == report["best_l_simple"]
    # The error of the best prediction is at a right angle to it, but for chance.
    shrunk = _ring_values({"scale": jnp.full(1, 0.9)}, part, diffusion=model)
    extra = np.asarray(shrunk["simple"] - shrunk["best"], np.float64)
    assert abs(extra.mean() - 0.01 * (1 - 0.1837)) < 4 * extra.std() / np.sqrt(20_000) < 2e-3
    np.testing.assert_array_equal(shrunk["best"], parts[-1]["best"])


def test_point_values_depend_on_the_index_alone_and_on_strata():
    """Points out of order keep their values; one stratum is plain draws with the same mean, at a larger error."""
    model = Diffusion(THOUSAND, Best(tuple(map(tuple, ring().tolist())), 0.02))
    batch, params = _ring_points(4000), {"scale": jnp.full(1, 0.5)}
    order = np.array([17, 3, 900])
    many = _ring_values(params, batch, diffusion=model)
    some = _ring_values(params, jax.tree.map(lambda a: a[order], batch), diffusion=model)
    np.testing.assert_allclose(some["simple"], many["simple"][order], rtol=1e-5)
    one = _ring_values(params, batch, diffusion=model, num_strata=1)
    for name in ("simple", "best"):
        errors = [np.std(v[name]) / np.sqrt(4000) for v in (one, many)]
        assert errors[0] > 2 * errors[1]
        assert abs(np.mean(one[name]) - np.mean(many[name])) < 4 * np.hypot(*errors)


def test_report_of_points():
    report = evaluation.point_report({"simple": np.float32(0.5), "best": np.float32(0.4)})
    assert report["above_best_percent"] == pytest.approx(25, rel=1e-5)
    assert (report["l_simple"], report["best_l_simple"]) == (0.5, pytest.approx(0.4))
