"""Pictures from a VAE: samples by key, reconstructions, walks and the manifold's grid."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.families.vae import VAE, MLPDecoder, MLPEncoder, sampling

_SHAPE = (4, 4, 3)


def _setup(likelihood: str = "bernoulli") -> tuple[VAE, Any]:
    channels = 6 if likelihood != "bernoulli" else 3
    model = VAE(MLPEncoder(3, (8,), dropout=0.5), MLPDecoder((4, 4, channels), (8,), dropout=0.5), likelihood)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *_SHAPE)))["params"]
    return model, jax.tree.map(lambda a: 2.0 * a + 0.1, params)


def _images(count: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random((count, *_SHAPE)), jnp.float32)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_sample_depends_on_its_key_alone(likelihood: str):
    """Sample i is the same among 6, among 2, in another order and alone, and differs from the others."""
    model, params = _setup(likelihood)
    sample = jax.jit(functools.partial(sampling.sample_prior, model=model))

    def draw(index: np.ndarray) -> np.ndarray:
        return np.asarray(sample(params, rng.per_example(rng.root(4), index)))

    whole = draw(np.arange(6))
    assert whole.shape == (6, *_SHAPE)
    assert whole.min() >= 0.0
    assert whole.max() <= 1.0
    np.testing.assert_allclose(draw(np.arange(2, 4)), whole[2:4], atol=1e-6)
    np.testing.assert_allclose(draw(np.arange(6)[::-1]), whole[::-1], atol=1e-6)
    np.testing.assert_allclose(draw(np.array([5])), whole[5:], atol=1e-6)
    distances = np.abs(whole[:, None] - whole[None]).max(axis=(2, 3, 4))
    assert (distances[~np.eye(6, dtype=bool)] > 1e-3).all()


def test_samples_come_from_the_standard_normal():
    """Codes read back from the pictures have mean 0, variance 1 and no correlation within 4 standard errors."""
    count = 20_000
    model = VAE(MLPEncoder(2, ()), MLPDecoder((1, 2, 1), ()), "gaussian", "fixed", fixed_std=1.0, squash_mean=True)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 2, 1)))["params"]
    params = params | {"decoder": {"Dense_0": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}}
    images = sampling.sample_prior(params, rng.per_example(rng.root(1), np.arange(count)), model=model)
    shown = np.asarray(images, np.float64).reshape(count, 2)
    z = np.log(shown) - np.log1p(-shown)  # The inverse of the sigmoid.
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(count)
    assert np.abs(z.var(0) - 1).max() < 4 * np.sqrt(2 / count)
    assert abs(np.corrcoef(z.T)[0, 1]) < 4 / np.sqrt(count)
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-4


def test_reconstruction_is_the_decoded_mean_without_noise():
    """Reconstructing is decoding the encoder's mean: deterministic, without dropout, one image at a time or all."""
    model, params = _setup()
    x = _images(4, 0)
    found = sampling.reconstruct(params, x, model=model)
    mean, _ = model.apply({"params": params}, x, method="encode")
    logits = np.asarray(model.apply({"params": params}, mean, method="decode")["logits"], np.float64)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-6)
    np.testing.assert_array_equal(found, sampling.reconstruct(params, x, model=model))
    np.testing.assert_allclose(found[2:3], sampling.reconstruct(params, x[2:3], model=model), atol=1e-6)


@pytest.mark.parametrize("num_points", [2, 5])
def test_walk_ends_at_the_reconstructions(num_points: int):
    """A walk's first and last images are the ends' reconstructions, and it reads backwards with the ends exchanged."""
    model, params = _setup()
    start, end = _images(3, 1), _images(3, 2)
    walk = sampling.interpolate(params, start, end, num_points, model=model)
    assert walk.shape == (3, num_points, *_SHAPE)
    np.testing.assert_allclose(walk[:, 0], sampling.reconstruct(params, start, model=model), atol=1e-6)
    np.testing.assert_allclose(walk[:, -1], sampling.reconstruct(params, end, model=model), atol=1e-6)
    back = sampling.interpolate(params, end, start, num_points, model=model)
    np.testing.assert_allclose(walk, np.asarray(back)[:, ::-1], atol=1e-6)


def test_walk_is_straight_and_even():
    """Through a linear decoder the images of a walk are evenly spaced on a line."""
    model = VAE(MLPEncoder(3, ()), MLPDecoder(_SHAPE, ()), "gaussian", "fixed", squash_mean=False)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *_SHAPE)))["params"]
    decoder = params["decoder"]["Dense_0"] | {"bias": jnp.full(48, 0.5)}
    params = params | {
        "decoder": {"Dense_0": jax.tree.map(lambda a: a, decoder | {"kernel": 0.05 * decoder["kernel"]})}
    }
    walk = np.asarray(sampling.interpolate(params, _images(2, 3), _images(2, 4), 4, model=model))
    assert 0 < walk.min() < walk.max() < 1  # Nothing is clipped.
    steps = np.diff(walk, axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-6)
    assert np.abs(steps).max() > 1e-3


@pytest.mark.parametrize("side", [1, 2, 5, 20])
def test_manifold_codes_are_the_priors_quantiles(side: int):
    """The grid's coordinates are Φ⁻¹ of the midpoints of `side` equal shares; x grows to the right and y upwards."""
    codes = np.asarray(sampling.manifold_codes(side))
    assert codes.shape == (side * side, 2)
    grid = codes.reshape(side, side, 2)
    quantiles = scipy.stats.norm.ppf((np.arange(side) + 0.5) / side)
    for row in range(side):
        np.testing.assert_allclose(grid[row, :, 0], quantiles, atol=2e-6)
    for column in range(side):
        np.testing.assert_allclose(grid[:, column, 1], quantiles[::-1], atol=2e-6)
    if side > 1:
        assert grid[0, 0, 0] < 0 < grid[0, 0, 1]  # Top left: small x, large y.
