"""Transposed convolution with the gradient that it has as a transpose."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.contracts import Array

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _strided(y: Array, kernel: Array, stride: int) -> Array:
    """The strided convolution F of which `conv_transpose` is the transpose: [B, sH, sW, O] -> [B, H, W, I]."""
    return jax.lax.conv_general_dilated(y, kernel, (stride, stride), "SAME", dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose(x: Array, kernel: Array, stride: int) -> Array:
    """The transpose of a strided convolution, in its input: y = F(·; k)ᵀ x.

    See "A guide to convolution arithmetic for deep learning", Dumoulin and Visin, 2016 (arXiv:1603.07285), Section 4.

    The derivative is written out. Since y = Fᵀx, the cotangent of x is F(ȳ) and that of k is F's own weight gradient
    with input ȳ and cotangent x; the rule that differentiates the dilated convolution directly is tens of times slower
    on CPU.

    Args:
      x: [B, H, W, I].
      kernel: [h, w, O, I], the kernel of F.
      stride: s ≥ 1.

    Returns:
      [B, sH, sW, O].
    """
    return jax.lax.conv_transpose(
        x, kernel, (stride, stride), "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True
    )


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return conv_transpose(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], y_bar: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    x_bar, weight_gradient = jax.vjp(lambda k: _strided(y_bar, k, stride), kernel)
    return x_bar, weight_gradient(x)[0]


conv_transpose.defvjp(_forward, _backward)


class ConvTranspose(nn.Module):
    """A layer of transposed convolution with bias, "SAME" padding and a square kernel.

    Attributes:
      features: the number of output channels.
      kernel_size: the side of the kernel; a multiple of `stride` gives every output pixel as many terms.
      stride: how many times larger the output is.
    """

    features: int
    kernel_size: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, I] to [B, sH, sW, features]."""
        shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
        # LeCun's, for the terms that an output pixel has: only every stride-th tap of the kernel, along each axis.
        scale = float(self.stride**2)
        init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal", in_axis=(0, 1, 3), out_axis=2)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return conv_transpose(x, kernel.astype(x.dtype), self.stride) + bias.astype(x.dtype)[None, None, None]
