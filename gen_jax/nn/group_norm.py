"""Group normalisation, in a form that is quick on every backend."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.contracts import Array


def num_groups_of(channels: int, most: int = 32) -> int:
    """How many groups a layer has: the largest number up to `most` that divides the channels, each of 4 or more.

    Args:
      channels: C.
      most: 32 in the papers, whose layers have 128 channels and more.

    Returns:
      G, which divides C.
    """
    return max(g for g in range(1, most + 1) if channels % g == 0 and (channels // g >= 4 or g == 1))


class GroupNorm(nn.Module):
    """Normalises each example over positions and over the channels of a group.

    y = γ (x − μ_g) / √(σ²_g + ε) + β

    See "Group Normalization", Wu and He, 2018 (arXiv:1803.08494), Eq. 1, 2, 6 and 7. The sums run over positions first,
    for every channel by itself, then over the channels of a group, and one product and one sum are left for each
    number: a reshape to groups and a reduction over three axes at once is several times slower on a CPU.

    Attributes:
      num_groups: G; None for `num_groups_of` the channels.
      epsilon: ε.
    """

    num_groups: int | None = None
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """Normalises `x` [B, ..., C].

        Args:
          x: [B, ..., C].
          scale: [B, C], as adaptive group normalisation has it: the result is multiplied by 1 + `scale`; None for not.
          shift: [B, C], which is then added; None for nothing.

        Returns:
          [B, ..., C].
        """
        channels = x.shape[-1]
        groups = self.num_groups or num_groups_of(channels)
        gamma = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)[None]
        beta = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)[None]
        flat = x.reshape(x.shape[0], -1, channels)
        # In float32 at least, whatever the precision of the layers around.
        wide = flat.astype(jnp.promote_types(x.dtype, jnp.float32))

        def of_groups(sums: Array) -> Array:  # [B, C] -> [B, C], the mean of each channel's group.
            means = jnp.mean(sums.reshape(-1, groups, channels // groups), axis=-1, keepdims=True)
            return jnp.broadcast_to(means, (*means.shape[:2], channels // groups)).reshape(-1, channels)

        # About a number near the mean, so that the difference of the two moments loses few digits.
        centre = jax.lax.stop_gradient(of_groups(wide[:, 0]))
        moved = wide - centre[:, None]
        mean = of_groups(jnp.mean(moved, axis=1))
        variance = of_groups(jnp.mean(moved**2, axis=1)) - mean**2
        factor = gamma * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + self.epsilon)
        offset = beta - (mean + centre) * factor
        if scale is not None:
            factor, offset = factor * (1 + scale), offset * (1 + scale)
        if shift is not None:
            offset = offset + shift
        return (wide * factor[:, None] + offset[:, None]).astype(x.dtype).reshape(x.shape)
