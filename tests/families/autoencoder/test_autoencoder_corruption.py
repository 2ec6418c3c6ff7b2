"""The corruptions: their moments and shares, their ends, and that the noise belongs to the example."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import rng
from gen_jax.families.autoencoder import (
    MLPAutoencoder,
    denoising_objective,
    gaussian_corruption,
    masking_corruption,
    salt_and_pepper_corruption,
)
from gen_jax.families.autoencoder.corruption import CORRUPTIONS, conditional_moments, corrupt
from gen_jax.train.parallel import Layout, to_host
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

# Most of this file's time is compilation; these programs run once each.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
_COUNT = 200_000


def _grey(*shape: int) -> jax.Array:
    """Levels strictly between 0 and 1, so that what the noise wrote can be told from what was there."""
    return jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, shape or (100, 100, 20)), jnp.float32)


@pytest.mark.parametrize("sigma", [0.1, 1.5])
def test_gaussian_has_mean_0_and_variance_sigma_squared(sigma: float):
    """x̃ − x: mean 0, variance σ², fourth moment 3σ⁴, no correlation with x or a neighbour; each within 4 s.e."""
    x = _grey()
    noise = np.asarray(gaussian_corruption(rng.root(0), x, sigma), np.float64) - np.asarray(x, np.float64)
    noise = noise / sigma
    assert abs(noise.mean()) < 4 / np.sqrt(_COUNT)
    assert abs((noise**2).mean() - 1) < 4 * np.sqrt(2 / _COUNT)
    assert abs((noise**4).mean() - 3) < 4 * np.sqrt(96 / _COUNT)
    neighbours = [np.roll(noise, 1, axis) for axis in range(3)]
    for other in (np.asarray(x), *neighbours):
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(_COUNT)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masking_makes_a_share_black_and_leaves_the_rest(rate: float):
    """The share of zeros is ν within 4 standard errors, elements are masked on their own, the rest is the image."""
    x = _grey()
    found = np.asarray(masking_corruption(rng.root(1), x, rate))
    masked = found == 0
    np.testing.assert_array_equal(found[~masked], np.asarray(x)[~masked])
    assert abs(masked.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / _COUNT)
    for axis in range(3):
        pairs = masked & np.roll(masked, 1, axis)
        # The variance of a mean of neighbours' products, which overlap in one of them.
        variance = rate**2 * (1 - rate**2) + 2 * (rate**3 - rate**4)
        assert abs(pairs.mean() - rate**2) < 4 * np.sqrt(variance / _COUNT)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_salt_and_pepper_have_equal_shares(rate: float):
    """ν / 2 are black and ν / 2 white, each within 4 standard errors, and the rest is the image."""
    x = _grey()
    found = np.asarray(salt_and_pepper_corruption(rng.root(2), x, rate))
    pepper, salt = found == 0, found == 1
    rest = ~(pepper | salt)
    np.testing.assert_array_equal(found[rest], np.asarray(x)[rest])
    half = rate / 2
    for share in (pepper.mean(), salt.mean()):
        assert abs(share - half) < 4 * np.sqrt(half * (1 - half) / _COUNT)
    assert abs(rest.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / _COUNT)
    variance = half**2 * (1 - half**2) + 2 * (half**3 - half**4)
    for axis in range(3):
        assert abs((salt & np.roll(salt, 1, axis)).mean() - half**2) < 4 * np.sqrt(variance / _COUNT)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_level_0_is_the_identity(kind: str):
    """Bit for bit, black, white and grey."""
    x = jnp.concatenate([_grey(1000), jnp.zeros(10), jnp.ones(10)])
    np.testing.assert_array_equal(corrupt(rng.root(3), x, kind, 0.0), x)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("level", [0, 1])
def test_a_whole_level_is_the_same_number(kind: str, level: int):
    """1 is 1.0, and 0 is 0.0, as a slider may give them."""
    x = _grey(1000)
    found = corrupt(rng.root(3), x, kind, level)
    np.testing.assert_array_equal(found, corrupt(rng.root(3), x, kind, float(level)))
    assert found.dtype == x.dtype


def test_level_1_leaves_nothing():
    """ν = 1 masks all of it; salt and pepper are then a fair coin an element."""
    x = _grey()
    assert (np.asarray(masking_corruption(rng.root(4), x, 1.0)) == 0).all()
    flipped = np.asarray(salt_and_pepper_corruption(rng.root(5), x, 1.0))
    assert set(np.unique(flipped)) == {0.0, 1.0}
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(_COUNT)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_by_name_and_under_vmap(kind: str):
    """`corrupt` is the function of that name, keeps shape and type, and is keyed by the example alone."""
    function = {
        "gaussian": gaussian_corruption,
        "masking": masking_corruption,
        "salt_and_pepper": salt_and_pepper_corruption,
    }[kind]
    x = _grey(3, 4, 4, 3)
    keys = rng.per_example(rng.root(6), np.arange(3))
    found = _jit(jax.vmap(lambda key, image: corrupt(key, image, kind, 0.4)))(keys, x)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    for i in range(3):
        alone = function(jax.random.fold_in(rng.root(6), i), x[i], 0.4)
        np.testing.assert_allclose(found[i], alone, rtol=1e-6, atol=2e-7)  # Compiled, a product and a sum round once.


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_equal_images_get_unequal_noise(kind: str):
    """In a batch of one image over and over no two corruptions are alike, and none is at the next step."""
    x = jnp.broadcast_to(_grey(64), (6, 64))

    def at_step(step: int) -> np.ndarray:
        keys = rng.per_example(rng.stream(rng.at_step(rng.root(7), step), "corruption"), np.arange(6))
        return np.asarray(_jit(jax.vmap(lambda key, image: corrupt(key, image, kind, 0.5)))(keys, x))

    first, again, next_step = at_step(0), at_step(0), at_step(1)
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(np.concatenate([first, next_step]), axis=0)) == 12


def test_an_unknown_corruption_is_an_error():
    with pytest.raises(ValueError, match="corruption='blur' is unknown"):
        corrupt(rng.root(0), jnp.zeros(3), "blur", 0.1)


def _small() -> tuple[MLPAutoencoder, Any, dict[str, np.ndarray]]:
    model = MLPAutoencoder((4, 4, 1), (6, 3))
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, 4, 4, 1)))["params"]
    image = np.random.default_rng(1).integers(0, 256, (16, 4, 4, 1)).astype(np.uint8)
    return model, params, {"image": image, "index": np.arange(50, 66, dtype=np.uint32)}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_objective_judges_against_the_clean_image(kind: str):
    """The loss is the mean error of the clean images from the noise of each index, remade here by numpy."""
    model, params, batch = _small()
    loss, (_, terms) = _jit(functools.partial(denoising_objective, model=model, corruption=kind, level=0.3))(
        params, {}, rng.root(9), batch
    )
    x = np.asarray(batch["image"] / np.float32(255))
    one = _jit(lambda i, a: corrupt(jax.random.fold_in(rng.stream(rng.root(9), "corruption"), i), a, kind, 0.3))
    corrupted = np.stack([one(i, a) for i, a in zip(batch["index"], x, strict=True)])
    logits = np.asarray(_jit(model.apply)({"params": params}, corrupted), np.float64)
    expected = np.sum(np.logaddexp(0, logits) - x * logits, axis=(1, 2, 3)).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(terms["reconstruction"]) == float(loss)


def _steps(layout: Layout, batch: Any) -> Any:
    """Parameters and metrics after two SGD steps of denoising on a layout of devices."""
    model, params, _ = _small()
    tx = optax.sgd(0.01)
    loss = functools.partial(denoising_objective, model=model, corruption="masking", level=0.5)
    step = layout.wrap_train(make_train_step(loss, tx))
    state = layout.put_state(init_state(params, tx, rng.root(2)))
    for _ in range(2):
        state, metrics = step(state, layout.put_batch(batch))
    return to_host(state).params, to_host(metrics)


def test_the_noise_is_the_same_on_eight_devices():
    """Eight devices corrupt as one does, by the example's own index; with other indices the result is another."""
    _, _, batch = _small()
    params, metrics = _steps(Layout("jit", jax.devices()[:1]), batch)
    others, other_metrics = _steps(Layout("pmap", jax.devices()[:8]), batch)
    chex.assert_trees_all_close(others, params, rtol=0, atol=1e-6)
    chex.assert_trees_all_close(other_metrics, metrics, rtol=1e-5)
    local = batch | {"index": np.tile(np.arange(2, dtype=np.uint32), 8)}  # As if each device counted its own.
    moved, _ = _steps(Layout("jit", jax.devices()[:1]), local)
    distance = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), moved, params)
    assert max(jax.tree.leaves(distance)) > 1e-4


@pytest.mark.parametrize(("kind", "level"), [("gaussian", 0.4), ("masking", 0.3), ("salt_and_pepper", 0.25)])
def test_the_conditional_moments_are_those_of_many_draws(kind: str, level: float):
    """The mean a x + c and the variance of 40,000 corruptions of each grey level, within 5 standard errors."""
    x = jnp.linspace(0.0, 1.0, 11)
    draws = jax.vmap(lambda key: corrupt(key, x, kind, level))(jax.random.split(rng.root(0), 40_000))
    gain, offset, variance = conditional_moments(x, kind, level)
    error = np.sqrt(np.asarray(variance) / 40_000)
    assert np.all(np.abs(np.mean(draws, axis=0) - (gain * x + offset)) <= 5 * error + 1e-4)
    np.testing.assert_allclose(np.var(draws, axis=0), variance, rtol=0.05, atol=1e-6)
    with pytest.raises(ValueError, match="unknown"):
        conditional_moments(x, "salt", level)
