"""The U-Net of DDPM."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.contracts import Array, Key, UserError
from gen_jax.nn.attention import attention
from gen_jax.nn.dropout import Dropout
from gen_jax.nn.group_norm import GroupNorm
from gen_jax.nn.resampling import upsample
from gen_jax.nn.strided_conv import StridedConv
from gen_jax.nn.time_embedding import sinusoidal_embedding


def initializer(scale: float = 1.0) -> nn.initializers.Initializer:
    """Uniform numbers of variance scale / mean(fan in, fan out); a scale of 0 stands for 1e-10, as in the code."""
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def check_sizes(image_shape: tuple[int, ...], channel_mult: tuple[int, ...], attention_at: tuple[int, ...]) -> None:
    """Refuses an image that the U-Net's depth does not divide, and attention at a resolution that never occurs.

    Args:
      image_shape: (H, W, C).
      channel_mult: of the network, one number a level.
      attention_at: of the network, the heights of feature maps.

    Raises:
      UserError: naming the sizes that would do.
    """
    height, width, _ = image_shape
    if not channel_mult:
        raise UserError("config.model.channel_mult is empty; a U-Net has one level or more, like (1, 2, 2).")
    depth = len(channel_mult) - 1
    if height % 2**depth or width % 2**depth:
        raise UserError(
            f"A U-Net of {depth + 1} levels halves its images {depth} times and {height}x{width} cannot be; their "
            f"sides must divide by {2**depth}: change config.model.channel_mult or the data."
        )
    heights = [height // 2**level for level in range(depth + 1)]
    never = [size for size in attention_at if size not in heights]
    if never:
        raise UserError(
            f"config.model.attention_at has {never[0]}, and the feature maps of this network have the heights "
            f"{', '.join(map(str, heights))}; choose among those, or none."
        )


class ResidualBlock(nn.Module):
    """Two convolutions, told the time in between, around which the input is added.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Appendix B, and its code.

    Attributes:
      features: of the output.
      dropout: before the second convolution.
      num_groups: of group normalisation; None for as many as `nn.group_norm.num_groups_of` says.
    """

    features: int
    dropout: float
    num_groups: int | None = None

    @nn.compact
    def __call__(self, x: Array, embedding: Array, dropout_keys: Key | None) -> Array:
        """Maps `x` [B, H, W, C] and the time's embedding [B, E] to [B, H, W, features]; `dropout_keys` are [B]."""
        h = nn.swish(GroupNorm(self.num_groups, name="norm1")(x))
        h = nn.Conv(self.features, (3, 3), kernel_init=initializer(), name="conv1")(h)
        time = nn.Dense(self.features, kernel_init=initializer(), name="time")(nn.swish(embedding))
        h = h + time[:, None, None]
        h = nn.swish(GroupNorm(self.num_groups, name="norm2")(h))
        h = Dropout(self.dropout, name="dropout")(h, dropout_keys)
        h = nn.Conv(self.features, (3, 3), kernel_init=initializer(0.0), name="conv2")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, kernel_init=initializer(), name="shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Every position attends to every other, with one head, around which the input is added.

    Attributes:
      num_groups: as in `ResidualBlock`.
    """

    num_groups: int | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to the same shape."""
        batch, height, width, channels = x.shape
        h = GroupNorm(self.num_groups, name="norm")(x).reshape(batch, height * width, channels)
        query, key, value = (nn.Dense(channels, kernel_init=initializer(), name=name)(h) for name in ("q", "k", "v"))
        h = attention(*(a[:, :, None] for a in (query, key, value)))[:, :, 0]
        h = nn.Dense(channels, kernel_init=initializer(0.0), name="out")(h)
        return x + h.reshape(x.shape)


class UNet(nn.Module):
    """The network of DDPM: a U-Net of residual blocks, told the time, with attention at some resolutions.

    Its defaults are those of the paper's CIFAR-10 model, of 35,746,307 parameters.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Appendix B, and its code.

    Attributes:
      out_channels: C of the output, twice that of the image where a variance is learned.
      channels: of the first level.
      channel_mult: of each level, from the image inwards, in multiples of `channels`; every level but the last is
        followed by one that is half as large.
      num_blocks: residual blocks a level on the way in; one more on the way out.
      attention_at: the heights of the feature maps that have attention; the middle always has.
      dropout: in every residual block.
      remat: whether the activations inside of blocks are computed again for the gradient instead of being kept.
      num_groups: of group normalisation, 32 in the paper; None for as many where the channels allow it, and fewer for
        narrow layers, whose groups have four channels at least.
    """

    out_channels: int = 3
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_at: tuple[int, ...] = (16,)
    dropout: float = 0.1
    remat: bool = False
    num_groups: int | None = None

    @nn.compact
    def __call__(self, x: Array, time: Array, dropout_keys: Key | None = None) -> Array:
        """Predicts from noisy images.

        Args:
          x: [B, H, W, C].
          time: [B] what `process.told_time` says.
          dropout_keys: [B] of dropout, or None for none.

        Returns:
          [B, H, W, out_channels].
        """
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        attend = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        embedding = sinusoidal_embedding(time, self.channels).astype(x.dtype)
        embedding = nn.Dense(4 * self.channels, kernel_init=initializer(), name="time1")(embedding)
        embedding = nn.Dense(4 * self.channels, kernel_init=initializer(), name="time2")(nn.swish(embedding))

        def block(h: Array, level: int, name: str) -> Array:
            h = residual(self.channels * self.channel_mult[level], self.dropout, self.num_groups, name=name)(
                h, embedding, dropout_keys
            )
            return attend(self.num_groups, name=f"{name}_attention")(h) if h.shape[1] in self.attention_at else h

        h = nn.Conv(self.channels, (3, 3), kernel_init=initializer(), name="in")(x)
        skips, last = [h], len(self.channel_mult) - 1
        for level in range(last + 1):
            for i in range(self.num_blocks):
                h = block(h, level, f"down{level}_{i}")
                skips.append(h)
            if level != last:
                h = StridedConv(h.shape[-1], 3, 2, initializer(), name=f"down{level}")(h)
                skips.append(h)

        width = h.shape[-1]
        h = residual(width, self.dropout, self.num_groups, name="middle0")(h, embedding, dropout_keys)
        h = attend(self.num_groups, name="middle_attention")(h)
        h = residual(width, self.dropout, self.num_groups, name="middle1")(h, embedding, dropout_keys)

        for level in reversed(range(last + 1)):
            for i in range(self.num_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), level, f"up{level}_{i}")
            if level:
                h = nn.Conv(h.shape[-1], (3, 3), kernel_init=initializer(), name=f"up{level}")(upsample(h))

        h = nn.swish(GroupNorm(self.num_groups, name="norm")(h))
        return nn.Conv(self.out_channels, (3, 3), kernel_init=initializer(0.0), name="out")(h)
