"""Strided convolution whose gradient can be differentiated again at the speed of the first time."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.contracts import Array
from gen_jax.nn.conv import strided_conv


class StridedConv(nn.Module):
    """A layer of strided convolution, "SAME" padding and a square kernel; the stride divides the image's sides.

    Attributes:
      features: the number of output channels.
      kernel_size: the side of the kernel.
      stride: how many times smaller the output is.
      kernel_init: of the kernel [h, w, I, features].
      use_bias: whether a bias is added.
    """

    features: int
    kernel_size: int
    stride: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, sH, sW, I] to [B, H, W, features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = strided_conv(x, kernel.astype(x.dtype), self.stride)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return y + bias.astype(x.dtype)[None, None, None]
