"""DCGAN: convolutions with a stride in place of pooling, and batch norm.

"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks", Radford et al., 2016
(arXiv:1511.06434), Section 3. Kernels are 4 × 4, a multiple of the stride, as in the authors' Torch code; the paper's
Figure 1 has 5 × 5, which `kernel_size` gives.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Key
from gen_jax.families.gan.models import (
    LabelMap,
    Logit,
    check_conditional_norm,
    check_label,
    image_plan,
    leaky_relu,
    projected_classes,
)
from gen_jax.nn.conv_transpose import ConvTranspose
from gen_jax.nn.normalization import Norm, with_spectral_norm
from gen_jax.nn.strided_conv import StridedConv

# Section 4: all weights start from a normal distribution of mean 0 and standard deviation 0.02.
_INIT = nn.initializers.normal(0.02)


def _scale_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """N(1, 0.02²), where the authors' code starts the gains of batch norm."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class DCGANGenerator(nn.Module):
    """G(z): z projected to a coarse image, then transposed convolutions, each halving the width; ReLU, at last tanh.

    A class chooses the gains and biases of batch norm: see `Norm`.

    Attributes:
      output_shape: (H, W, C), H = W = 28, 32 or 64.
      latent_dim: d.
      channels: the width of the layer nearest the image; the paper's is 128, which makes 1024 at 4 × 4 for 64 pixels.
      kernel_size: of the transposed convolutions.
      norm: everywhere but at the output: "batch" or "none".
      num_classes: 0 for an unconditional generator; a conditional one needs batch norm.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    output_shape: tuple[int, int, int]
    latent_dim: int = 100
    channels: int = 64
    kernel_size: int = 4
    norm: str = "batch"
    num_classes: int = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Maps z [B, d] and labels [B] to images [B, H, W, C] in [-1, 1].

        Raises:
          UserError: for a size other than those, an unknown norm, classes without batch norm or without labels.
        """
        check_label(self.num_classes, label)
        check_conditional_norm(self.num_classes, self.norm)
        side, stages = image_plan(self.output_shape)
        width = self.channels * 2 ** (stages - 1)
        # Batch norm would subtract a channel's bias again with its mean.
        bias = self.norm != "batch"
        h = nn.Dense(side * side * width, use_bias=bias, kernel_init=_INIT, name="project")(z)
        h = h.reshape(-1, side, side, width)
        for stage in range(stages):
            norm = Norm(self.norm, self.num_classes, self.axis_name, _scale_init, name=f"norm_{stage}")
            h = nn.relu(norm(h, label, train=train))
            last = stage == stages - 1
            width = self.output_shape[-1] if last else width // 2
            h = ConvTranspose(width, self.kernel_size, 2, _INIT, bias or last, name=f"up_{stage}")(h)
        return nn.tanh(h)


class DCGANDiscriminator(nn.Module):
    """D(x): convolutions of stride 2, each doubling the width, LeakyReLU of slope 0.2; then one linear unit.

    Attributes:
      channels: the width of the layer nearest the image.
      kernel_size: of the convolutions.
      norm: everywhere but at the input: "batch", or for a critic with a gradient penalty "layer" or "none".
      spectral: whether every kernel is divided by its spectral norm.
      num_classes: 0 for an unconditional discriminator.
      conditioning: "projection", see `Logit`, or "embedding", a learned map of the image's size as one more channel.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    channels: int = 64
    kernel_size: int = 4
    norm: str = "batch"
    spectral: bool = False
    num_classes: int = 0
    conditioning: str = "projection"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Maps images [B, H, W, C], H = W = 28, 32 or 64, and labels [B] to logits [B].

        Raises:
          UserError: for another size, an unknown norm or conditioning, or classes without labels.
        """
        classes = projected_classes(self.num_classes, self.conditioning, label)
        _, stages = image_plan(x.shape[1:])
        h = LabelMap(self.num_classes, name="label_map")(x, label) if self.num_classes > classes else x
        for stage in range(stages):
            bias = stage == 0 or self.norm != "batch"
            conv = StridedConv(self.channels * 2**stage, self.kernel_size, 2, _INIT, bias, name=f"down_{stage}")
            h = with_spectral_norm(conv, spectral=self.spectral, train=train, dtype=h.dtype)(h)
            if stage > 0:
                norm = Norm(self.norm, 0, self.axis_name, _scale_init, name=f"norm_{stage}")
                h = norm(h, train=train)
            h = leaky_relu(h)
        return Logit(classes, self.spectral, _INIT, name="logit")(h.reshape(h.shape[0], -1), label, train=train)
