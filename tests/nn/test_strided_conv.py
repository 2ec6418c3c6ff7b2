"""The strided convolution: its value, both its derivatives, and the layer."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gen_jax.nn.strided_conv import StridedConv, strided_conv

_CASES = [(4, 2), (3, 2), (5, 2), (3, 1), (2, 2), (1, 2), (3, 3)]


def _arrays(kernel_size: int, stride: int) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 3 * stride, 4 * stride, 3))
    return jnp.asarray(x), jnp.asarray(random.standard_normal((kernel_size, kernel_size, 3, 2)))


def _lax(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)


def _by_loops(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Every output pixel is the sum of its taps; what lies outside the image is zero."""
    size = kernel.shape[0]
    before = max(size - stride, 0) // 2
    padded = np.pad(x, ((0, 0), (before, size), (before, size), (0, 0)))
    y = np.zeros((x.shape[0], x.shape[1] // stride, x.shape[2] // stride, kernel.shape[3]))
    for i, j in np.ndindex(*y.shape[1:3]):
        window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
        y[:, i, j] = np.einsum("bpqi,pqio->bo", window, kernel)
    return y


def _penalty(convolve: Callable[..., jax.Array], stride: int) -> Callable[..., jax.Array]:
    """A function of the kernel with the derivative in x inside, as a gradient penalty is."""

    def inner(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(convolve(x, kernel, stride)))

    return lambda x, kernel: jnp.sum(jnp.square(jax.grad(inner)(x, kernel)))


@pytest.mark.parametrize(("kernel_size", "stride"), _CASES)
def test_value_and_both_derivatives(kernel_size: int, stride: int):
    """The value is a loop's; the first derivatives and those of a gradient penalty are those of `lax`."""
    with jax.enable_x64(True):
        x, kernel = _arrays(kernel_size, stride)
        expected = _by_loops(np.asarray(x), np.asarray(kernel), stride)
        np.testing.assert_allclose(strided_conv(x, kernel, stride), expected, atol=1e-12)
        for order in (lambda f, s: lambda x, k: jnp.sum(jnp.tanh(f(x, k, s))), _penalty):
            ours = jax.jit(jax.grad(order(strided_conv, stride), argnums=(0, 1)))(x, kernel)
            theirs = jax.jit(jax.grad(order(_lax, stride), argnums=(0, 1)))(x, kernel)
            for a, b in zip(ours, theirs, strict=True):
                assert float(jnp.max(jnp.abs(b))) > 0.1
                np.testing.assert_allclose(a, b, atol=1e-10)


def test_penalty_against_finite_differences():
    """The second derivative agrees with finite differences in float64."""
    with jax.enable_x64(True):
        check_grads(jax.jit(_penalty(strided_conv, 2)), _arrays(4, 2), order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer(dtype: jnp.dtype):
    """The layer computes in its input's type, keeps float32 parameters and has a bias only where asked."""
    x = jnp.ones((2, 8, 8, 3), dtype)
    layer = StridedConv(5, 4, 2, _halves)
    params = layer.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == {
        "kernel": ((4, 4, 3, 5), jnp.float32),
        "bias": ((5,), jnp.float32),
    }
    y = layer.apply({"params": params | {"bias": jnp.arange(5.0)}}, x)
    assert y.shape == (2, 4, 4, 5)
    assert y.dtype == dtype
    # Within the image 4 * 4 * 3 ones under a kernel of halves, and then the bias.
    np.testing.assert_allclose(y[:, 1:-1, 1:-1].astype(jnp.float32), np.broadcast_to(24 + np.arange(5.0), (2, 2, 2, 5)))
    assert set(StridedConv(5, 4, 2, use_bias=False).init(jax.random.key(0), x)["params"]) == {"kernel"}


def _halves(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Halves."""
    return jnp.full(shape, 0.5, dtype)
