"""Dropout whose mask belongs to the example and not to the batch."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Key


class Dropout(nn.Module):
    """Zeroes each activation with probability `rate` and divides the rest by 1 − `rate`.

    See "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", Srivastava et al., 2014 (JMLR 15),
    Section 10, for the scaling during training.

    Linen's own layer draws one mask for the whole batch it sees, so its masks change with the number of devices. Here
    each example has its key, and each layer folds its own path in it.

    Attributes:
      rate: in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, keys: Key | None) -> Array:
        """Drops activations of `x` [B, ...] by `keys` [B]; returns `x` itself where `keys` is None or the rate 0."""
        if keys is None or self.rate == 0.0:
            return x
        here = "/".join(str(name) for name in self.path)
        keep = jax.vmap(lambda key: jax.random.bernoulli(rng.stream(key, here), 1.0 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))
