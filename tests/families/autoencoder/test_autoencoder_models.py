"""The models: sizes, a numpy forward pass, tied decoders as exact transposes, and the gradient of shared weights."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.families.autoencoder import ConvAutoencoder, MLPAutoencoder, objective, sampling
from gen_jax.families.autoencoder.models import identity, image_of

# Most of this file's time is compilation; these programs run once each.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _init(model: Any) -> Any:
    with jax.enable_x64(False):
        return _jit(model.init)(rng.root(0), jnp.zeros((1, *model.image_shape)))["params"]


def _apply(model: Any, params: Any, x: Any, method: str = "__call__") -> jax.Array:
    return _jit(functools.partial(model.apply, method=method))({"params": params}, x)


def _count(model: Any) -> int:
    shapes = jax.eval_shape(model.init, rng.root(0), jnp.zeros((1, *model.image_shape)))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("tied", "expected"), [(False, 2_837_314), (True, 1_420_814)])
def test_parameters_of_the_deep_autoencoder(tied: bool, expected: int):
    """784-1000-500-250-30 and back: twice the kernels or once, and the biases of both halves."""
    assert _count(MLPAutoencoder((28, 28, 1), (1000, 500, 250, 30), tied=tied)) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_of_the_convolutional_autoencoder(tied: bool):
    """Kernels 4x4: 1-32-64 on 28x28, then 3136-30, once or twice, and the biases of both halves."""
    kernels = 16 * 32 + 16 * 32 * 64 + 3136 * 30
    assert _count(ConvAutoencoder((28, 28, 1), tied=tied)) == kernels * (1 if tied else 2) + (32 + 64 + 30) + (
        3136 + 32 + 1
    )


@pytest.mark.parametrize("tied", [False, True])
def test_the_deep_autoencoder_against_numpy(tied: bool):
    """Every layer by numpy: the activation on all but the code and the output, the code's own on the code."""
    model = MLPAutoencoder((3, 2, 2), (7, 5, 4), nn.tanh, nn.sigmoid, tied=tied)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: np.asarray(a + 0.3 * random.standard_normal(a.shape), np.float32), _init(model))
    x = random.random((6, 3, 2, 2)).astype(np.float32)
    h = x.reshape(6, 12).astype(np.float64)
    for i in range(3):
        h = h @ params[f"encoder_{i}"]["kernel"] + params[f"encoder_{i}"]["bias"]
        h = np.tanh(h) if i < 2 else scipy.special.expit(h)
    z = _apply(model, params, x, "encode")
    np.testing.assert_allclose(z, h, rtol=1e-5, atol=1e-6)
    for i in (2, 1, 0):
        if tied:
            h = h @ params[f"encoder_{i}"]["kernel"].T + params[f"decoder_bias_{i}"]
        else:
            h = h @ params[f"decoder_{i}"]["kernel"] + params[f"decoder_{i}"]["bias"]
        h = np.tanh(h) if i else h
    np.testing.assert_allclose(_apply(model, params, x), h.reshape(6, 3, 2, 2), rtol=1e-5, atol=1e-5)
    shown = _jit(functools.partial(sampling.reconstruct, model=model))(params, x)
    np.testing.assert_allclose(shown, scipy.special.expit(h).reshape(6, 3, 2, 2), rtol=1e-5, atol=1e-5)
    assert model.latent_dim == z.shape[1] == 4


def _linear_twin(kind: str, tied: bool) -> Any:
    if kind == "mlp":
        return MLPAutoencoder((4, 8, 3), (9, 5), identity, output="linear", tied=tied)
    return ConvAutoencoder((4, 8, 3), (5, 6), 7, identity, output="linear", tied=tied)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_a_tied_decoder_is_the_transpose_of_the_encoder(kind: str):
    """⟨f(x), h⟩ = ⟨x, g(h)⟩ for linear activations and biases 0, strides, padding and all; untied it is not."""
    random = np.random.default_rng(1)
    with jax.enable_x64(True):
        x, h = random.standard_normal((5, 4, 8, 3)), random.standard_normal((5, 5 if kind == "mlp" else 7))
        for tied in (True, False):
            model = _linear_twin(kind, tied)
            params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), _init(model))
            z = _apply(model, params, x, "encode")
            image = _apply(model, params, h, "decode")
            assert image.shape == x.shape
            inner = np.sum(np.asarray(z) * h, axis=1), np.sum(x * np.asarray(image), axis=(1, 2, 3))
            if tied:
                np.testing.assert_allclose(*inner, rtol=1e-10)
            else:
                assert np.abs(inner[0] - inner[1]).max() > 0.1


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_gradient_of_tied_weights_has_both_parts(kind: str):
    """Along random directions of each array the gradient is the finite difference of the loss in float64."""
    shape = (4, 4, 1)
    model = MLPAutoencoder(shape, (6, 3), tied=True) if kind == "mlp" else ConvAutoencoder(shape, (3, 4), 3, tied=True)
    random = np.random.default_rng(2)
    batch = {"image": random.integers(0, 256, (4, *shape)).astype(np.uint8)}
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: a + 0.1 * random.standard_normal(a.shape), _init(model))
        leaves, tree = jax.tree.flatten(params)
        directions = [jnp.asarray(random.standard_normal(leaf.shape)) for leaf in leaves]

        def loss(steps: jax.Array) -> jax.Array:
            """The objective with array i moved by steps[i] along its direction."""
            moved = [leaf + t * d for leaf, t, d in zip(leaves, steps, directions, strict=True)]
            return objective(jax.tree.unflatten(tree, moved), {}, rng.root(0), batch, model=model)[0]

        eye = 1e-5 * jnp.eye(len(leaves))
        values = _jit(jax.vmap(loss))(jnp.concatenate([eye, -eye]))
        slopes = _jit(jax.grad(loss))(jnp.zeros(len(leaves)))
        differences = (values[: len(leaves)] - values[len(leaves) :]) / 2e-5
        assert np.abs(slopes).min() > 1e-4
        np.testing.assert_allclose(slopes, differences, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_a_tied_kernel_is_the_sum_of_its_two_uses():
    """For one linear layer it is the gradient of the untied encoder's plus the transpose of the decoder's."""
    tied, untied = (MLPAutoencoder((1, 2, 3), (4,), output="linear", tied=t) for t in (True, False))
    params = _init(tied)
    dense = {"kernel": params["encoder_0"]["kernel"].T, "bias": params["decoder_bias_0"]}
    batch = {"image": np.random.default_rng(3).integers(0, 256, (5, 1, 2, 3)).astype(np.uint8)}

    def slope(model: Any, params: Any) -> Any:
        loss = functools.partial(objective, model=model, error="squared_error")
        return _jit(jax.grad(lambda params: loss(params, {}, rng.root(0), batch)[0]))(params)

    whole = slope(tied, params)
    parts = slope(untied, {"encoder_0": params["encoder_0"], "decoder_0": dense})
    first, second = parts["encoder_0"]["kernel"], parts["decoder_0"]["kernel"].T
    assert np.abs(first).max() > 1e-2 and np.abs(second).max() > 1e-2
    np.testing.assert_allclose(whole["encoder_0"]["kernel"], first + second, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole["decoder_bias_0"], parts["decoder_0"]["bias"], rtol=1e-5, atol=1e-6)


def _slow_convolution(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Stride 2, padded by 1 on every side: [B, H, W, I] -> [B, H/2, W/2, O] by kernel [4, 4, I, O]."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = np.zeros((len(x), x.shape[1] // 2, x.shape[2] // 2, kernel.shape[3]))
    for i, j, u, v in np.ndindex(*found.shape[1:3], 4, 4):
        found[:, i, j] += padded[:, 2 * i + u, 2 * j + v] @ kernel[u, v]
    return found


def _slow_transpose(h: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The same windows backwards: [B, H, W, O] -> [B, 2H, 2W, I] by kernel [4, 4, I, O]."""
    padded = np.zeros((len(h), 2 * h.shape[1] + 2, 2 * h.shape[2] + 2, kernel.shape[2]))
    for i, j, u, v in np.ndindex(*h.shape[1:3], 4, 4):
        padded[:, 2 * i + u, 2 * j + v] += h[:, i, j] @ kernel[u, v].T
    return padded[:, 1:-1, 1:-1]


@pytest.mark.parametrize("tied", [False, True])
def test_the_convolutional_autoencoder_against_a_slow_loop(tied: bool):
    """Every stage by loops over windows: the activation on all but the code and the output, the code's own on it."""
    model = ConvAutoencoder((4, 8, 2), (3, 5), 4, nn.tanh, nn.sigmoid, output="linear", tied=tied)
    random = np.random.default_rng(5)
    params = jax.tree.map(lambda a: np.asarray(a + 0.4 * random.standard_normal(a.shape), np.float32), _init(model))
    x = random.random((3, 4, 8, 2)).astype(np.float32)
    h = x.astype(np.float64)
    for n in range(2):
        h = np.tanh(_slow_convolution(h, params[f"stages_{n}"]["kernel"]) + params[f"stages_{n}"]["bias"])
    h = scipy.special.expit(h.reshape(3, -1) @ params["to_code"]["kernel"] + params["to_code"]["bias"])
    np.testing.assert_allclose(_apply(model, params, x, "encode"), h, rtol=1e-5, atol=1e-6)
    if tied:
        h = h @ params["to_code"]["kernel"].T + params["from_code_bias"]
    else:
        h = h @ params["from_code"]["kernel"] + params["from_code"]["bias"]
    h = np.tanh(h).reshape(3, 1, 2, 5)
    for n in (1, 0):
        kernel = params[f"stages_{n}" if tied else f"back_{n}"]["kernel"]
        h = _slow_transpose(h, kernel) + (params[f"back_bias_{n}"] if tied else params[f"back_{n}"]["bias"])
        h = np.tanh(h) if n else h
    assert np.abs(h).max() > 1.0
    np.testing.assert_allclose(_apply(model, params, x), h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_the_convolutional_output_is_a_number_of_any_sign(tied: bool):
    """No activation stands after the last stage, and every pixel of an image depends on the code."""
    model = ConvAutoencoder((8, 4, 2), (3, 5), 4, nn.relu, output="linear", tied=tied)
    params = _init(model)
    codes = jnp.asarray(20 * np.random.default_rng(4).standard_normal((64, 4)), jnp.float32)
    image = _apply(model, params, codes, "decode")
    assert image.shape == (64, 8, 4, 2)
    assert float(image.min()) < -0.1 and float(image.max()) > 0.1
    assert (np.asarray(image).std(0) > 0).all()
    code = _apply(model, params, image, "encode")
    assert code.shape == (64, 4)
    assert float(code.min()) < 0 < float(code.max())


@pytest.mark.parametrize("init_std", [None, 0.01])
def test_the_scale_of_the_initial_weights(init_std: float | None):
    """LeCun's 1/√D or what is asked for, within 4 standard errors, in the encoder; the decoder's stays LeCun's."""
    params = _init(MLPAutoencoder((20, 20, 1), (100,), init_std=init_std))
    for name, std, least in (("encoder_0", init_std or 0.05, 0.02), ("decoder_0", 0.1, 0.02)):
        kernel = np.asarray(params[name]["kernel"], np.float64)
        assert least / 2 < 4 / np.sqrt(2 * kernel.size) < least  # The relative error of a standard deviation.
        assert kernel.std() == pytest.approx(std, rel=4 / np.sqrt(2 * kernel.size))
        assert abs(kernel.mean()) < 4 * std / np.sqrt(kernel.size)
        assert (np.asarray(params[name]["bias"]) == 0).all()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model", [MLPAutoencoder, ConvAutoencoder])
def test_parameters_are_float32_in_a_session_of_float64(model: Any, tied: bool):
    """As Linen's own layers', biases of tied decoders too: the session's default type is not the parameters'."""
    model = model((4, 4, 1), tied=tied)
    with jax.enable_x64(True):
        params = jax.eval_shape(model.init, rng.root(0), jnp.zeros((1, 4, 4, 1), jnp.float32))["params"]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize("model", [MLPAutoencoder, ConvAutoencoder])
def test_a_bad_output_is_an_error(model: Any):
    with pytest.raises(ValueError, match="output='tanh' is unknown"):
        model((4, 4, 1), output="tanh").init(rng.root(0), jnp.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MLPAutoencoder((4, 4, 1), ()), "at least one layer"),
        (ConvAutoencoder((4, 4, 1), ()), "at least one layer"),
        (ConvAutoencoder((4, 6, 1), (3, 3)), "divide by 4, not 4x6"),
    ],
)
def test_a_model_that_cannot_be_is_an_error(model: Any, message: str):
    with pytest.raises(ValueError, match=message):
        model.init(rng.root(0), jnp.zeros((1, *model.image_shape)))


def test_image_of():
    """σ(ℓ) for a sigmoid, the numbers themselves for a linear output."""
    raw = jnp.array([-1e4, -1.0, 0.0, 2.0, 1e4])
    np.testing.assert_allclose(image_of(raw, "sigmoid"), scipy.special.expit(np.asarray(raw, np.float64)), rtol=1e-6)
    np.testing.assert_array_equal(image_of(raw, "linear"), raw)
