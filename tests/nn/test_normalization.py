"""Norms of activations against numpy, and the spectral norm of weights against the singular values."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.contracts import UserError
from gen_jax.nn.normalization import Norm, with_spectral_norm
from gen_jax.nn.strided_conv import StridedConv


def _images(seed: int = 0) -> np.ndarray:
    return (3 + 2 * np.random.default_rng(seed).standard_normal((5, 4, 3, 2))).astype(np.float32)


def _randomize(params: Any, seed: int = 1) -> Any:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(random.standard_normal(a.shape), a.dtype), params)


def _init(norm: Norm, *inputs: jax.Array) -> tuple[Any, Any]:
    variables = dict(jax.jit(norm.init)(jax.random.key(0), *inputs))
    return _randomize(variables.pop("params", {})), variables


def test_batch_norm_and_its_running_averages():
    """In training the batch's statistics, of which the averages take a tenth; otherwise the averages."""
    x = _images()
    norm = Norm("batch")
    params, state = _init(norm, jnp.asarray(x))
    gain, bias = np.asarray(params["BatchNorm_0"]["scale"]), np.asarray(params["BatchNorm_0"]["bias"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y, new = norm.apply({"params": params, **state}, jnp.asarray(x), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, gain * (x - mean) / np.sqrt(var + 1e-5) + bias, atol=2e-5)
    stats = new["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
    y = norm.apply({"params": params, **new}, jnp.asarray(x))
    expected = gain * (x - np.asarray(stats["mean"])) / np.sqrt(np.asarray(stats["var"]) + 1e-5) + bias
    np.testing.assert_allclose(y, expected, atol=2e-5)


def test_layer_norm_is_over_all_of_one_example():
    """Mean and variance over height, width and channels; gain and bias by channel."""
    x = _images()
    norm = Norm("layer")
    params, state = _init(norm, jnp.asarray(x))
    assert state == {}
    gain, bias = np.asarray(params["LayerNorm_0"]["scale"]), np.asarray(params["LayerNorm_0"]["bias"])
    mean, var = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    y = norm.apply({"params": params}, jnp.asarray(x), train=True)
    np.testing.assert_allclose(y, gain * (x - mean) / np.sqrt(var + 1e-5) + bias, atol=2e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 2)])
def test_conditional_batch_norm(train: bool, shape: tuple[int, ...]):
    """With equal rows it is batch norm; in general row y of the tables is example y's gain and bias."""
    x = jnp.asarray(_images().reshape(-1)[: np.prod(shape)].reshape(shape))
    label = jnp.asarray([2, 0, 1, 2, 2])
    plain, by_class = Norm("batch"), Norm("batch", 3)
    params, state = _init(plain, x)
    table_params, _ = _init(by_class, x, label)

    @jax.jit
    def normed(gain: Any, bias: Any) -> jax.Array:
        variables = {"params": {"BatchNorm_0": {"scale": gain, "bias": bias}}, **state}
        return plain.apply(variables, x, train=train, mutable=["batch_stats"])[0]

    gain, bias = params["BatchNorm_0"]["scale"], params["BatchNorm_0"]["bias"]
    equal = {"scale": {"embedding": jnp.tile(gain, (3, 1))}, "bias": {"embedding": jnp.tile(bias, (3, 1))}}
    by_row = jax.jit(
        lambda params: by_class.apply({"params": params, **state}, x, label, train=train, mutable=["batch_stats"])[0]
    )
    found = by_row(equal)
    np.testing.assert_allclose(found, normed(gain, bias), atol=1e-5)

    found = by_row(table_params)
    gains, biases = table_params["scale"]["embedding"], table_params["bias"]["embedding"]
    for index, row in enumerate([2, 0, 1, 2, 2]):
        np.testing.assert_allclose(found[index], normed(gains[row], biases[row])[index], atol=1e-5)


def test_none_is_the_identity_and_an_unknown_kind_is_refused():
    """The two ends of `kind`."""
    x = jnp.asarray(_images())
    assert Norm("none").apply({}, x) is x
    with pytest.raises(UserError, match="norm='group' is unknown; choose one of batch, layer, none"):
        Norm("group").init(jax.random.key(0), x)


class _Spectral(nn.Module):
    """One layer with its spectral norm divided out."""

    kind: str
    spectral: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.kind == "dense":
            layer: nn.Module = nn.Dense(4, use_bias=False, name="layer")
        elif self.kind == "conv":
            layer = StridedConv(4, 4, 2, use_bias=False, name="layer")
        else:
            layer = nn.Embed(6, 4, name="layer")
        return with_spectral_norm(layer, spectral=self.spectral, train=train, dtype=jnp.float32)(x)


@pytest.mark.parametrize("kind", ["dense", "conv", "embed"])
def test_spectral_norm_against_the_singular_values(kind: str):
    """After enough steps the layer is that of its kernel divided by numpy's largest singular value."""
    x = {"dense": jnp.eye(6), "conv": jnp.asarray(_images().reshape(1, 10, 12, 1)), "embed": jnp.arange(6)}[kind]
    module = _Spectral(kind)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    params, state = variables["params"], variables["batch_stats"]
    (kernel,) = jax.tree.leaves(params)
    largest = np.linalg.svd(np.asarray(kernel).reshape(-1, 4), compute_uv=False)[0]
    scaled = jax.tree.map(lambda a: a / largest, params)
    expected = jax.jit(_Spectral(kind, spectral=False).apply)({"params": scaled}, x)

    @jax.jit
    def step(now: Any) -> tuple[jax.Array, Any]:
        found, new = module.apply({"params": params, "batch_stats": now}, x, True, mutable=["batch_stats"])
        return found, new["batch_stats"]

    settled = jax.jit(lambda now: module.apply({"params": params, "batch_stats": now}, x))

    def steps(count: int) -> jax.Array:
        found, now = jnp.zeros(()), state
        for _ in range(count):
            found, now = step(now)
        # Without training the norm is the one that training has left, and nothing is updated.
        np.testing.assert_allclose(settled(now), found, rtol=0.2, atol=0.1)
        return found

    assert float(jnp.max(jnp.abs(steps(1) - expected))) > 1e-3
    np.testing.assert_allclose(steps(150), expected, rtol=1e-4, atol=1e-5)
    if kind == "dense":
        assert np.linalg.svd(np.asarray(steps(150)), compute_uv=False)[0] == pytest.approx(1.0, abs=1e-5)


def test_spectral_norm_is_differentiated():
    """The gradient of W / σ(W) is orthogonal to W, since scaling W changes nothing."""
    x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 6)), jnp.float32)
    module = _Spectral("dense")
    variables = jax.jit(module.init)(jax.random.key(0), x)

    def loss(params: Any) -> jax.Array:
        return jnp.sum(jnp.sin(module.apply({"params": params, "batch_stats": variables["batch_stats"]}, x)))

    gradient = jax.jit(jax.grad(loss))(variables["params"])["layer"]["kernel"]
    assert abs(float(jnp.vdot(gradient, variables["params"]["layer"]["kernel"]))) < 1e-5
    assert float(jnp.linalg.norm(gradient)) > 0.1
