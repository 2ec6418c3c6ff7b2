"""Group normalisation against numpy in float64 and PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gen_jax.nn.group_norm import GroupNorm, num_groups_of


def _images(mean: float = 3.0, channels: int = 12) -> np.ndarray:
    return (mean + 2 * np.random.default_rng(0).standard_normal((3, 5, 4, channels))).astype(np.float32)


def _params(channels: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {"params": {name: jnp.asarray(random.standard_normal(channels), jnp.float32) for name in ("scale", "bias")}}


def _slow(x: np.ndarray, groups: int, params: dict[str, Any], epsilon: float = 1e-6) -> np.ndarray:
    """One example and group after another, in float64, with the textbook's variance."""
    x = x.astype(np.float64)
    y = np.empty_like(x)
    size = x.shape[-1] // groups
    for b in range(len(x)):
        for start in range(0, x.shape[-1], size):
            part = x[b, ..., start : start + size]
            y[b, ..., start : start + size] = (part - part.mean()) / np.sqrt(part.var() + epsilon)
    gamma, beta = (np.asarray(params["params"][name], np.float64) for name in ("scale", "bias"))
    return y * gamma + beta


@pytest.mark.parametrize(
    "channels, groups", [(128, 32), (256, 32), (96, 24), (64, 16), (32, 8), (12, 3), (3, 1), (1, 1)]
)
def test_number_of_groups(channels: int, groups: int):
    """32 where a group would have four channels, fewer for fewer; always a divisor."""
    assert num_groups_of(channels) == groups


@pytest.mark.parametrize("groups", [1, 2, 3, 12, None])
def test_is_the_slow_one(groups: int | None):
    """Any number of groups, of one channel and of all; without a number, that of the channels."""
    x, params = _images(), _params(12)
    found = GroupNorm(groups).apply(params, jnp.asarray(x))
    np.testing.assert_allclose(found, _slow(x, groups or 3, params), atol=2e-5)


@pytest.mark.parametrize("shape", [(4, 6), (4, 7, 6), (2, 3, 2, 3, 6)])
def test_any_number_of_axes(shape: tuple[int, ...]):
    """Positions along any number of axes, and none."""
    x, params = np.random.default_rng(2).standard_normal(shape).astype(np.float32), _params(6)
    np.testing.assert_allclose(GroupNorm(2).apply(params, jnp.asarray(x)), _slow(x, 2, params), atol=2e-5)


def test_output_and_gradients_are_pytorchs():
    """With scale, shift and a cotangent that is not constant, the gradient in all four is PyTorch's."""
    random = np.random.default_rng(3)
    x, params = _images(), _params(12)
    scale, shift = random.standard_normal((2, 3, 12)).astype(np.float32)
    weight = random.standard_normal(x.shape).astype(np.float32)

    def loss(params: Any, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        return jnp.sum(weight * GroupNorm(4, epsilon=1e-5).apply(params, x, scale, shift))

    value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(params, x, scale, shift)
    gamma, beta = (torch.tensor(np.asarray(params["params"][n]), requires_grad=True) for n in ("scale", "bias"))
    tx, tscale, tshift = (torch.tensor(a, requires_grad=True) for a in (x, scale, shift))
    h = torch.nn.functional.group_norm(tx.permute(0, 3, 1, 2), 4, gamma, beta, 1e-5)
    h = h * (1 + tscale[:, :, None, None]) + tshift[:, :, None, None]
    expected = (torch.tensor(weight) * h.permute(0, 2, 3, 1)).sum()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-4)
    own = (grads[0]["params"]["scale"], grads[0]["params"]["bias"], *grads[1:])
    for one, other in zip(own, (gamma, beta, tx, tscale, tshift), strict=True):
        np.testing.assert_allclose(one, other.grad, rtol=1e-4, atol=1e-4)


def test_scale_and_shift():
    """The result is y (1 + s) + b of the plain result, each alone too; zeros change nothing."""
    x, params, norm = jnp.asarray(_images()), _params(12), GroupNorm()
    scale, shift = (jnp.asarray(a, jnp.float32) for a in np.random.default_rng(4).standard_normal((2, 3, 12)))
    plain = np.asarray(norm.apply(params, x))
    wide_scale, wide_shift = (np.asarray(a)[:, None, None] for a in (scale, shift))
    np.testing.assert_allclose(norm.apply(params, x, scale, shift), plain * (1 + wide_scale) + wide_shift, atol=3e-5)
    np.testing.assert_allclose(norm.apply(params, x, scale), plain * (1 + wide_scale), atol=3e-5)
    np.testing.assert_allclose(norm.apply(params, x, shift=shift), plain + wide_shift, atol=3e-5)
    np.testing.assert_array_equal(norm.apply(params, x, 0 * scale, 0 * shift), plain)


@pytest.mark.parametrize("mean", [1e2, 1e4, -1e5])
def test_a_mean_far_larger_than_the_deviation(mean: float):
    """The variance keeps its digits: the error is that of numbers as large as the mean, not as its square."""
    x, params = _images(mean), _params(12)
    found = np.asarray(GroupNorm().apply(params, jnp.asarray(x)))
    bound = 8 * np.spacing(np.float32(abs(mean))) / 2  # The deviation is 2.
    np.testing.assert_allclose(found, _slow(x, 3, params), atol=bound + 2e-5)
    assert bound < 0.04


def test_a_constant_image_is_the_bias():
    """Without any variance ε alone is left: the error is that of numbers as large as μ / √ε. Gradients are finite."""
    x, params = jnp.full((2, 4, 4, 12), 7.0), _params(12)
    bound = np.spacing(np.float32(7 / 1e-3 * np.abs(params["params"]["scale"]).max()))
    found = GroupNorm().apply(params, x)
    np.testing.assert_allclose(found, np.broadcast_to(params["params"]["bias"], x.shape), atol=bound)
    assert bound < 2e-3
    gradient = jax.grad(lambda x: jnp.sum(GroupNorm().apply(params, x) ** 2))(x)
    assert np.isfinite(gradient).all()


def test_examples_do_not_mix():
    """Another example changes nothing in this one."""
    x, params = _images(), _params(12)
    other = x.copy()
    other[1:] *= 5
    np.testing.assert_array_equal(GroupNorm().apply(params, x)[0], GroupNorm().apply(params, other)[0])


def test_half_precision():
    """A bfloat16 input gives a bfloat16 output, of statistics in float32."""
    x, params = _images(), _params(12)
    half = jnp.asarray(x, jnp.bfloat16)
    found = GroupNorm().apply(params, half)
    assert found.dtype == jnp.bfloat16
    expected = _slow(np.asarray(half, np.float32), 3, params)
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=2**-8, atol=1e-5)
