"""Maxout: an activation that is itself learned, the largest of several linear maps."""

from __future__ import annotations

from gen_jax.contracts import Array


def maxout(h: Array, pieces: int) -> Array:
    """The largest of k linear pieces, for each unit.

    y_j = max_i h_ij,  h_ij = w_ijᵀ x + b_ij,  i = 1 … k

    See "Maxout Networks", Goodfellow et al., 2013 (arXiv:1302.4389), Section 3.

    Args:
      h: [..., k·n] what one dense layer of k·n outputs gives: all units' first pieces, then all second ones, and so on.
      pieces: k ≥ 1, of which the width of `h` is a multiple.

    Returns:
      [..., n].
    """
    return h.reshape(*h.shape[:-1], pieces, h.shape[-1] // pieces).max(axis=-2)
