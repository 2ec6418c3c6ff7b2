"""A small network for points."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.contracts import Array, Key
from gen_jax.nn.time_embedding import sinusoidal_embedding


class MLP(nn.Module):
    """Fully connected layers, each told the time and the label.

    h_{l+1} = swish(W_l h_l + V_l e),  e the time's sines and cosines and the label's vector, through one layer

    Attributes:
      out_features: of the output; as the input's.
      hidden: the width of each hidden layer.
      num_classes: K; 0 for a network without labels. The label K stands for none.
    """

    out_features: int = 2
    hidden: tuple[int, ...] = (128, 128, 128)
    num_classes: int = 0

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, dropout_keys: Key | None = None) -> Array:
        """Predicts from noisy points.

        Args:
          x: [B, D].
          time: [B].
          label: [B] int, read where there are classes; None for the last, which stands for none.
          dropout_keys: unused; there is no dropout.

        Returns:
          [B, out_features].
        """
        embedding = sinusoidal_embedding(time, 64).astype(x.dtype)
        if self.num_classes:
            label = jnp.full(x.shape[:1], self.num_classes) if label is None else label
            embedding += nn.Embed(self.num_classes + 1, 64, name="label")(label).astype(x.dtype)
        embedding = nn.swish(nn.Dense(self.hidden[0], name="time")(embedding))
        h = x
        for i, width in enumerate(self.hidden):
            told = nn.Dense(width, use_bias=False, name=f"time{i}")(embedding)
            h = nn.swish(nn.Dense(width, name=f"hidden{i}")(h) + told)
        return nn.Dense(self.out_features, kernel_init=nn.initializers.zeros_init(), name="out")(h)
