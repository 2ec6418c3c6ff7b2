"""Attention of positions to one another."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax.contracts import Array


def attention(query: Array, key: Array, value: Array) -> Array:
    """Scaled dot-product attention: softmax(Q Kᵀ / √d) V.

    See "Attention Is All You Need", Vaswani et al., 2017 (arXiv:1706.03762), Eq. 1.

    Args:
      query: [B, N, heads, d].
      key: [B, M, heads, d].
      value: [B, M, heads, e].

    Returns:
      [B, N, heads, e]. The softmax is in float32 at least.
    """
    # Heads before positions: the products are then of whole matrices, quicker on a CPU.
    query, key, value = (jnp.swapaxes(a, 1, 2) for a in (query, key, value))
    logits = (query * query.shape[-1] ** -0.5) @ jnp.swapaxes(key, 2, 3)
    weights = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
    return jnp.swapaxes(weights.astype(value.dtype) @ value, 1, 2)
