"""The transposed convolution: its value, its hand-written derivative, and that it is a transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gen_jax.nn.conv_transpose import ConvTranspose, conv_transpose

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_CASES = [(3, 1), (4, 1), (3, 2), (4, 2), (5, 2), (2, 2), (1, 1), (5, 3), (1, 2)]


def _arrays(kernel_size: int, stride: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An input [2, 5, 4, 3], a kernel [h, h, 2, 3] and a point of the output space [2, 5s, 4s, 2]."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((2, 5, 4, 3))
    kernel = random.standard_normal((kernel_size, kernel_size, 2, 3))
    y = random.standard_normal((2, 5 * stride, 4 * stride, 2))
    return x, kernel, y


def _by_loops(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Every input pixel adds its multiple of the kernel to the output; what falls over the edge is lost."""
    batch, height, width, _ = x.shape
    size = kernel.shape[0]
    before = max(size - stride, 0) // 2  # "SAME" pads F's input by this much at the top and left.
    y = np.zeros((batch, height * stride, width * stride, kernel.shape[2]))
    for b, i, j in np.ndindex(batch, height, width):
        for p, q in np.ndindex(size, size):
            row, column = i * stride + p - before, j * stride + q - before
            if 0 <= row < y.shape[1] and 0 <= column < y.shape[2]:
                y[b, row, column] += kernel[p, q] @ x[b, i, j]
    return y


@pytest.mark.parametrize(("kernel_size", "stride"), _CASES)
def test_forward_against_loops_and_lax(kernel_size: int, stride: int):
    """The value is a loop's and, to the bit, that of `jax.lax.conv_transpose` with the kernel transposed."""
    x, kernel, _ = _arrays(kernel_size, stride)
    x32, kernel32 = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    found = conv_transpose(x32, kernel32, stride)
    np.testing.assert_allclose(found, _by_loops(x, kernel, stride), atol=2e-5)
    strides = (stride, stride)
    lax = jax.lax.conv_transpose(x32, kernel32, strides, "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True)
    np.testing.assert_array_equal(found, lax)


@pytest.mark.parametrize(("kernel_size", "stride"), _CASES)
def test_is_the_transpose_of_the_strided_convolution(kernel_size: int, stride: int):
    """⟨F y, x⟩ = ⟨y, Fᵀ x⟩ for the strided "SAME" convolution F of the same kernel."""
    x, kernel, y = (jnp.asarray(a, jnp.float32) for a in _arrays(kernel_size, stride, seed=1))
    strided = jax.lax.conv_general_dilated(y, kernel, (stride, stride), "SAME", dimension_numbers=_DIMENSIONS)
    left, right = jnp.vdot(strided, x), jnp.vdot(y, conv_transpose(x, kernel, stride))
    assert float(left) == pytest.approx(float(right), abs=1e-3)
    assert abs(float(left)) > 0.1


@pytest.mark.parametrize(("kernel_size", "stride"), _CASES)
def test_derivative_is_that_of_lax(kernel_size: int, stride: int):
    """Both cotangents of the hand-written rule are those of automatic differentiation through `lax`."""
    x, kernel, y = (jnp.asarray(a, jnp.float32) for a in _arrays(kernel_size, stride, seed=2))

    def lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
        strides = (stride, stride)
        return jax.lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True)

    expected = jax.jit(lambda x, k, y: jax.vjp(lax, x, k)[1](y))(x, kernel, y)
    found = jax.jit(lambda x, k, y: jax.vjp(lambda x, k: conv_transpose(x, k, stride), x, k)[1](y))(x, kernel, y)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5)


@pytest.mark.parametrize(("kernel_size", "stride"), [(4, 2), (3, 1)])
def test_derivative_against_finite_differences(kernel_size: int, stride: int):
    """The hand-written rule agrees with finite differences in float64."""
    with jax.enable_x64(True):
        x, kernel, _ = _arrays(kernel_size, stride, seed=3)
        value = jax.jit(lambda x, k: conv_transpose(x, k, stride))
        check_grads(value, (jnp.asarray(x), jnp.asarray(kernel)), order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_shape_type_and_bias(dtype: jnp.dtype):
    """The layer enlarges s times, computes in its input's type and adds its bias to every output pixel."""
    layer = ConvTranspose(features=5, kernel_size=4, stride=2)
    x = jnp.asarray(np.random.default_rng(4).standard_normal((2, 3, 7, 6)), dtype)
    params = layer.init(jax.random.key(0), x)["params"]
    assert params["kernel"].shape == (4, 4, 5, 6)
    assert jax.tree.map(lambda a: a.dtype, params) == {"kernel": jnp.float32, "bias": jnp.float32}
    y = layer.apply({"params": params}, x)
    assert y.shape == (2, 6, 14, 5)
    assert y.dtype == dtype
    moved = layer.apply({"params": params | {"bias": jnp.arange(5.0)}}, x)
    tolerance = 0.1 if dtype == jnp.bfloat16 else 1e-5
    expected = np.asarray(y, np.float32) + np.arange(5.0)
    np.testing.assert_allclose(np.asarray(moved, np.float32), expected, atol=tolerance)


@pytest.mark.parametrize(("kernel_size", "stride"), [(4, 2), (3, 1), (6, 3)])
def test_layer_starts_with_unit_gain(kernel_size: int, stride: int):
    """Noise of variance 1 comes out with variance 1 at first: the scale counts the terms that an output pixel has."""
    layer = ConvTranspose(features=64, kernel_size=kernel_size, stride=stride)
    x = jnp.asarray(np.random.default_rng(5).standard_normal((8, 8, 8, 32)), jnp.float32)
    y = layer.apply({"params": jax.jit(layer.init)(jax.random.key(1), x)["params"]}, x)
    inner = y[:, kernel_size:-kernel_size, kernel_size:-kernel_size]
    assert float(jnp.var(inner)) == pytest.approx(1.0, rel=0.1)
