"""Samples from a model without a prior: fitted Gaussians, chains and walks, and the filling in of what is missing."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.families.autoencoder import MLPAutoencoder, sampling
from gen_jax.families.autoencoder.corruption import CORRUPTIONS, corrupt

_SHAPE = (2, 3, 1)
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache
def _setup() -> tuple[MLPAutoencoder, Any]:
    model = MLPAutoencoder(_SHAPE, (5, 4), code_activation=nn.sigmoid)
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"]
    return model, jax.tree.map(lambda a: 2 * np.asarray(a) + np.float32(0.1), params)


def _keys(index: Any, seed: int = 1) -> jax.Array:
    return rng.per_example(rng.root(seed), np.asarray(index))


def _images(count: int = 5) -> np.ndarray:
    """Images to begin at."""
    return np.random.default_rng(6).uniform(0.1, 0.9, (count, *_SHAPE)).astype(np.float32)


def _moments() -> dict[str, jax.Array]:
    """The mean and the second moment of a Gaussian of four numbers with correlations."""
    factor = np.random.default_rng(0).standard_normal((4, 4))
    mean = np.array([0.2, -0.1, 0.3, 0.0])
    second = 0.05 * factor @ factor.T + np.outer(mean, mean)
    return {"code_mean": jnp.asarray(mean, jnp.float32), "code_second_moment": jnp.asarray(second, jnp.float32)}


def _sampler(name: str) -> Any:
    """Images of keys, by each of the ways."""
    model, params = _setup()
    if name == "gaussian":
        return lambda keys: sampling.sample_gaussian_codes(params, _moments(), keys, model=model)
    if name == "walk":
        return lambda keys: sampling.contractive_walk(params, keys, _images(), model=model, step_size=3.0, num_steps=4)
    if name == "gaussian_images":
        return lambda keys: jnp.clip(sampling.gaussian_images(keys, _images()), 0.0, 1.0)

    def reconstruct(x: jax.Array) -> jax.Array:
        return 2 * sampling.reconstruct(params, x, model=model) - 0.5  # Out of [0, 1] on both sides.

    return lambda keys: sampling.denoising_chain(reconstruct, keys, _SHAPE, corruption=name, level=0.3, num_steps=4)


@pytest.mark.parametrize("name", ["gaussian", "walk", "gaussian_images", "salt_and_pepper", "masking"])
def test_a_sample_depends_on_its_key_alone(name: str):
    """Image i is the same among 6, in another order and alone, is in [0, 1], and differs from every other."""
    sample = _jit(_sampler(name))
    whole = np.asarray(sample(_keys(np.arange(6))))
    assert whole.shape == (6, *_SHAPE)
    assert whole.min() >= 0.0 and whole.max() <= 1.0
    np.testing.assert_allclose(sample(_keys(np.arange(6)[::-1])), whole[::-1], atol=1e-6)
    np.testing.assert_allclose(sample(_keys([4])), whole[4:5], atol=1e-6)
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 6
    assert np.abs(np.asarray(sample(_keys(np.arange(6), seed=2))) - whole).max() > 1e-3


def _linear(latent_dim: int) -> tuple[MLPAutoencoder, Any]:
    """A linear decoder that puts codes around ½, far enough inside of [0, 1]."""
    model = MLPAutoencoder(_SHAPE, (latent_dim,), output="linear")
    params = _jit(model.init)(rng.root(3), jnp.zeros((1, *_SHAPE)))["params"]
    kernel = 0.05 * np.random.default_rng(1).standard_normal((latent_dim, 6))
    return model, params | {"decoder_0": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.full(6, 0.5)}}


@pytest.mark.parametrize("jitter", [None, 0.5])
def test_gaussian_codes_have_the_mean_and_covariance_of_the_codes(jitter: float | None):
    """Decoded linearly: mean m A + c and covariance Aᵀ C A, every entry within 4.5 standard errors; and normal.

    The jitter adds a part of C's mean variance to its diagonal, and by default next to nothing.
    """
    count, (model, params) = 20_000, _linear(4)
    moments = {name: np.asarray(value, np.float64) for name, value in _moments().items()}
    covariance = moments["code_second_moment"] - np.outer(moments["code_mean"], moments["code_mean"])
    kernel = np.asarray(params["decoder_0"]["kernel"], np.float64)
    options = {} if jitter is None else {"jitter": jitter}
    sample = _jit(functools.partial(sampling.sample_gaussian_codes, params, model=model, **options))
    images = sample(_moments(), _keys(np.arange(count)))
    covariance += (jitter or 0.0) * np.trace(covariance) / 4 * np.eye(4)
    found = np.asarray(images, np.float64).reshape(count, 6)
    assert found.min() > 0.0 and found.max() < 1.0  # Nothing is clipped.
    expected = kernel.T @ covariance @ kernel
    stds = np.sqrt(np.diag(expected))
    assert (np.abs(found.mean(0) - moments["code_mean"] @ kernel - 0.5) < 4.5 * stds / np.sqrt(count)).all()
    error = np.sqrt((np.outer(stds, stds) ** 2 + expected**2) / count)
    assert (np.abs(np.cov(found.T, bias=True) - expected) < 4.5 * error + 1e-4 * stds.max() ** 2).all()
    fourth = ((found - found.mean(0)) ** 4).mean(0) / stds**4
    assert (np.abs(fourth - 3) < 4.5 * np.sqrt(96 / count)).all()
    assert error.max() < 0.05 * stds.max() ** 2


def test_gaussian_codes_of_a_degenerate_covariance():
    """Codes on a line, whose covariance misses being positive by a rounding, give images on a line; equal codes one."""
    model, params = _linear(4)
    direction = np.array([1.0, -2.0, 0.5, 3.0])
    mean = np.array([3.0, 3.0, 3.0, 3.0])
    for scale in (0.0, 0.1):
        moments = {
            "code_mean": mean,
            "code_second_moment": np.outer(mean, mean) + scale**2 * np.outer(*[direction] * 2),
        }
        moments = {name: jnp.asarray(value, jnp.float32) for name, value in moments.items()}
        sample = _jit(functools.partial(sampling.sample_gaussian_codes, params, model=model, jitter=0.0))
        images = np.asarray(sample(moments, _keys(np.arange(50)))).reshape(50, 6)
        assert np.isfinite(images).all()
        kernel = np.asarray(params["decoder_0"]["kernel"])
        assert images.min() > 0.0 and images.max() < 1.0  # Nothing is clipped.
        away = images - (mean @ kernel + 0.5)
        along = direction @ kernel / np.linalg.norm(direction @ kernel)
        np.testing.assert_allclose(away - np.outer(away @ along, along), 0.0, atol=2e-3)
        np.testing.assert_allclose(
            (away @ along).std(), scale * np.linalg.norm(direction @ kernel), rtol=0.4, atol=2e-3
        )


@pytest.mark.parametrize("way", ["gaussian", "walk"])
def test_a_linear_output_is_clipped(way: str):
    """Images that a linear decoder puts outside of [0, 1] end at its ends, on both sides."""
    model, params = _linear(4)
    params = params | {"decoder_0": params["decoder_0"] | {"kernel": 40 * params["decoder_0"]["kernel"]}}
    if way == "gaussian":
        images = _jit(functools.partial(sampling.sample_gaussian_codes, params, model=model))(
            _moments(), _keys(np.arange(50))
        )
    else:
        walk = functools.partial(sampling.contractive_walk, model=model, step_size=20.0, num_steps=2)
        images = _jit(walk)(params, _keys(np.arange(50)), _images())
    assert float(images.min()) == 0.0 and float(images.max()) == 1.0


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_denoising_chain_against_a_slow_loop(kind: str):
    """Corrupt, reconstruct, clip, one image and one step at a time, from uniform noise on."""
    mixing = np.random.default_rng(2).standard_normal((6, 6)) * 0.6

    def reconstruct(x: Any) -> Any:
        return (x.reshape(-1, 6) @ mixing.astype(np.float32) + np.float32(0.3)).reshape(-1, *_SHAPE)

    def run(num_steps: int) -> np.ndarray:
        chain = functools.partial(
            sampling.denoising_chain, reconstruct, image_shape=_SHAPE, corruption=kind, level=0.3, num_steps=num_steps
        )
        return np.asarray(_jit(chain)(keys=_keys(np.arange(3))))

    for num_steps in (0, 1, 5):
        found = run(num_steps)
        for i in range(3):
            x = jax.random.uniform(rng.stream(_keys(np.arange(3))[i], "start"), _SHAPE)
            for t in range(num_steps):
                key = rng.at_step(rng.stream(_keys(np.arange(3))[i], "chain"), t)
                x = jnp.asarray(np.clip(reconstruct(np.asarray(corrupt(key, x, kind, 0.3)))[0], 0, 1))
            np.testing.assert_allclose(found[i], x, atol=1e-5)


def _numpy_autoencoder(params: Any) -> Any:
    """The encoder, its Jacobian and the decoder of one sigmoid layer each, by numpy in float64."""
    (w, b), (v, c) = (
        [np.asarray(params[name][part], np.float64) for part in ("kernel", "bias")]
        for name in ("encoder_0", "decoder_0")
    )

    def encode(x: np.ndarray) -> np.ndarray:
        return scipy.special.expit(x.ravel() @ w + b)

    def jacobian(x: np.ndarray) -> np.ndarray:
        z = encode(x)
        return (z * (1 - z))[:, None] * w.T

    def decode(z: np.ndarray) -> np.ndarray:
        return scipy.special.expit(z @ v + c).reshape(_SHAPE)

    return encode, jacobian, decode


def test_contractive_walk_against_the_explicit_jacobian():
    """The step is x ← g(f(x) + J Jᵀ ε), with J in closed form, for 0, 1 and 3 steps; Δ is not small."""
    model = MLPAutoencoder(_SHAPE, (4,), code_activation=nn.sigmoid)
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"]
    params = jax.tree.map(lambda a: 2 * a + 0.1, params)
    encode, jacobian, decode = _numpy_autoencoder(params)
    keys, size = _keys(np.arange(3)), 5.0
    for num_steps in (0, 1, 3):
        walk = functools.partial(sampling.contractive_walk, model=model, step_size=size, num_steps=num_steps)
        found = _jit(walk)(params, keys, _images())
        for i in range(3):
            x = _images()[int(jax.random.randint(rng.stream(_keys(np.arange(3))[i], "start"), (), 0, 5))]
            for t in range(num_steps):
                key = rng.at_step(rng.stream(_keys(np.arange(3))[i], "walk"), t)
                epsilon = size * np.asarray(jax.random.normal(key, (4,)), np.float64)
                delta = jacobian(x) @ jacobian(x).T @ epsilon
                assert np.abs(delta).max() > 0.05
                x = decode(encode(x) + delta)
            np.testing.assert_allclose(found[i], x, atol=2e-5)


def test_walks_begin_at_any_of_the_images():
    """Without a step they are the images themselves, each as often as the others within 4 standard errors."""
    model, params = _setup()
    walk = functools.partial(sampling.contractive_walk, model=model, step_size=1.0, num_steps=0)
    found = np.asarray(_jit(walk)(params, _keys(np.arange(4000)), _images()))
    same = (found[:, None] == _images()[None]).all(axis=(2, 3, 4))
    assert (same.sum(1) == 1).all()
    assert (np.abs(same.mean(0) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4000)).all()


def test_gaussian_images_have_the_mean_and_covariance_of_the_images():
    """Every entry within 4.5 standard errors, from 5 images of 6 pixels as well as from 40; and normal."""
    for count in (5, 40):
        flat = _images(count).reshape(count, 6).astype(np.float64)
        found = _jit(sampling.gaussian_images)(_keys(np.arange(20_000)), _images(count))
        assert found.shape == (20_000, *_SHAPE)
        found = np.asarray(found, np.float64).reshape(-1, 6)
        expected = np.cov(flat.T, bias=True)
        stds = np.sqrt(np.diag(expected))
        assert (np.abs(found.mean(0) - flat.mean(0)) < 4.5 * stds / np.sqrt(20_000)).all()
        error = np.sqrt((np.outer(stds, stds) ** 2 + expected**2) / 20_000)
        assert (np.abs(np.cov(found.T, bias=True) - expected) < 4.5 * error).all()
        fourth = ((found - found.mean(0)) ** 4).mean(0) / stds**4
        assert (np.abs(fourth - 3) < 4.5 * np.sqrt(96 / 20_000)).all()


def _smooth_projection() -> np.ndarray:
    """The orthogonal projection [6, 6] onto two directions without zeros."""
    basis, _ = np.linalg.qr(np.stack([np.ones(6), np.linspace(-1, 1, 6) + 0.2]).T)
    return basis @ basis.T


def test_inpaint_solves_a_linear_case():
    """For r(x) = P x the rest converges to x_u = (I − P_uu)⁻¹ P_uk x_k, with what is known held bit for bit."""
    projection = _smooth_projection()
    images = np.random.default_rng(3).uniform(0.35, 0.65, (4, 6)).astype(np.float32)
    masks = np.array([[1, 1, 0, 0, 1, 1], [1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], np.float32)

    def reconstruct(x: jax.Array) -> jax.Array:
        return (x.reshape(-1, 6) @ projection.astype(np.float32)).reshape(x.shape)

    fill = _jit(functools.partial(sampling.inpaint, reconstruct, num_steps=300))
    found = np.asarray(fill(images.reshape(-1, *_SHAPE), masks.reshape(-1, *_SHAPE))).reshape(4, 6)
    for image, mask, filled in zip(images, masks > 0, found, strict=True):
        inner = projection[np.ix_(~mask, ~mask)]
        expected = np.linalg.solve(np.eye(len(inner)) - inner, projection[np.ix_(~mask, mask)] @ image[mask])
        assert expected.min() > 0.05 and expected.max() < 0.95  # Nothing is clipped.
        np.testing.assert_array_equal(filled[mask], image[mask])
        np.testing.assert_allclose(filled[~mask], expected, atol=2e-5)
        assert np.abs(expected - image[~mask]).max() > 1e-2


def test_inpaint_does_not_see_what_is_missing():
    """What stands in the unknown pixels has no influence, not even where it is not a number; all is in [0, 1]."""
    model, params = _setup()

    def reconstruct(x: jax.Array) -> jax.Array:
        return 3 * sampling.reconstruct(params, x, model=model) - 1.0

    mask = np.zeros((2, *_SHAPE), np.float32)
    mask[:, :, 1:] = 1.0
    x = np.random.default_rng(4).random((2, *_SHAPE)).astype(np.float32)
    fill = _jit(functools.partial(sampling.inpaint, reconstruct, num_steps=3))
    found = np.asarray(fill(x, mask))
    np.testing.assert_array_equal(fill(np.where(mask > 0, x, np.float32(np.nan)), mask), found)
    np.testing.assert_array_equal(found[mask > 0], x[mask > 0])
    assert found.min() >= 0.0 and found.max() <= 1.0
    by_hand = np.where(mask > 0, x, 0.0)
    for _ in range(3):
        by_hand = np.where(mask > 0, x, np.clip(reconstruct(jnp.asarray(by_hand, jnp.float32)), 0, 1))
    np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_reconstruct_with_k_keeps_the_k_largest():
    """`encode` and `reconstruct` with k zero out all but the k largest activations of each code."""
    model, params = _setup()
    x = jnp.asarray(np.random.default_rng(5).random((7, *_SHAPE)), jnp.float32)
    z = np.asarray(sampling.encode(params, x, model=model))
    kept = np.asarray(sampling.encode(params, x, model=model, k=2))
    cut = np.sort(z, axis=1)[:, -2:-1]
    np.testing.assert_array_equal(kept, np.where(z >= cut, z, 0.0))
    expected = sampling.decode(params, jnp.asarray(kept), model=model)
    np.testing.assert_allclose(sampling.reconstruct(params, x, model=model, k=2), expected, rtol=1e-6)
