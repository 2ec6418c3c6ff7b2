"""Volume rendering against closed forms: slabs, spheres, blobs, composition, and the inverse of a distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from gen_jax import rng
from gen_jax.ops import volume_rendering
from gen_jax.ops.volume_rendering import intervals, over, stratified_depths

# By itself each operation would be compiled alone, at every number of samples.
composite = jax.jit(volume_rendering.composite)
importance_depths = jax.jit(volume_rendering.importance_depths, static_argnums=3)
inverse_cdf = jax.jit(volume_rendering.inverse_cdf)
render_weights = jax.jit(volume_rendering.render_weights)
COLORS = np.random.default_rng(0).uniform(size=(64, 3)).astype(np.float32)


def left_edges(near, far, num):
    return np.linspace(near, far, num + 1, dtype=np.float32)[:-1]


def random_depths(seed, num, near=2.0, far=6.0):
    return jnp.asarray(np.sort(np.random.default_rng(seed).uniform(near, far, num)), jnp.float32)


@pytest.mark.parametrize("num", [1, 2, 7, 2048])
@pytest.mark.parametrize(
    ("sigma", "transmittance", "length"),
    [(0.1, 0.670320, 0.615519), (0.5, 0.135335, 1.187988), (1.0, 0.018316, 0.908422), (2.0, 0.000335, 0.498490)],
)
def test_a_uniform_slab_is_exact_for_any_number_of_samples(sigma, transmittance, length, num):
    t = left_edges(0.0, 4.0, num)
    seen = composite(np.ones((num, 1), np.float32), np.full(num, sigma, np.float32), t, far=4.0)
    np.testing.assert_allclose(1 - seen.opacity, transmittance, atol=1e-6)
    np.testing.assert_allclose(seen.color[0], 1 - transmittance, atol=1e-6)
    if num == 2048:  # ∫ T σ t dt: the weights' first moment, of the middles of the intervals to second order.
        np.testing.assert_allclose(seen.weights @ (t + 2.0 / num), length, atol=1e-5)
        exact, _ = integrate.quad(lambda s: np.exp(-sigma * s) * sigma * s, 0, 4)
        np.testing.assert_allclose(exact, length, atol=1e-6)


def test_a_homogeneous_sphere():
    def alpha(k, impact):  # k = σ R with R = 1
        half = np.sqrt(1 - impact**2)
        t = left_edges(-half, half, 16)
        return float(composite(np.ones((16, 1), np.float32), np.full(16, k, np.float32), t, far=half).opacity)

    np.testing.assert_allclose([alpha(1.0, 0.0), alpha(1.0, 0.5)], [0.864665, 0.823079], atol=1e-6)
    for k, mean in ((0.5, 0.471518), (1.0, 0.703003), (2.0, 0.886447), (5.0, 0.980010)):
        # The mean over the disc is ∫ 2 b α(b) db = ∫ 2 h α(h) dh, with half the chord h = √(1 − b²).
        nodes, parts = np.polynomial.legendre.leggauss(16)
        half = (nodes + 1) / 2
        np.testing.assert_allclose(parts @ [h * alpha(k, np.sqrt(1 - h**2)) for h in half], mean, atol=2e-6)


def test_a_gaussian_blob():
    t = left_edges(-2.0, 2.0, 512)
    density = 5.0 * np.exp(-((t + 2.0 / 512) ** 2 + 0.1**2) / (2 * 0.2**2))
    seen = composite(np.ones((512, 1), np.float32), density, t, far=2.0)
    np.testing.assert_allclose(density.sum() * 4 / 512, 2.212092, atol=1e-5)
    np.testing.assert_allclose(seen.opacity, 0.890529, atol=1e-6)


def test_the_left_rule_is_of_first_order_and_the_middle_rule_exact_for_a_linear_density():
    expected = {8: 0.826226, 16: 0.846645, 32: 0.855936, 64: 0.860369, 128: 0.862533}
    for num, value in expected.items():
        t = left_edges(0.0, 2.0, num)
        for density, answer in ((t, value), (t + np.float32(1 / num), 0.864665)):
            opacity = composite(np.ones((num, 1), np.float32), density, t, far=2.0).opacity
            np.testing.assert_allclose(opacity, answer, atol=1e-6)


def test_a_colour_before_a_colour_over_white():
    # An opacity of 0.6 in red, then one of 0.5 in green.
    density = -np.log1p(-np.array([0.6, 0.5], np.float32))
    seen = composite(
        jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), density, jnp.arange(2.0), far=2.0, background=jnp.ones(3)
    )
    np.testing.assert_allclose(seen.color, [0.8, 0.4, 0.2], atol=1e-6)
    other = composite(
        jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), density[::-1], jnp.arange(2.0), far=2.0, background=jnp.ones(3)
    )
    np.testing.assert_allclose(other.color, [0.5, 0.7, 0.2], atol=1e-6)


@pytest.mark.parametrize("far", [6.5, None])
@pytest.mark.parametrize("background", [None, [0.2, 0.4, 0.9]])
def test_all_that_is_seen_is_that_of_a_loop_over_the_samples(far, background):
    """Light that comes through sample after sample: its colour, where it comes from, and how much is left behind."""
    random, norm = np.random.default_rng(6), 1.5
    t, density = np.sort(random.uniform(2.0, 6.0, 24)), random.exponential(0.15, 24) * (random.random(24) < 0.7)
    density[-1] = 0.0 if far is None else density[-1]  # Else nothing would be left behind an infinite interval.
    color, light, reached = np.zeros(3), 1.0, []
    for i in range(24):
        end = t[i + 1] if i < 23 else (t[i] if far is None else far)
        passed = light * np.exp(-density[i] * (end - t[i]) * norm)
        color, light = color + (light - passed) * COLORS[i], passed
        reached.append(1 - light)
    gained = np.diff(reached, prepend=0.0)
    seen = composite(
        COLORS[:24],
        jnp.asarray(density, jnp.float32),
        jnp.asarray(t, jnp.float32),
        norm=norm,
        far=far,
        background=None if background is None else jnp.array(background),
    )
    assert 0.3 < light < 0.7, "some of it is fog, and some what is behind"
    np.testing.assert_allclose(seen.color, color + light * np.array(background or [0.0] * 3), atol=1e-5)
    np.testing.assert_allclose(seen.opacity, 1 - light, atol=1e-6)
    np.testing.assert_allclose(seen.depth, gained @ t / (1 - light), rtol=1e-5)
    np.testing.assert_allclose(seen.median_depth, next(t[i] for i in range(24) if reached[i] >= (1 - light) / 2))
    np.testing.assert_allclose(seen.weights, gained, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_weights_telescope(seed):
    random = np.random.default_rng(seed)
    density, delta = random.exponential(2.0, 64), random.exponential(0.1, 64)
    weights = render_weights(jnp.asarray(density, jnp.float32), jnp.asarray(delta, jnp.float32))
    np.testing.assert_allclose(np.sum(weights), -np.expm1(-np.sum(density * delta)), atol=1e-6)
    transmittance = np.exp(-np.concatenate([[0.0], np.cumsum(density * delta)]))
    np.testing.assert_allclose(weights, transmittance[:-1] - transmittance[1:], atol=1e-6)


def test_the_last_interval_is_infinite_by_default():
    t = jnp.array([2.0, 3.0, 5.0])
    np.testing.assert_array_equal(intervals(t), np.float32([1, 2, 1e10]))
    np.testing.assert_array_equal(intervals(t, far=6.0), np.float32([1, 2, 1]))
    faint = jnp.array([0.0, 0.0, 1e-3])
    assert composite(jnp.ones((3, 1)), faint, t).opacity == 1, "any density there is opaque"
    np.testing.assert_allclose(composite(jnp.ones((3, 1)), faint, t, far=6.0).opacity, 1e-3, rtol=1e-3)
    assert composite(jnp.ones((3, 1)), jnp.zeros(3), t).opacity == 0


def test_nothing_seen_is_the_background_far_away():
    seen = composite(jnp.ones((4, 3)), jnp.zeros(4), jnp.arange(1.0, 5.0), far=5.0, background=jnp.full(3, 0.25))
    np.testing.assert_array_equal(seen.color, np.full(3, 0.25, np.float32))
    assert (seen.opacity, seen.depth, seen.median_depth) == (0, 4, 4)
    depth = lambda density: composite(jnp.ones((4, 3)), density, jnp.arange(1.0, 5.0), far=5.0).depth  # noqa: E731
    gradient = jax.jit(jax.grad(depth))(jnp.zeros(4))
    assert np.all(np.isfinite(gradient))


def test_depth_of_an_opaque_wall():
    t = np.arange(10, dtype=np.float32)
    density = np.where(t >= 4, np.float32(1e4), np.float32(0))
    seen = composite(jnp.ones((10, 1)), density, t)
    np.testing.assert_allclose([seen.depth, seen.median_depth], [4, 4], rtol=1e-6)
    # The median is where half of what is seen is passed, whatever little is seen.
    faint = composite(jnp.ones((3, 1)), jnp.array([0.02, 0.01, 0.005]), jnp.arange(3.0), far=3.0)
    assert faint.median_depth == 0
    faint = composite(jnp.ones((3, 1)), jnp.array([0.01, 0.02, 0.005]), jnp.arange(3.0), far=3.0)
    assert faint.median_depth == 1


def test_a_longer_direction_changes_nothing():
    t, density = random_depths(0, 64), jnp.asarray(np.random.default_rng(1).exponential(1.0, 64), jnp.float32)
    one = composite(COLORS, density, t, norm=1.5, far=6.5)
    two = composite(COLORS, density, t / 3, norm=4.5, far=6.5 / 3)
    np.testing.assert_allclose(one.color, two.color, atol=1e-5)
    np.testing.assert_allclose(1.5 * one.depth, 4.5 * two.depth, rtol=1e-5)
    np.testing.assert_allclose(1.5 * one.median_depth, 4.5 * two.median_depth, rtol=1e-5)


@pytest.mark.parametrize("spacing", ["depth", "disparity"])
def test_one_stratified_sample_in_every_part(spacing):
    near, far, num = 2.0, 6.0, 16
    keys = rng.per_example(rng.root(0), np.arange(2000))
    t = np.asarray(jax.jit(jax.vmap(lambda key: stratified_depths(key, near, far, num, spacing=spacing)))(keys))
    measure = (lambda s: s) if spacing == "depth" else (lambda s: 1 / s)
    part = (measure(np.asarray(t, np.float64)) - measure(near)) / (measure(far) - measure(near)) * num
    assert np.all((part > np.arange(num) - 1e-4) & (part < np.arange(num) + 1 + 1e-4))
    assert np.all(np.diff(t, axis=1) > 0) and t.min() >= near and t.max() <= far
    assert stats.kstest((part - np.arange(num)).ravel(), "uniform").pvalue > 0.01
    middle = np.asarray(jax.jit(lambda: stratified_depths(None, near, far, num, spacing=spacing))())
    np.testing.assert_allclose(
        (measure(middle) - measure(near)) / (measure(far) - measure(near)) * num % 1, 0.5, atol=1e-3
    )


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="expected 'depth' or 'disparity'"):
        stratified_depths(None, 2.0, 6.0, 4, spacing="log")


@pytest.mark.parametrize("bin_", [0, 3, 6])
def test_a_histogram_of_one_bin_has_every_sample_inside_it(bin_):
    edges = np.array([0.0, 0.5, 0.6, 1.0, 1.5, 3.0, 3.1, 4.0], np.float32)
    u = np.linspace(0.0, 1.0, 1001, dtype=np.float32)
    found = np.asarray(inverse_cdf(edges, np.float32(0.3) * np.eye(7, dtype=np.float32)[bin_], u))
    assert np.all((found >= edges[bin_]) & (found <= edges[bin_ + 1]))
    np.testing.assert_allclose(found, edges[bin_] + u * (edges[bin_ + 1] - edges[bin_]), atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_samples_have_the_distribution_of_the_histogram(seed):
    random = np.random.default_rng(seed)
    edges = np.sort(random.uniform(2, 6, 13))
    weights = random.exponential(1.0, 12) * (random.uniform(size=12) > 0.4)
    u = random.uniform(size=100_000)
    found = np.asarray(inverse_cdf(jnp.asarray(edges, jnp.float32), jnp.asarray(weights, jnp.float32), jnp.asarray(u)))
    expected = stats.rv_histogram((weights, edges), density=False)
    assert stats.kstest(found, expected.cdf).pvalue > 0.01
    counts, _ = np.histogram(found, edges)
    assert np.all(counts[weights == 0] <= 1), "a rounding of an edge at most"


def test_both_ends_are_finite_and_the_ends_of_what_has_weight():
    edges, weights = jnp.arange(6.0), jnp.array([0.0, 0.0, 1.0, 2.0, 0.0])
    found = inverse_cdf(edges, weights, jnp.array([0.0, 1.0, -0.1, 1.1]))
    np.testing.assert_allclose(found, [2, 4, 2, 4], atol=1e-5)
    np.testing.assert_allclose(inverse_cdf(edges, jnp.zeros(5), jnp.array([0.0, 0.5, 1.0])), [0, 2.5, 5], atol=1e-5)


@pytest.mark.parametrize("seed", [None, 0])
def test_importance_samples_are_sorted_and_between_the_coarse_ones(seed):
    t = random_depths(0, 32)
    weights = jnp.asarray(np.random.default_rng(2).exponential(1.0, 32) ** 4, jnp.float32)
    found = importance_depths(None if seed is None else rng.root(seed), t, weights, 128)
    assert np.all(np.diff(found) >= 0) and found[0] >= t[0] and found[-1] <= t[-1]
    t = np.asarray(t)
    one = np.asarray(importance_depths(None, t, np.eye(32, dtype=np.float32)[7], 128))
    assert np.all((one >= (t[6] + t[7]) / 2) & (one <= (t[7] + t[8]) / 2)), "half way to either neighbour"
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(importance_depths(None, t, w, 16))))(weights)
    np.testing.assert_array_equal(gradient, np.zeros(32))


def test_importance_samples_are_as_many_as_the_weights_say():
    """Of evenly spread quantiles, w_i / Σ w of them lie between the middles about sample i, both ends left out."""
    t, num = random_depths(3, 12), 20_000
    weights = np.random.default_rng(4).exponential(1.0, 12).astype(np.float32)
    found = importance_depths(None, t, jnp.asarray(weights), num)
    counts, _ = np.histogram(found, (np.asarray(t)[1:] + np.asarray(t)[:-1]) / 2)
    np.testing.assert_allclose(counts / num, weights[1:-1] / weights[1:-1].sum(), atol=2e-4)


def test_straight_and_premultiplied_alpha():
    straight = np.array([0.8, 0.4, 0.2, 0.25])
    premultiplied = np.array([0.2, 0.1, 0.05, 0.25])
    for background in (np.zeros(3), np.ones(3), np.array([0.1, 0.5, 0.9])):
        expected = 0.25 * straight[:3] + 0.75 * background
        np.testing.assert_allclose(over(straight, background), expected)
        np.testing.assert_allclose(over(premultiplied, background, premultiplied=True), expected)
