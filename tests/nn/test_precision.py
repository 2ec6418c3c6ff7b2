"""A module runs in the precision of its parameters and answers in float32 or more."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.families.vae import models
from gen_jax.nn.precision import apply_in_param_dtype

_PRODUCTS = {"dot_general", "conv_general_dilated"}


class _Net(nn.Module):
    """A convolution, a transposed one and a dense layer; two outputs by name."""

    def setup(self) -> None:
        self.conv = nn.Conv(4, (3, 3))
        self.dense = nn.Dense(3)

    def both(self, x: jax.Array, factor: float) -> dict[str, jax.Array]:
        h = nn.relu(self.conv(x))
        return {"h": h, "y": factor * self.dense(h.reshape(h.shape[0], -1))}


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _product_types(function: Any, *args: Any) -> list[set[str]]:
    """The operand types of each matrix product and convolution."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return [{str(v.aval.dtype) for v in e.invars} for e in _equations(jaxpr) if e.primitive.name in _PRODUCTS]


def _params(dtype: jnp.dtype) -> Any:
    params = _Net().init(jax.random.key(0), jnp.zeros((2, 5, 5, 1)), 1.0, method="both")["params"]
    return jax.tree.map(lambda a: a.astype(dtype), params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_products_in_the_parameters_type_and_outputs_in_float32(dtype: str):
    """Every product has operands of the parameters' type, from a float32 input; every output is float32."""
    x = jnp.ones((2, 5, 5, 1))

    def run(params: Any, x: jax.Array) -> Any:
        return apply_in_param_dtype(_Net(), params, x, 2.0, method="both")

    types = _product_types(run, _params(jnp.dtype(dtype)), x)
    assert types == [{dtype}, {dtype}]
    outputs = run(_params(jnp.dtype(dtype)), x)
    assert {name: str(a.dtype) for name, a in outputs.items()} == {"h": "float32", "y": "float32"}


def test_float64_stays_float64():
    """In float64 nothing is rounded to float32 on the way."""
    with jax.enable_x64(True):
        params = _params(jnp.float64)
        x = np.random.default_rng(0).standard_normal((2, 5, 5, 1))
        outputs = apply_in_param_dtype(_Net(), params, x, 1.0, method="both")
        dense, kernel = params["dense"], np.asarray(params["conv"]["kernel"])
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h = sum(padded[:, p : p + 5, q : q + 5] @ kernel[p, q] for p in range(3) for q in range(3))
        y = np.maximum(h, 0).reshape(2, -1) @ np.asarray(dense["kernel"])
        assert outputs["y"].dtype == jnp.float64
        np.testing.assert_allclose(outputs["y"], y, rtol=1e-12)


def test_bfloat16_values_are_near_float32_ones():
    """Rounding the parameters to 8 bits changes the outputs by about 1%, and not by nothing."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 5, 1)), jnp.float32)
    full = apply_in_param_dtype(_Net(), _params(jnp.float32), x, 1.0, method="both")["y"]
    half = apply_in_param_dtype(_Net(), _params(jnp.bfloat16), x, 1.0, method="both")["y"]
    difference = float(jnp.linalg.norm(full - half) / jnp.linalg.norm(full))
    assert 1e-5 < difference < 0.03


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_no_vae_layer_promotes_to_float32(network: str):
    """All products of the VAE's encoders and decoders, gradients included, are in bfloat16 where its parameters are."""
    shape = (8, 8, 1)
    if network == "mlp":
        model = models.VAE(models.MLPEncoder(2, (6, 5)), models.MLPDecoder(shape, (5, 6)))
    else:
        model = models.VAE(models.ConvEncoder(2, (3, 4), 5), models.ConvDecoder(shape, (3, 4), 5))
    x = jnp.zeros((2, *shape))
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.bfloat16), params)

    def loss(params: Any) -> jax.Array:
        mean, _ = apply_in_param_dtype(model, params, x, method="encode")
        return jnp.sum(apply_in_param_dtype(model, params, mean, method="decode")["logits"])

    types = _product_types(jax.grad(loss), params)
    assert len(types) > 10
    assert all(kinds == {"bfloat16"} for kinds in types)
