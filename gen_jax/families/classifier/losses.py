"""The classifier's loss as mathematics on arrays."""

from __future__ import annotations

import jax

from gen_jax.contracts import Array


def cross_entropy(logits: Array, label: Array) -> Array:
    """The cross-entropy of a class: −log p(c|x) = log Σ_k e^{S_k} − S_c.

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 4.3.4, Eq. 4.108.

    Args:
      logits: [K] S.
      label: [] c, from 0 to K − 1.

    Returns:
      [] nats.
    """
    return jax.nn.logsumexp(logits) - logits[label]
