"""Strided convolution and its transpose, whose derivatives of every order are fast on CPU.

Both, and the gradient of either in the kernel, are faces of one trilinear form:

  T(y, k, x) = ⟨F(y, k), x⟩ = ⟨y, Fᵀ(x, k)⟩ = ⟨k, W(y, x)⟩

with F the strided convolution, Fᵀ its transpose in y and W its transpose in k. Each of the three is linear in both of
its arguments, and its transpose in either is another of the three. They are made known to JAX as three operations
(primitives) with just these rules, so that derivatives of any order, forward and reverse, stay among them.

The rules that JAX has for a general convolution do not: they make the gradient of Fᵀ in its kernel a convolution with a
window larger than its input, which XLA computes in a loop on CPU, tens of times slower. The transposed convolutions
of a generator meet it, and so does a gradient penalty, which differentiates the gradient of a strided convolution. A
`jax.custom_vjp` would do for the first, but not for a penalty mapped over examples: it would make a gradient of the
kernel for every example and then add them up, where here a mapped axis joins the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from gen_jax.contracts import Array

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def strided_conv(y: Array, kernel: Array, stride: int) -> Array:
    """The strided convolution with "SAME" padding, F(y, k), equal to `jax.lax.conv_general_dilated`.

    See "A guide to convolution arithmetic for deep learning", Dumoulin and Visin, 2016 (arXiv:1603.07285), Chapter 2.

    Args:
      y: [B, H, W, I].
      kernel: [h, w, I, O].
      stride: s ≥ 1.

    Returns:
      [B, ⌈H/s⌉, ⌈W/s⌉, O].
    """
    return _convolve(y, kernel, stride=stride) if _lax_is_fast() else _F.bind(y, kernel, stride=stride)


def conv_transpose(x: Array, kernel: Array, stride: int) -> Array:
    """The transpose of a strided convolution in its input, Fᵀ(x, k), equal to `jax.lax.conv_transpose`.

    See "A guide to convolution arithmetic for deep learning", Dumoulin and Visin, 2016 (arXiv:1603.07285), Chapter 4.

    Args:
      x: [B, H, W, I].
      kernel: [h, w, O, I], the kernel of F.
      stride: s ≥ 1.

    Returns:
      [B, sH, sW, O].
    """
    if _lax_is_fast():
        strides = (stride, stride)
        return jax.lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True)
    return _T.bind(x, kernel, stride=stride, size=(stride * x.shape[1], stride * x.shape[2]))


def _lax_is_fast() -> bool:
    """Whether JAX's own rules serve: on accelerators. The one place where the form is chosen."""
    return jax.default_backend() != "cpu"


def _convolve(y: Array, kernel: Array, *, stride: int) -> Array:
    """F: [B, H, W, I] and [h, w, I, O] to [B, ⌈H/s⌉, ⌈W/s⌉, O]."""
    return jax.lax.conv_general_dilated(y, kernel, (stride, stride), "SAME", dimension_numbers=_DIMENSIONS)


def _convolve_transposed(x: Array, kernel: Array, *, stride: int, size: tuple[int, int]) -> Array:
    """Fᵀ: [B, ⌈H/s⌉, ⌈W/s⌉, O] and [h, w, I, O] to [B, H, W, I], where `size` is (H, W)."""
    y = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[2]), x.dtype)
    return jax.linear_transpose(lambda y: _convolve(y, kernel, stride=stride), y)(x)[0]


def _kernel_gradient(y: Array, x: Array, *, stride: int, window: tuple[int, int]) -> Array:
    """W: [B, H, W, I] and [B, ⌈H/s⌉, ⌈W/s⌉, O] to [h, w, I, O], where `window` is (h, w)."""
    kernel = jax.ShapeDtypeStruct((*window, y.shape[3], x.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: _convolve(y, kernel, stride=stride), kernel)(x)[0]


def _primitive(name: str, function: Callable[..., Array], *, first_has_batch: bool) -> Any:
    """An operation of two arrays, computed as `function` is, whose derivatives are given elsewhere.

    Args:
      name: what jaxprs show.
      function: of two arrays and of static keywords.
      first_has_batch: whether the first argument and the result have a batch axis and the second has none; an axis
        over which the first alone is mapped then joins it.

    Returns:
      The primitive.
    """
    primitive = Primitive(name)
    primitive.def_impl(function)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))

    def abstract(first: Any, second: Any, **options: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in (first, second))
        result = jax.eval_shape(functools.partial(function, **options), *shapes)
        return first.update(shape=result.shape, dtype=result.dtype, weak_type=False)

    def batch(arrays: tuple[Array, Array], axes: tuple[int | None, int | None], **options: Any) -> tuple[Array, int]:
        first, second = arrays
        if first_has_batch and axes[0] is not None and axes[1] is None:
            first = jnp.moveaxis(first, axes[0], 0)
            result = primitive.bind(first.reshape(-1, *first.shape[2:]), second, **options)
            return result.reshape(*first.shape[:2], *result.shape[1:]), 0
        # One kernel, or one gradient of it, for each index: as `lax` does it.
        return jax.vmap(functools.partial(function, **options), in_axes=axes)(first, second), 0

    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    return primitive


_F = _primitive("strided_conv", _convolve, first_has_batch=True)
_T = _primitive("conv_transpose", _convolve_transposed, first_has_batch=True)
_W = _primitive("conv_kernel_gradient", _kernel_gradient, first_has_batch=False)

# Each rule gets the cotangent and both arguments, of which the one to be found has a shape only.
ad.defbilinear(
    _F,
    lambda bar, y, kernel, stride: _T.bind(bar, kernel, stride=stride, size=y.aval.shape[1:3]),
    lambda bar, y, kernel, stride: _W.bind(y, bar, stride=stride, window=kernel.aval.shape[:2]),
)
ad.defbilinear(
    _T,
    lambda bar, x, kernel, stride, size: _F.bind(bar, kernel, stride=stride),
    lambda bar, x, kernel, stride, size: _W.bind(bar, x, stride=stride, window=kernel.aval.shape[:2]),
)
ad.defbilinear(
    _W,
    lambda bar, y, x, stride, window: _T.bind(x, bar, stride=stride, size=y.aval.shape[1:3]),
    lambda bar, y, x, stride, window: _F.bind(y, bar, stride=stride),
)
