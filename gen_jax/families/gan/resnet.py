"""The residual networks of WGAN-GP for images of 28, 32 and 64 pixels.

"Improved Training of Wasserstein GANs", Gulrajani et al., 2017 (arXiv:1704.00028), the appendix on architectures. For
32 pixels these are the paper's networks for CIFAR-10; the other sizes have more or fewer blocks of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.contracts import Array
from gen_jax.families.gan.models import (
    LabelMap,
    Logit,
    check_conditional_norm,
    check_label,
    image_plan,
    projected_classes,
)
from gen_jax.nn.normalization import Norm, with_spectral_norm
from gen_jax.nn.resampling import mean_pool, upsample

# For each side of an image: how many resolutions the critic halves, before its two blocks that halve none.
_CRITIC_HALVINGS = {28: 2, 32: 2, 64: 3}

# He's for a convolution with an activation around it, Glorot's for a linear path.
_HE = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
_GLOROT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class UpBlock(nn.Module):
    """A residual block of the generator: twice the resolution.

    y = up(x) ∗ k₀ + conv(relu(norm(conv(up(relu(norm(x)))))))

    The 1 × 1 convolution k₀ of the shortcut comes before the upsampling, with which it commutes, on a quarter of the
    pixels.

    Attributes:
      channels: of the output.
      norm: as in `Norm`.
      num_classes: of the norms.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    channels: int
    norm: str = "batch"
    num_classes: int = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Maps [B, H, W, C] to [B, 2H, 2W, channels]."""
        h = nn.relu(Norm(self.norm, self.num_classes, self.axis_name, name="norm_1")(x, label, train=train))
        bias = self.norm != "batch"  # Batch norm would subtract it again with the mean.
        h = nn.Conv(self.channels, (3, 3), use_bias=bias, kernel_init=_HE, name="conv_1")(upsample(h))
        h = nn.relu(Norm(self.norm, self.num_classes, self.axis_name, name="norm_2")(h, label, train=train))
        h = nn.Conv(self.channels, (3, 3), kernel_init=_HE, name="conv_2")(h)
        return upsample(nn.Conv(self.channels, (1, 1), kernel_init=_GLOROT, name="shortcut")(x)) + h


class DownBlock(nn.Module):
    """A residual block of the critic: half the resolution, or the same.

    y = shortcut(x) + pool(conv(relu(norm(conv(relu(norm(x)))))))

    The shortcut is the mean pooling and then a 1 × 1 convolution, the cheaper order of two that commute; x itself where
    neither resolution nor width changes. The critic's first block begins with its convolution: relu(norm(·)) of the
    image would lose its darker half.

    Attributes:
      channels: of the output.
      halve: whether there is pooling.
      first: whether this is the critic's first block.
      norm: as in `Norm`; no norm stands in the first block.
      spectral: whether every kernel is divided by its spectral norm.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    channels: int
    halve: bool = True
    first: bool = False
    norm: str = "none"
    spectral: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps [B, H, W, C] to [B, H/2, W/2, channels], or [B, H, W, channels]."""

        def conv(size: int, init: nn.initializers.Initializer, name: str) -> Callable[[Array], Array]:
            layer = nn.Conv(self.channels, (size, size), kernel_init=init, name=name)
            return with_spectral_norm(layer, spectral=self.spectral, train=train, dtype=x.dtype)

        def activate(h: Array, name: str) -> Array:
            norm = "none" if self.first else self.norm
            return nn.relu(Norm(norm, axis_name=self.axis_name, name=name)(h, train=train))

        h = x if self.first else activate(x, "norm_1")
        h = activate(conv(3, _HE, "conv_1")(h), "norm_2")
        h = conv(3, _HE, "conv_2")(h)
        if self.halve:
            x, h = mean_pool(x), mean_pool(h)
        elif x.shape[-1] == self.channels:
            return x + h
        return conv(1, _GLOROT, "shortcut")(x) + h


class ResNetGenerator(nn.Module):
    """G(z): z projected to a coarse image, then residual blocks that double it, one convolution and tanh.

    A class chooses the gains and biases of batch norm: see `Norm`.

    Attributes:
      output_shape: (H, W, C), H = W = 28, 32 or 64.
      latent_dim: d.
      channels: of every block; the paper's.
      norm: "batch" or "none".
      num_classes: 0 for an unconditional generator; a conditional one needs batch norm.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    output_shape: tuple[int, int, int]
    latent_dim: int = 128
    channels: int = 128
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
        side, blocks = image_plan(self.output_shape)
        h = nn.Dense(side * side * self.channels, kernel_init=_GLOROT, name="project")(z)
        h = h.reshape(-1, side, side, self.channels)
        for number in range(blocks):
            block = UpBlock(self.channels, self.norm, self.num_classes, self.axis_name, name=f"block_{number}")
            h = block(h, label, train=train)
        h = nn.relu(Norm(self.norm, self.num_classes, self.axis_name, name="norm")(h, label, train=train))
        return nn.tanh(nn.Conv(self.output_shape[-1], (3, 3), kernel_init=_GLOROT, name="image")(h))


class ResNetDiscriminator(nn.Module):
    """The critic D(x): residual blocks that halve the image, two that do not, the mean over positions, one linear unit.

    Attributes:
      channels: of every block; the paper's.
      norm: "none", "layer", which goes with a gradient penalty as well, or "batch", which does not.
      spectral: whether every kernel is divided by its spectral norm.
      num_classes: 0 for an unconditional critic.
      conditioning: "projection", see `Logit`, or "embedding", a learned map of the image's size as one more channel.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    channels: int = 128
    norm: str = "none"
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
        image_plan(x.shape[1:])  # Refuses other sizes.
        halvings = _CRITIC_HALVINGS[x.shape[1]]
        h = LabelMap(self.num_classes, name="label_map")(x, label) if self.num_classes > classes else x
        for number in range(halvings + 2):
            options = (number < halvings, number == 0, self.norm, self.spectral, self.axis_name)
            h = DownBlock(self.channels, *options, name=f"block_{number}")(h, train=train)
        features = jnp.mean(nn.relu(h), axis=(1, 2))
        return Logit(classes, self.spectral, _GLOROT, name="logit")(features, label, train=train)
