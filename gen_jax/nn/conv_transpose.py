"""Transposed convolution with the gradient that it has as a transpose."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.contracts import Array
from gen_jax.nn.conv import conv_transpose


class ConvTranspose(nn.Module):
    """A layer of transposed convolution, "SAME" padding and a square kernel.

    Attributes:
      features: the number of output channels.
      kernel_size: the side of the kernel; a multiple of `stride` gives every output pixel as many terms.
      stride: how many times larger the output is.
      kernel_init: of the kernel [h, w, features, I]; None for LeCun's.
      use_bias: whether a bias is added.
    """

    features: int
    kernel_size: int
    stride: int
    kernel_init: nn.initializers.Initializer | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, I] to [B, sH, sW, features]."""
        shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
        # LeCun's, for the terms that an output pixel has: only every stride-th tap of the kernel, along each axis.
        scale = float(self.stride**2)
        init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal", in_axis=(0, 1, 3), out_axis=2)
        kernel = self.param("kernel", self.kernel_init or init, shape, jnp.float32)
        y = conv_transpose(x, kernel.astype(x.dtype), self.stride)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return y + bias.astype(x.dtype)[None, None, None]
