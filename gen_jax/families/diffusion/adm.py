"""The U-Net of ADM."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.contracts import Array, Key, UserError
from gen_jax.nn.attention import attention
from gen_jax.nn.dropout import Dropout
from gen_jax.nn.group_norm import GroupNorm
from gen_jax.nn.resampling import mean_pool, upsample
from gen_jax.nn.strided_conv import StridedConv
from gen_jax.nn.time_embedding import sinusoidal_embedding

EPSILON = 1e-5  # Of group norm, here larger than in DDPM.

# The law of PyTorch's layers, with which the paper's networks start: uniform in ±1/√(fan in).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_zeros = nn.initializers.zeros_init()


def check_heads(
    height: int, channels: int, channel_mult: tuple[int, ...], attention_at: tuple[int, ...], head_channels: int
) -> None:
    """Refuses heads of a size that the channels of a level with attention cannot be cut into.

    Args:
      height: of the images.
      channels: of the network.
      channel_mult: of the network, one number a level; the last level has attention always.
      attention_at: of the network, the heights of feature maps.
      head_channels: of the network.

    Raises:
      UserError: naming the first level's channels for which that is so.
    """
    last = len(channel_mult) - 1
    attend = [level for level in range(last + 1) if level == last or height // 2**level in attention_at]
    widths = [channels * channel_mult[level] for level in attend]
    for width in widths:
        if head_channels < 1 or width % head_channels:
            raise UserError(
                f"config.model.head_channels is {head_channels}, and a level of {width} channels cannot be cut into "
                f"heads of that size; choose a number that divides {', '.join(map(str, widths))}."
            )


class ResidualBlock(nn.Module):
    """Two convolutions, told the time and the label in between, around which the input is added.

    With adaptive group normalisation y = (1 + s) GroupNorm(h) + b; a linear map of the embedding gives s and b.

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Section 3, and
    its code; the resampling is that of "Large Scale GAN Training for High Fidelity Natural Image Synthesis", Brock et
    al., 2019 (arXiv:1809.11096).

    Attributes:
      features: of the output.
      dropout: before the second convolution.
      adaptive_norm: whether the embedding scales and shifts what is normalised; it is added before if not.
      resample: makes images twice or half as large on both branches, before the first convolution; None for nothing.
    """

    features: int
    dropout: float
    adaptive_norm: bool = True
    resample: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, x: Array, embedding: Array, dropout_keys: Key | None) -> Array:
        """Maps `x` [B, H, W, C] and an embedding [B, E] to [B, H', W', features]; `dropout_keys` are [B]."""
        h = nn.swish(GroupNorm(epsilon=EPSILON, name="norm1")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = nn.Conv(self.features, (3, 3), kernel_init=torch_uniform, name="conv1")(h)
        told = nn.Dense((1 + self.adaptive_norm) * self.features, kernel_init=torch_uniform, name="embedding")
        norm = GroupNorm(epsilon=EPSILON, name="norm2")
        if self.adaptive_norm:
            h = norm(h, *jnp.split(told(nn.swish(embedding)), 2, axis=-1))
        else:
            h = norm(h + told(nn.swish(embedding))[:, None, None])
        h = Dropout(self.dropout, name="dropout")(nn.swish(h), dropout_keys)
        h = nn.Conv(self.features, (3, 3), kernel_init=_zeros, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, kernel_init=torch_uniform, name="shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Every position attends to every other, with several heads, around which the input is added.

    Attributes:
      head_channels: of each head, which divide the input's.
    """

    head_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to the same shape."""
        batch, height, width, channels = x.shape
        h = GroupNorm(epsilon=EPSILON, name="norm")(x).reshape(batch, height * width, channels)
        qkv = nn.Dense(3 * channels, kernel_init=torch_uniform, name="qkv")(h)
        qkv = qkv.reshape(batch, height * width, 3, channels // self.head_channels, self.head_channels)
        h = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(batch, height * width, channels)
        h = nn.Dense(channels, kernel_init=_zeros, name="out")(h)
        return x + h.reshape(x.shape)


class Levels(nn.Module):
    """What ADM's U-Net and its classifier share: the embedding of the time, the way in, the middle.

    Its defaults are those of the paper's ImageNet-64 model.

    Attributes:
      channels: of the first level, in multiples of which the others are; also of the time's waves.
      channel_mult: of each level, from the image inwards; every level but the last is followed by one half as large.
      num_blocks: residual blocks a level on the way in; one more on the way out.
      attention_at: the heights of the feature maps that have attention; the middle always has.
      head_channels: of each head of attention.
      dropout: in every residual block.
      big_gan_resampling: whether residual blocks make images twice and half as large; if not, convolutions do, as in
        DDPM.
      adaptive_norm: as in `ResidualBlock`.
      remat: whether the activations inside of blocks are computed again for the gradient instead of being kept.
    """

    channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attention_at: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    dropout: float = 0.1
    big_gan_resampling: bool = True
    adaptive_norm: bool = True
    remat: bool = False

    def embed(self, time: Array, dtype: jnp.dtype) -> Array:
        """The embedding of the times [B], of [B, 4 channels].

        The paper's code has the cosines before the sines: the same network with the rows of `time1` in another order.
        """
        embedding = sinusoidal_embedding(time, self.channels, reaches_end=False).astype(dtype)
        embedding = nn.Dense(4 * self.channels, kernel_init=torch_uniform, name="time1")(embedding)
        return nn.Dense(4 * self.channels, kernel_init=torch_uniform, name="time2")(nn.swish(embedding))

    def residual(
        self,
        h: Array,
        features: int,
        embedding: Array,
        dropout_keys: Key | None,
        name: str,
        resample: Callable[[Array], Array] | None = None,
    ) -> Array:
        """One residual block."""
        kind = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        return kind(features, self.dropout, self.adaptive_norm, resample, name=name)(h, embedding, dropout_keys)

    def attend(self, h: Array, name: str) -> Array:
        """One block of attention."""
        kind = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        return kind(self.head_channels, name=name)(h)

    def block(self, h: Array, level: int, embedding: Array, dropout_keys: Key | None, name: str) -> Array:
        """One residual block of a level, and attention where it belongs."""
        h = self.residual(h, self.channels * self.channel_mult[level], embedding, dropout_keys, name)
        return self.attend(h, f"{name}_attention") if h.shape[1] in self.attention_at else h

    def way_in(self, x: Array, embedding: Array, dropout_keys: Key | None) -> list[Array]:
        """The feature maps from the image to the smallest, of which the way out is shown every one."""
        h = nn.Conv(self.channels * self.channel_mult[0], (3, 3), kernel_init=torch_uniform, name="in")(x)
        maps, last = [h], len(self.channel_mult) - 1
        for level in range(last + 1):
            for i in range(self.num_blocks):
                h = self.block(h, level, embedding, dropout_keys, f"down{level}_{i}")
                maps.append(h)
            if level != last:
                if self.big_gan_resampling:
                    h = self.residual(h, h.shape[-1], embedding, dropout_keys, f"down{level}", mean_pool)
                else:
                    h = StridedConv(h.shape[-1], 3, 2, torch_uniform, name=f"down{level}")(h)
                maps.append(h)
        return maps

    def middle(self, h: Array, embedding: Array, dropout_keys: Key | None) -> Array:
        """Two residual blocks with attention in between, at the smallest size."""
        h = self.residual(h, h.shape[-1], embedding, dropout_keys, "middle0")
        h = self.attend(h, "middle_attention")
        return self.residual(h, h.shape[-1], embedding, dropout_keys, "middle1")


class ADMUNet(Levels):
    """The network of ADM: a U-Net told the time and the label, with attention of several heads at several resolutions.

    Its defaults are those of the paper's ImageNet-64 model but for the labels, of which that has 1000.

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Section 3, and
    its code. The embedding of the label is added to that of the time. Differences: biases start at 0; there is one
    label more, which means none; the convolution that halves images without `big_gan_resampling` pads them below and
    to the right, as DDPM does, and not all around.

    Attributes:
      out_channels: C of the output, twice that of the image where a variance is learned.
      num_classes: how many labels there are, 0 for none; the label `num_classes` itself stands for none, in
        classifier-free guidance.
    """

    out_channels: int = 6
    num_classes: int = 0

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, dropout_keys: Key | None = None) -> Array:
        """Predicts from noisy images.

        Args:
          x: [B, H, W, C].
          time: [B] what `process.told_time` says.
          label: [B] int, 0 … num_classes; None for the last, which stands for none.
          dropout_keys: [B] of dropout, or None for none.

        Returns:
          [B, H, W, out_channels].

        Raises:
          ValueError: where there are labels for a network without.
        """
        embedding = self.embed(time, x.dtype)
        if self.num_classes:
            label = jnp.full(x.shape[:1], self.num_classes) if label is None else label
            table = nn.Embed(
                self.num_classes + 1, embedding.shape[-1], embedding_init=nn.initializers.normal(1.0), name="label"
            )
            embedding = embedding + table(label)
        elif label is not None:
            raise ValueError("This network has num_classes=0 and was given labels; leave them out.")
        maps = self.way_in(x, embedding, dropout_keys)
        h = self.middle(maps[-1], embedding, dropout_keys)
        for level in reversed(range(len(self.channel_mult))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, maps.pop()], axis=-1)
                h = self.block(h, level, embedding, dropout_keys, f"up{level}_{i}")
            if level and self.big_gan_resampling:
                h = self.residual(h, h.shape[-1], embedding, dropout_keys, f"up{level}", upsample)
            elif level:
                h = nn.Conv(h.shape[-1], (3, 3), kernel_init=torch_uniform, name=f"up{level}")(upsample(h))
        h = nn.swish(GroupNorm(epsilon=EPSILON, name="norm")(h))
        return nn.Conv(self.out_channels, (3, 3), kernel_init=_zeros, name="out")(h)
