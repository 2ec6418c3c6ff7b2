"""The contractive penalty in closed form, by automatic derivatives, by finite differences and by random probes."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng
from gen_jax.families.autoencoder import (
    MLPAutoencoder,
    contractive_objective,
    contractive_penalty,
    hutchinson_contractive_penalty,
    sigmoid_contractive_penalty,
)

# Most of this file's time is compilation; these programs run once each.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
_SHAPE = (3, 4, 2)


@functools.lru_cache
def _setup(tied: bool = False, latent_dim: int = 5) -> tuple[MLPAutoencoder, Any, np.ndarray]:
    """One sigmoid layer, its parameters in float64 and away from symmetry, and four images."""
    model = MLPAutoencoder(_SHAPE, (latent_dim,), code_activation=nn.sigmoid, tied=tied)
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: 2.0 * np.asarray(a, np.float64) + 0.3 * random.standard_normal(a.shape), params)
    return model, params, np.random.default_rng(1).random((4, *_SHAPE))


def _encode(model: Any, params: Any, image: Any) -> jax.Array:
    return model.apply({"params": params}, image[None], method="encode")[0]


def _jacobian(params: Any, image: np.ndarray) -> np.ndarray:
    """J [d, D] of the sigmoid layer by central differences of a numpy forward pass."""
    kernel, bias = params["encoder_0"]["kernel"], params["encoder_0"]["bias"]

    def forward(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(x @ kernel + bias)))

    steps = 1e-6 * np.eye(image.size)
    return np.stack([(forward(image.ravel() + e) - forward(image.ravel() - e)) / 2e-6 for e in steps], axis=1)


@pytest.mark.parametrize("tied", [False, True])
def test_closed_form_is_the_jacobian(tied: bool):
    """Σ_j [z_j (1 − z_j)]² Σ_i W_ij² = ‖J‖²_F to 1e−10 in float64, and the finite differences' to their precision."""
    model, params, images = _setup(tied)

    def both(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        encode = functools.partial(_encode, model, params)
        kernel = jnp.asarray(params["encoder_0"]["kernel"])
        return contractive_penalty(encode, image), sigmoid_contractive_penalty(encode(image), kernel)

    with jax.enable_x64(True):
        compiled = _jit(both)
        for image in images:
            exact, closed = compiled(image)
            assert exact.shape == closed.shape == ()
            assert exact.dtype == closed.dtype == jnp.float64
            assert float(closed) == pytest.approx(float(exact), rel=1e-10, abs=1e-10)
            assert float(exact) == pytest.approx(np.sum(_jacobian(params, image) ** 2), rel=1e-7)


def test_the_jacobian_of_a_deep_encoder():
    """For two layers with another activation the penalty is that of finite differences of the encoder."""
    model = MLPAutoencoder(_SHAPE, (7, 3), activation=nn.tanh)
    params = jax.tree.map(
        lambda a: 2.0 * np.asarray(a, np.float64), _jit(model.init)(rng.root(2), jnp.zeros((1, *_SHAPE)))["params"]
    )
    with jax.enable_x64(True):
        image = np.random.default_rng(3).random(_SHAPE)
        encode = _jit(lambda x: model.apply({"params": params}, x.reshape(-1, *_SHAPE), method="encode"))
        steps = 1e-6 * np.eye(image.size)
        expected = np.sum(((encode(image.ravel() + steps) - encode(image.ravel() - steps)) / 2e-6) ** 2)
        found = contractive_penalty(lambda x: encode(x)[0], jnp.asarray(image))
        assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_the_penalty_of_a_linear_encoder_is_its_weights():
    """f(x) = W x has ‖J‖²_F = ‖W‖²_F everywhere; f(x) = x ⊙ x has 4 ‖x‖²."""
    kernel = jnp.asarray(np.random.default_rng(4).standard_normal((3, 6)), jnp.float32)
    x = jnp.arange(1.0, 7.0)
    assert float(contractive_penalty(lambda x: kernel @ x, x)) == pytest.approx(float(jnp.sum(kernel**2)), rel=1e-6)
    assert float(contractive_penalty(lambda x: x * x, x)) == pytest.approx(4 * 91, rel=1e-6)


def _hutchinson_variance(jacobian: np.ndarray) -> float:
    """Of one probe of signs: 2 Σ_{i≠j} (J Jᵀ)_ij²."""
    gram = jacobian @ jacobian.T
    return 2 * (np.sum(gram**2) - np.sum(np.diag(gram) ** 2))


@pytest.mark.parametrize("num_probes", [1, 4, 16])
def test_hutchinson_is_unbiased_with_the_known_variance(num_probes: int):
    """Over 20000 keys the mean is ‖J‖²_F and the variance 2 Σ_{i≠j} (J Jᵀ)_ij² / n, each within 4 standard errors."""
    model, params, images = _setup()
    count, encode = 20_000, functools.partial(_encode, model, params)
    with jax.enable_x64(True):
        keys = rng.per_example(rng.root(5), np.arange(count))
        estimate = jax.jit(
            jax.vmap(lambda key: hutchinson_contractive_penalty(encode, key, jnp.asarray(images[0]), num_probes))
        )
        found = np.asarray(estimate(keys))
    jacobian = _jacobian(params, images[0])
    variance = _hutchinson_variance(jacobian) / num_probes
    assert np.sqrt(variance) > 0.03 * np.sum(jacobian**2) / np.sqrt(num_probes)  # It does vary.
    assert abs(found.mean() - np.sum(jacobian**2)) < 4 * np.sqrt(variance / count)
    squares = (found - found.mean()) ** 2
    assert abs(squares.mean() - variance) < 4 * squares.std() / np.sqrt(count)


def test_hutchinson_is_exact_for_one_number():
    """With a code of one number every probe is ±1 and every estimate exact."""
    model, params, images = _setup(latent_dim=1)
    encode = functools.partial(_encode, model, params)
    with jax.enable_x64(True):
        exact = float(_jit(functools.partial(contractive_penalty, encode))(images[1]))
        for num_probes in (1, 3):
            estimate = functools.partial(hutchinson_contractive_penalty, encode, num_probes=num_probes)
            found = _jit(jax.vmap(lambda key, estimate=estimate: estimate(key, jnp.asarray(images[1]))))(
                rng.per_example(rng.root(0), np.arange(3))
            )
            np.testing.assert_allclose(found, exact, rtol=1e-12)


def _objective(contraction: str, model: Any, params: Any, images: Any, seed: int = 0, **options: Any) -> Any:
    """The gradient, the loss and the terms of the shipped objective."""
    batch = {"image": 255 * images, "index": np.arange(len(images), dtype=np.uint32)}

    def loss(params: Any) -> Any:
        value, (model_state, terms) = contractive_objective(
            params, {}, rng.root(seed), batch, model=model, contraction=contraction, **options
        )
        assert model_state == {}
        return value, terms

    (value, terms), gradient = _jit(jax.value_and_grad(loss, has_aux=True))(params)
    return gradient, value, terms


@pytest.mark.parametrize("tied", [False, True])
def test_both_exact_objectives_agree(tied: bool):
    """Closed form and Jacobian give one loss and one gradient to 1e−10, and the terms add up to the loss."""
    model, params, images = _setup(tied)
    with jax.enable_x64(True):
        closed, jacobian = (_objective(name, model, params, images, weight=0.7) for name in ("closed_form", "jacobian"))
    for a, b in zip(jax.tree.leaves(closed), jax.tree.leaves(jacobian), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    _, value, terms = closed
    assert set(terms) == {"reconstruction", "contraction"}
    assert float(value) == pytest.approx(float(terms["reconstruction"]) + 0.7 * float(terms["contraction"]), rel=1e-14)
    by_image = [np.sum(_jacobian(params, np.asarray(image, np.float32)) ** 2) for image in images]
    assert float(terms["contraction"]) == pytest.approx(np.mean(by_image), rel=1e-6)


def test_the_penalty_moves_the_encoder_alone():
    """The weight's part of the gradient is 0 in an untied decoder, and differs from 0 in the encoder."""
    model, params, images = _setup()
    with jax.enable_x64(True):
        with_penalty = _objective("closed_form", model, params, images, weight=1.0)[0]
        without = _objective("closed_form", model, params, images, weight=0.0)[0]
    part = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a - b)).max()), with_penalty, without)
    assert part["decoder_0"] == {"kernel": 0.0, "bias": 0.0}
    assert part["encoder_0"]["kernel"] > 1e-3 and part["encoder_0"]["bias"] > 1e-3


def test_hutchinson_objective_agrees_in_expectation():
    """Over 400 keys of 8 probes each its penalty and the gradient of it are the exact ones within 4 standard errors."""
    model, params, images = _setup()
    batch = {"image": 255 * images, "index": np.arange(len(images), dtype=np.uint32)}
    loss = functools.partial(contractive_objective, model=model, weight=1.0)

    def penalty(params: Any, key: Any, contraction: str) -> jax.Array:
        options = {"contraction": contraction, "num_probes": 8}
        return loss(params, {}, key, batch, **options)[1][1]["contraction"]

    with jax.enable_x64(True):
        exact, slope = jax.jit(jax.value_and_grad(lambda params: penalty(params, rng.root(0), "jacobian")))(params)
        keys = jax.vmap(lambda step: rng.at_step(rng.root(7), step))(jnp.arange(400))
        sampled = jax.value_and_grad(lambda params, key: penalty(params, key, "hutchinson"))
        values, slopes = jax.jit(jax.vmap(sampled, in_axes=(None, 0)))(params, keys)

    def deviations(samples: Any, expected: Any) -> np.ndarray:
        samples = np.asarray(samples)
        return np.abs(samples.mean(0) - np.asarray(expected)) / (samples.std(0, ddof=1) / np.sqrt(len(samples)))

    variance = np.mean([_hutchinson_variance(_jacobian(params, image)) for image in images]) / (8 * len(images))
    assert abs(float(np.mean(values)) - float(exact)) < 4 * np.sqrt(variance / 400)
    assert np.var(np.asarray(values)) == pytest.approx(variance, rel=0.35)  # χ² with 399 degrees: ±28 % at 4 s.e.
    assert deviations(slopes["encoder_0"]["kernel"], slope["encoder_0"]["kernel"]).max() < 4.5  # The largest of 120.
    assert deviations(slopes["encoder_0"]["bias"], slope["encoder_0"]["bias"]).max() < 4


def test_probes_belong_to_the_example():
    """A batch's estimate is the mean of its halves', each with its own indices; another index is another probe."""
    model, params, images = _setup()
    batch = {"image": 255 * images, "index": np.arange(40, 44, dtype=np.uint32)}

    def penalty(batch: Any) -> float:
        loss = functools.partial(contractive_objective, model=model, weight=1.0, contraction="hutchinson")
        return float(_jit(loss)(params, {}, rng.root(0), batch)[1][1]["contraction"])

    with jax.enable_x64(True):
        whole = penalty(batch)
        halves = [penalty({name: value[part] for name, value in batch.items()}) for part in (slice(0, 2), slice(2, 4))]
        assert np.mean(halves) == pytest.approx(whole, rel=1e-6)  # A product Jᵀv has the images' type, float32.
        assert penalty(batch | {"index": batch["index"] + 1}) != pytest.approx(whole, rel=1e-4)


def test_an_unknown_contraction_is_an_error():
    model, params, images = _setup()
    with pytest.raises(ValueError, match="contraction='spectral' is unknown"):
        _objective("spectral", model, params, np.asarray(images, np.float32), weight=1.0)


def test_saturated_units_cost_nothing():
    """With z exactly 0 or 1 the penalty and its gradient are finite and 0."""
    value, slope = jax.value_and_grad(sigmoid_contractive_penalty)(jnp.array([0.0, 1.0]), jnp.ones((3, 2)))
    assert float(value) == 0.0
    np.testing.assert_array_equal(slope, [0.0, 0.0])
