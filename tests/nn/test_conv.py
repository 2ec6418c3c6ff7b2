"""The strided convolution and its transpose: derivatives of all orders, mapped axes, devices, and what XLA is given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gen_jax.nn import conv

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# The side of the kernel, the stride, and the sides of the image: divided by the stride, and not.
_CASES: list[Any] = [(4, 1, 4, 5), (3, 2, 5, 6), (4, 2, 7, 5), (1, 2, 4, 5)]
_CASES += [pytest.param(case, marks=pytest.mark.slow) for case in ((3, 1, 5, 4), (4, 2, 6, 4), (5, 2, 7, 4))]

Function = Callable[..., Any]


def _strided_by_lax(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=_DIMENSIONS)


def _transposed_by_lax(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    strides = (stride, stride)
    return jax.lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True)


def _pairs(case: tuple[int, ...]) -> list[tuple[Function, Function, tuple[jax.Array, jax.Array]]]:
    """Both operations, each with `lax`'s and with arguments (an image and a kernel) in float64."""
    size, stride, height, width = case
    random = np.random.default_rng(0)
    image, kernel = random.standard_normal((2, height, width, 3)), random.standard_normal((size, size, 3, 2))
    arguments = jnp.asarray(image), jnp.asarray(kernel)
    swapped = arguments[0], jnp.asarray(kernel.swapaxes(2, 3))

    def fix(function: Function) -> Function:
        return lambda x, kernel: function(x, kernel, stride)

    return [
        (fix(conv.strided_conv), fix(_strided_by_lax), arguments),
        (fix(conv.conv_transpose), fix(_transposed_by_lax), swapped),
    ]


def _gradient(function: Function) -> Function:
    """Of a scalar that is not linear in the result, in both arguments."""
    return jax.grad(lambda *arguments: jnp.sum(jnp.sin(function(*arguments))), argnums=(0, 1))


def _gradient_of_gradient(function: Function) -> Function:
    return jax.grad(
        lambda *arguments: sum(jnp.sum(jnp.sin(g)) for g in _gradient(function)(*arguments)), argnums=(0, 1)
    )


def _penalty(function: Function) -> Function:
    """The gradient in the kernel of a penalty on the slope, of one image at a time, mapped over images."""

    def slope(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(function(x, kernel))))(image) ** 2)

    # Mapped over an axis that is not the first, which the operations must move.
    mapped = jax.vmap(slope, (4, None))
    return jax.grad(lambda images, kernel: jnp.mean(mapped(jnp.moveaxis(images[:, None], 0, 4), kernel)), argnums=1)


def _through_gradients_by_example(function: Function) -> Function:
    """The derivative, in both arguments, of a function of the gradients in the kernel of every image's own loss."""

    def gradient(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.grad(lambda k: jnp.sum(jnp.sin(function(image[None], k))))(kernel)

    mapped = jax.vmap(gradient, (0, None))
    return _gradient(mapped)


def _by_kernel(function: Function) -> Function:
    """The same image under several kernels, and the gradient of that."""
    mapped = jax.vmap(function, (None, 0))
    return _gradient(lambda image, kernel: mapped(image, jnp.stack([kernel, 2 * kernel, kernel**2])))


_DERIVATIVES = [
    lambda function: function,
    _gradient,
    _gradient_of_gradient,
    _penalty,
    _through_gradients_by_example,
    _by_kernel,
]


@pytest.mark.parametrize("case", _CASES)
def test_every_derivative_is_that_of_lax(case: tuple[int, ...]):
    """Values, gradients, gradients of gradients and mapped ones are those of `lax`, to the digits of float64."""
    with jax.enable_x64(True):
        for ours, theirs, arguments in _pairs(case):

            def both(*arguments: jax.Array, ours: Function = ours, theirs: Function = theirs) -> Any:
                return [(d(ours)(*arguments), d(theirs)(*arguments)) for d in _DERIVATIVES]

            for found, expected in jax.jit(both)(*arguments):
                for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                    assert float(jnp.max(jnp.abs(b))) > 0.1
                    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("case", [(4, 2, 3, 4), pytest.param((3, 2, 3, 2), marks=pytest.mark.slow)])
def test_derivatives_against_finite_differences(case: tuple[int, ...]):
    """First and second derivatives, forward and reverse, agree with finite differences."""
    with jax.enable_x64(True):
        for ours, _, arguments in _pairs(case):
            value = jax.jit(lambda x, kernel, function=ours: jnp.sum(jnp.sin(function(x, kernel))))
            check_grads(value, arguments, order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


def test_outside_of_jit_and_in_bfloat16():
    """Operation by operation the values are the same, in the type of the arguments."""
    for dtype in (jnp.float32, jnp.bfloat16):
        for ours, theirs, arguments in _pairs((4, 2, 6, 4)):
            typed = [a.astype(dtype) for a in arguments]
            found, expected = ours(*typed), theirs(*typed)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found.astype(jnp.float32), expected.astype(jnp.float32))


def test_over_devices():
    """The mean over devices of the gradients of their parts is the gradient of the whole."""
    count = min(jax.device_count(), 4)
    random = np.random.default_rng(1)
    images = jnp.asarray(random.standard_normal((2 * count, 6, 6, 3)), jnp.float32)
    kernel = jnp.asarray(random.standard_normal((4, 4, 3, 2)), jnp.float32)

    def gradient(kernel: jax.Array, images: jax.Array) -> jax.Array:
        def loss(kernel: jax.Array) -> jax.Array:
            code = jnp.sin(conv.strided_conv(images, kernel, 2))
            return jnp.mean(jnp.cos(conv.conv_transpose(code, kernel, 2)))

        return jax.grad(loss)(kernel)

    parts = images.reshape(count, 2, *images.shape[1:])
    mean = jax.pmap(lambda k, x: jax.lax.pmean(gradient(k, x), "batch"), "batch", in_axes=(None, 0), out_axes=None)
    np.testing.assert_allclose(mean(kernel, parts), jax.jit(gradient)(kernel, images), atol=1e-6)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("derivative", [_gradient, _gradient_of_gradient, _penalty])
def test_no_slow_convolution_is_left(which: int, derivative: Function):
    """XLA gets no convolution with a reversed window or one kernel an example, which it computes in loops on CPU."""
    ours, theirs, arguments = _pairs((4, 2, 8, 8))[which]
    arguments = tuple(a.astype(jnp.float32) for a in arguments)

    def is_slow(function: Function) -> bool:
        text = jax.jit(derivative(function)).lower(*arguments).compile().as_text()
        assert "convolution(" in text
        return any(sign in text for sign in ("rhs_reversal", "feature_group_count", "batch_group_count"))

    assert not is_slow(ours)
    # What is avoided is there to be avoided: only a first derivative of a convolution that shrinks is spared it.
    assert is_slow(theirs) == (which == 1 or derivative is not _gradient)


def test_other_platforms_keep_to_lax(monkeypatch: pytest.MonkeyPatch):
    """Where the backend is no CPU, there are only operations of `lax`, with the same values."""
    for ours, _, arguments in _pairs((4, 2, 6, 4)):
        arguments = tuple(a.astype(jnp.float32) for a in arguments)
        assert "conv_general_dilated" not in str(jax.make_jaxpr(_gradient(ours))(*arguments))
        here = ours(*arguments)
        with monkeypatch.context() as patched:
            patched.setattr(jax, "default_backend", lambda: "gpu")
            # A function of its own: the other one has been traced.
            text = str(jax.make_jaxpr(_gradient(lambda *a, function=ours: function(*a)))(*arguments))
            np.testing.assert_array_equal(ours(*arguments), here)
        assert text.count("conv_general_dilated") == 3
        assert not any(name in text for name in ("strided_conv", "conv_transpose[", "conv_kernel_gradient"))
