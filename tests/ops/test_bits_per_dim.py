"""Bits per dimension: the one conversion, and that uniform 8-bit data report exactly 8."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax.ops import distributions, pixels

_ULP = 2e-6  # Two units in the last place of a float32 near 8.
_SHAPES = [(28, 28, 1), (32, 32, 3), (7,)]


@pytest.mark.parametrize("shape", _SHAPES)
def test_uniform_categorical_is_eight_bits(shape: tuple[int, ...]):
    """Equal logits over 256 levels cost 8 bits for every dimension, channels counted."""
    levels = np.random.default_rng(0).integers(0, 256, shape)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(jnp.zeros((*shape, 256))), jnp.asarray(levels)[..., None], -1)
    # Summed in float64, so that the figure is the conversion's own.
    bits = distributions.bits_per_dim(np.asarray(log_p, np.float64).sum(), levels.size)
    assert float(bits) == pytest.approx(8.0, abs=_ULP)


@pytest.mark.parametrize("shape", _SHAPES)
def test_uniform_density_is_eight_bits(shape: tuple[int, ...]):
    """The uniform density on [0, 1)^D, log-density 0, costs 8 bits a dimension as levels."""
    num_dims = int(np.prod(shape))
    log_p = distributions.density_to_levels(jnp.zeros(()), num_dims)
    assert float(distributions.bits_per_dim(log_p, num_dims)) == pytest.approx(8.0, abs=_ULP)


@pytest.mark.parametrize("shape", _SHAPES)
def test_uniform_bernoulli_is_one_bit(shape: tuple[int, ...]):
    """Logits of 0 cost 1 bit a binary pixel, whatever the pixels."""
    x = jnp.asarray(np.random.default_rng(1).integers(0, 2, shape), jnp.float32)
    log_p = distributions.bernoulli_log_likelihood(x, jnp.zeros(shape))
    # Thousands of equal terms, in float32 and one after the other where nothing is vectorised: 1.5e-5 was seen, and one
    # pixel is 3e-4.
    assert float(distributions.bits_per_dim(log_p, x.size)) == pytest.approx(1.0, abs=2e-5)


def test_discretized_logistic_averaged_over_uniform_levels_cannot_beat_eight_bits():
    """Uniform levels cost 8 bits plus the divergence from the model's own law, whatever the model."""
    levels = jnp.arange(256) / 255.0
    for log_scale in (-4.0, -1.5, 0.0):
        log_p = distributions.discretized_logistic_log_likelihood(levels, jnp.full(256, 0.5), jnp.array(log_scale))
        edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
        q = np.diff(scipy.stats.logistic.cdf(edges, 0.5, np.exp(log_scale)))
        excess = scipy.stats.entropy(np.full(256, 1 / 256), q, base=2)
        assert excess > 0
        assert float(distributions.bits_per_dim(log_p, 256)) == pytest.approx(8 + excess, rel=1e-5)


def test_iid_categorical_reports_its_entropy():
    """Pixels whose histogram is exactly p, scored by p, cost p's entropy."""
    counts = np.array([400, 300, 200, 90, 10])
    p = counts / counts.sum()
    pixels_ = np.repeat(np.arange(5), counts)
    log_p = jnp.asarray(np.log(p), jnp.float32)[pixels_]
    bits = distributions.bits_per_dim(jnp.sum(log_p), pixels_.size)
    assert float(bits) == pytest.approx(scipy.stats.entropy(p, base=2), rel=1e-6)


@pytest.mark.parametrize("num_levels", [2, 32, 255, 256])
def test_number_of_levels(num_levels: int):
    """The uniform density costs log2 of the number of levels; 255 for 256 is 0.0056 bits too few, which this sees."""
    bits = distributions.bits_per_dim(distributions.density_to_levels(jnp.zeros(()), 12, num_levels), 12)
    assert float(bits) == pytest.approx(np.log2(num_levels), abs=_ULP)
    assert (abs(float(bits) - 8.0) < 1e-3) == (num_levels == 256)


def test_batches_convert_elementwise():
    """A batch of log-likelihoods [B] gives a batch of figures, each by its own."""
    log_p = jnp.array([-np.log(2.0) * 12, 0.0, -np.log(4.0) * 12])
    np.testing.assert_allclose(distributions.bits_per_dim(log_p, 12), [1.0, 0.0, 2.0], rtol=1e-6)
    expected = np.asarray(log_p) - 12 * np.log(256)
    np.testing.assert_allclose(distributions.density_to_levels(log_p, 12), expected, rtol=1e-6)


def test_dequantized_uniform_levels_end_to_end():
    """Uniform levels, dequantised, cost 8 bits under their true density and 8.2546 under the Gaussian with its moments.

    −E log N(u; ½, 1/12) = ½ log(2πe / 12) for u ~ U[0, 1). All 256 levels appear equally often, so the standard error
    is below 2e−5 bits and the 0.0056 of a scale of 255 stands out.
    """
    images = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (64, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), len(images))
    x = jax.vmap(pixels.uniform_dequantization)(keys, images)
    log_var = jnp.asarray(np.log(1 / 12), jnp.float32)
    gaussian = jax.vmap(lambda v: distributions.gaussian_log_likelihood(v, jnp.full(v.shape, 0.5), log_var))(x)
    bits = distributions.bits_per_dim(distributions.density_to_levels(gaussian, 256), 256)
    expected = 8 + 0.5 * np.log2(2 * np.pi * np.e / 12)
    assert float(bits.mean()) == pytest.approx(expected, abs=2e-4)

    inside = np.asarray((x >= 0) & (x < 1)).all(axis=(1, 2, 3))
    uniform = jnp.where(inside, 0.0, -jnp.inf)  # The true density.
    bits = distributions.bits_per_dim(distributions.density_to_levels(uniform, 256), 256)
    np.testing.assert_allclose(bits, 8.0, atol=_ULP)


def test_gradient_of_a_bits_figure():
    """A nat more of log-likelihood is 1 / (D log 2) bits a dimension less."""
    slope = jax.grad(lambda log_p: distributions.bits_per_dim(log_p, 784))(jnp.array(-100.0))
    assert float(slope) == pytest.approx(-np.log2(np.e) / 784, rel=1e-6)
