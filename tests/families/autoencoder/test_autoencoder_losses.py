"""The errors of a reconstruction, the weights' penalty, the moments of codes, and the twin that shares no gradient."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.families.autoencoder import (
    ConvAutoencoder,
    MLPAutoencoder,
    contractive_objective,
    denoising_objective,
    l2_penalty,
    objective,
    objectives,
    reconstruction_error,
    sparse_objective,
)
from gen_jax.families.autoencoder.objectives import beside_plain, code_moments, update_code_moments

_SHAPE = (3, 4, 2)
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("error", ["squared_error", "cross_entropy"])
def test_the_errors_are_sums_over_the_image(error: str):
    """Of grey levels against numpy in float64, with scipy's log σ; of an image twice as large they are twice as much.

    The squared error is what is meant where nothing is said, and the cross-entropy log 2 a pixel at the logit 0.
    """
    random = np.random.default_rng(1)
    x, reconstruction = np.float32(random.random(_SHAPE)), np.float32(4 * random.standard_normal(_SHAPE))
    grey, logits = x.astype(np.float64), reconstruction.astype(np.float64)
    if error == "squared_error":
        expected = np.sum((grey - logits) ** 2)
    else:
        expected = -np.sum(grey * scipy.special.log_expit(logits) + (1 - grey) * scipy.special.log_expit(-logits))
    found = reconstruction_error(x, reconstruction, error)
    assert found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-6)
    doubled = reconstruction_error(np.concatenate([x, x]), np.concatenate([reconstruction, reconstruction]), error)
    assert float(doubled) == pytest.approx(2 * expected, rel=1e-6)
    assert float(reconstruction_error(jnp.zeros(5), jnp.full(5, 2.0))) == 20.0
    assert float(reconstruction_error(x, jnp.zeros(_SHAPE), "cross_entropy")) == pytest.approx(24 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("pixel", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_cross_entropy_at_extreme_logits(pixel: float, logit: float):
    """The value is max(ℓ, 0) − x ℓ there, and the gradient σ(ℓ) − x: finite both."""
    value, slope = jax.value_and_grad(reconstruction_error, argnums=1)(
        jnp.array([pixel]), jnp.array([logit]), "cross_entropy"
    )
    assert float(value) == pytest.approx(max(logit, 0.0) - pixel * logit, rel=1e-6, abs=1e-30)
    assert float(slope[0]) == pytest.approx((logit > 0) - pixel, abs=1e-6)


def test_an_unknown_error_is_an_error():
    with pytest.raises(ValueError, match="error='absolute' is unknown"):
        reconstruction_error(jnp.zeros(2), jnp.zeros(2), "absolute")


def test_l2_penalty_is_of_weights_alone():
    """Kernels of dense layers and convolutions by numpy, and no bias."""
    model = ConvAutoencoder((4, 4, 1), (3,), 2)
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, 4, 4, 1)))["params"]
    params = jax.tree.map(lambda a: np.asarray(a) + 1.0, params)
    kernels = [layer["kernel"] for layer in params.values()]
    assert len(kernels) == 4
    assert {kernel.ndim for kernel in kernels} == {2, 4}
    expected = sum(float(np.sum(kernel.astype(np.float64) ** 2)) for kernel in kernels)
    assert float(l2_penalty(params)) == pytest.approx(expected, rel=1e-6)


def test_code_moments_after_equal_batches():
    """After n equal batches the average is (1 − r)^n of N(0, I)'s moments and the rest of the batch's."""
    z = np.random.default_rng(2).standard_normal((50, 3)) + np.array([1.0, -2.0, 0.5])
    mean, second = z.mean(0), z.T @ z / 50
    moments = code_moments(3)
    np.testing.assert_array_equal(moments["code_mean"], np.zeros(3))
    np.testing.assert_array_equal(moments["code_second_moment"], np.eye(3))
    update = jax.jit(functools.partial(update_code_moments, rate=0.1))
    for n in range(1, 21):
        moments = update(moments, jnp.asarray(z, jnp.float32))
        left = 0.9**n
        np.testing.assert_allclose(moments["code_mean"], (1 - left) * mean, rtol=1e-5, atol=1e-6)
        expected = left * np.eye(3) + (1 - left) * second
        np.testing.assert_allclose(moments["code_second_moment"], expected, rtol=1e-5, atol=1e-5)


def test_code_moments_of_devices_average_to_those_of_the_batch():
    """The mean over 8 equal parts of their updates is the update of the whole; so no device's part is a special one."""
    z = jnp.asarray(np.random.default_rng(3).standard_normal((32, 4)), jnp.float32) * jnp.arange(1.0, 33.0)[:, None]
    moments = {"code_mean": jnp.arange(4.0), "code_second_moment": 7.0 * jnp.eye(4)}
    update = functools.partial(update_code_moments, rate=0.5)
    whole = update(moments, z)
    parts = jax.vmap(update, in_axes=(None, 0))(moments, z.reshape(8, 4, 4))
    for name, value in whole.items():
        np.testing.assert_allclose(np.mean(parts[name], axis=0), value, rtol=1e-5, atol=1e-5)
        assert np.abs(np.asarray(parts[name][0]) - np.asarray(value)).max() > 0.1


def _setup(**options: Any) -> tuple[MLPAutoencoder, Any, dict[str, np.ndarray]]:
    model = MLPAutoencoder(_SHAPE, **({"widths": (6, 3)} | options))
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"]
    params = jax.tree.map(lambda a: 1.5 * np.asarray(a) + np.float32(0.05), params)
    image = np.random.default_rng(4).integers(0, 256, (8, *_SHAPE)).astype(np.uint8)
    return model, params, {"image": image, "index": np.arange(8, dtype=np.uint32), "step": np.int32(0)}


def test_what_an_objective_cannot_be_is_refused():
    """A cross-entropy of what is no logit, and a closed form that there is not, would be wrong in silence."""
    model, params, batch = _setup(output="linear")
    with pytest.raises(ValueError, match="needs logits"):
        objective(params, {}, rng.root(1), batch, model=model, error="cross_entropy")
    for changed in ({"widths": (5, 3), "code_activation": nn.sigmoid}, {"widths": (3,)}):
        model, params, batch = _setup(**changed)
        with pytest.raises(ValueError, match="one sigmoid layer"):
            contractive_objective(params, {}, rng.root(1), batch, model=model, weight=1.0)


@pytest.mark.parametrize(
    ("error", "output"), [("squared_error", "sigmoid"), ("squared_error", "linear"), ("cross_entropy", "sigmoid")]
)
def test_the_objective_against_numpy(error: str, output: str):
    """The mean over images of sums over pixels; the squared error is of the image, sigmoid and all."""
    model, params, batch = _setup(output=output)
    loss, (model_state, terms) = _jit(functools.partial(objective, model=model, error=error, l2=0.01))(
        params, {}, rng.root(1), batch
    )
    x = batch["image"] / 255
    raw = np.asarray(model.apply({"params": params}, jnp.asarray(x, jnp.float32)), np.float64)
    if error == "squared_error":
        each = (x - (scipy.special.expit(raw) if output == "sigmoid" else raw)) ** 2
    else:
        each = np.logaddexp(0, raw) - x * raw
    assert float(terms["reconstruction"]) == pytest.approx(each.sum() / 8, rel=1e-5)
    squares = sum(np.sum(np.square(layer["kernel"], dtype=np.float64)) for layer in params.values())
    assert float(terms["l2"]) == pytest.approx(squares, rel=1e-6)
    assert float(loss) == pytest.approx(each.sum() / 8 + 0.01 * squares, rel=1e-5)
    assert model_state == {}


def test_the_objective_keeps_the_moments_of_the_codes():
    """Late in a run they move by a hundredth towards those of the batch's codes, at first all the way."""
    model, params, batch = _setup()
    batch["step"] = np.int32(5000)
    compiled = _jit(functools.partial(objective, model=model))
    loss, (model_state, terms) = compiled(params, code_moments(3), rng.root(1), batch)
    assert set(terms) == {"reconstruction"}
    assert float(loss) == pytest.approx(float(compiled(params, {}, rng.root(1), batch)[0]), rel=1e-6)
    x = jnp.asarray(batch["image"] / 255, jnp.float32)
    z = np.asarray(model.apply({"params": params}, x, method="encode"), np.float64)
    np.testing.assert_allclose(model_state["code_mean"], 0.01 * z.mean(0), rtol=1e-4, atol=1e-6)
    expected = 0.99 * np.eye(3) + 0.01 * z.T @ z / 8
    np.testing.assert_allclose(model_state["code_second_moment"], expected, rtol=1e-4, atol=1e-6)
    _, (first, _) = compiled(params, code_moments(3), rng.root(1), batch | {"step": np.int32(0)})
    np.testing.assert_allclose(first["code_mean"], z.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first["code_second_moment"], z.T @ z / 8, rtol=1e-4, atol=1e-6)
    _, (third, _) = compiled(params, first, rng.root(1), batch | {"step": np.int32(2), "image": 255 - batch["image"]})
    other = np.asarray(model.apply({"params": params}, 1 - x, method="encode"), np.float64)
    np.testing.assert_allclose(third["code_mean"], (2 * z.mean(0) + other.mean(0)) / 3, rtol=1e-4, atol=1e-6)


def _twins() -> tuple[MLPAutoencoder, dict[str, Any], dict[str, np.ndarray]]:
    model, params, batch = _setup(code_activation=nn.sigmoid)
    return model, {"model": params, "plain": jax.tree.map(lambda a: a * 0.9 - 0.02, params)}, batch


@pytest.mark.parametrize("trained", ["denoising", "kl", "k_sparse"])
def test_each_twin_has_the_gradient_of_its_own_loss(trained: str):
    """The sum's gradient in each is its own loss's, and to the bit nothing of one moves when the other does."""
    model, params, batch = _twins()
    own = {
        "denoising": functools.partial(denoising_objective, model=model, corruption="masking", level=0.4),
        "kl": functools.partial(sparse_objective, model=model, sparsity="kl", weight=3.0),
        "k_sparse": functools.partial(sparse_objective, model=model, sparsity="k_sparse", k=2, k_start=3),
    }[trained]
    plain = functools.partial(objective, model=model)

    def gradient(loss: Any) -> Any:
        return _jit(jax.value_and_grad(loss, has_aux=True))

    both = gradient(beside_plain(own, plain))
    (loss, (model_state, terms)), slopes = both(params, {}, rng.root(5), batch)
    (own_loss, (_, own_terms)), own_slope = gradient(own)(params["model"], {}, rng.root(5), batch)
    (plain_loss, (_, plain_terms)), plain_slope = gradient(plain)(params["plain"], {}, rng.root(5), batch)
    assert float(loss) == pytest.approx(float(own_loss) + float(plain_loss), rel=1e-6)
    assert model_state == {}
    expected = own_terms | {f"plain_{name}": value for name, value in plain_terms.items()}
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-6)
    for found, alone in ((slopes["model"], own_slope), (slopes["plain"], plain_slope)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, alone)
    other = params | {"plain": jax.tree.map(lambda a: a + 0.3, params["plain"])}
    jax.tree.map(np.testing.assert_array_equal, both(other, {}, rng.root(5), batch)[1]["model"], slopes["model"])
    other = params | {"model": jax.tree.map(lambda a: a + 0.3, params["model"])}
    jax.tree.map(np.testing.assert_array_equal, both(other, {}, rng.root(5), batch)[1]["plain"], slopes["plain"])


def test_errors_of_takes_the_image_that_a_sigmoid_stands_for():
    """Each of a batch on its own, [B]; the cross-entropy takes the logits as they are."""
    x = jnp.full((3, 1, 2, 1), 0.5)
    raw = jnp.arange(3.0).reshape(3, 1, 1, 1) * jnp.ones((3, 1, 2, 1))
    found = objectives.errors_of(x, raw, "sigmoid", "squared_error")
    np.testing.assert_allclose(found, 2 * (0.5 - scipy.special.expit([0.0, 1.0, 2.0])) ** 2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        objectives.errors_of(x, raw, "linear", "squared_error"), 2 * (0.5 - np.arange(3)) ** 2, rtol=1e-6
    )
    np.testing.assert_allclose(
        objectives.errors_of(x, raw, "sigmoid", "cross_entropy"),
        2 * (np.logaddexp(0, np.arange(3.0)) - 0.5 * np.arange(3)),
        rtol=1e-6,
    )
