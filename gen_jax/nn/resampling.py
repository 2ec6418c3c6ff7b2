"""Images twice and half as large."""

from __future__ import annotations

import jax.numpy as jnp

from gen_jax.contracts import Array


def upsample(x: Array) -> Array:
    """Nearest neighbours: every pixel becomes 2 × 2 of its kind, [B, H, W, C] to [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return blocks.reshape(batch, 2 * height, 2 * width, channels)


def mean_pool(x: Array) -> Array:
    """The mean of every 2 × 2 pixels, [B, 2H, 2W, C] to [B, H, W, C].

    A reshape and a mean: the second derivative of XLA's pooling, which a gradient penalty needs, is slow on CPU.
    """
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
