"""From stored 8-bit levels to what networks see and likelihoods are of, and back to images.

What draws noise is of one example, its key the caller's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Batch, Key


def unit_levels(image: Array) -> Array:
    """Grey levels as numbers: v / 255.

    Args:
      image: [...] uint8.

    Returns:
      [...] float32 in [0, 1].
    """
    return jnp.asarray(image, jnp.float32) / 255.0


def examples_of(batch: Batch) -> Array:
    """The examples of a batch as networks that see [−1, 1] have them: levels 0 … 255 as −1 … 1, points as they are.

    Args:
      batch: with `image` [B, H, W, C] uint8 or `point` [B, 2].

    Returns:
      [B, ...] float32.
    """
    if "point" in batch:
        return jnp.asarray(batch["point"], jnp.float32)
    return 2.0 * unit_levels(batch["image"]) - 1.0


def to_unit(x: Array) -> Array:
    """Images from [−1, 1] to [0, 1], what is outside cut off.

    Args:
      x: [...].

    Returns:
      [...].
    """
    return jnp.clip((x + 1) / 2, 0.0, 1.0)


def dynamic_binarization(key: Key, image: Array) -> Array:
    """A binary image drawn anew from the grey levels: x ~ Bernoulli(v / 255).

    See "On the Quantitative Analysis of Deep Belief Networks", Salakhutdinov and Murray, 2008 (ICML), pages 872 to
    879, whose protocol "Importance Weighted Autoencoders", Burda et al., 2016 (arXiv:1509.00519), Section 5, follows.

    Args:
      key: this example's key at this step.
      image: [...] uint8.

    Returns:
      [...] float32 in {0, 1}; black is always 0 and white always 1.
    """
    return jax.random.bernoulli(key, unit_levels(image)).astype(jnp.float32)


def threshold_binarization(image: Array) -> Array:
    """A binary image without noise: 1 where v > 127, and 0 elsewhere.

    Args:
      image: [...] uint8.

    Returns:
      [...] float32 in {0, 1}.
    """
    return (jnp.asarray(image) > 127).astype(jnp.float32)


def uniform_dequantization(key: Key, image: Array) -> Array:
    """A continuous image whose density bounds the levels' probability: x = (v + u) / 256, u ~ U[0, 1).

    See "A note on the evaluation of generative models", Theis et al., 2016 (arXiv:1511.01844), Section 3.1.

    Args:
      key: this example's key at this step.
      image: [...] uint8.

    Returns:
      [...] float32 in [0, 1).
    """
    levels = jnp.asarray(image, jnp.float32)
    # 16 random bits behind the 8 of the level fit float32's 24 exactly; a finer u could round v + u up to v + 1.
    u = jax.random.bits(key, levels.shape, jnp.uint16).astype(jnp.float32) / 65536.0
    return (levels + u) / 256.0
