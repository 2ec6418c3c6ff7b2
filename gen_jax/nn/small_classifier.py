"""A small convolutional classifier, trained by one part of the package and looked through by another."""

from __future__ import annotations

import flax.linen as nn

from gen_jax.contracts import Array, Key
from gen_jax.nn.dropout import Dropout


class SmallClassifier(nn.Module):
    """Stages of 3x3 convolution that halve the image, one hidden layer, and a linear layer to the classes.

    The hidden layer's numbers are brought to mean 0 and variance 1 for each image by itself, without parameters: of
    features as they come those of one class may be so large that distances are of little else.

    Attributes:
      num_classes: K.
      channels: of each stage.
      num_features: d, the width of the hidden layer.
      dropout: before and after the hidden layer.
    """

    num_classes: int = 10
    channels: tuple[int, ...] = (16, 32, 64)
    num_features: int = 64
    dropout: float = 0.0

    def setup(self) -> None:
        """Makes the layers."""
        self.stages = [nn.Conv(width, (3, 3), strides=2) for width in self.channels]
        self.hidden = nn.Dense(self.num_features)
        self.normalise = nn.LayerNorm(use_scale=False, use_bias=False)
        self.logits = nn.Dense(self.num_classes)
        self.dropouts = [Dropout(self.dropout) for _ in range(2)]

    def __call__(self, x: Array, dropout_keys: Key | None = None) -> Array:
        """Maps images [B, H, W, C] in [0, 1] to the logits [B, K] of the classes."""
        return self.classify(x, dropout_keys)[1]

    def classify(self, x: Array, dropout_keys: Key | None = None) -> tuple[Array, Array]:
        """Maps images [B, H, W, C] in [0, 1] to the hidden layer's features [B, d] and the logits [B, K]."""
        h = 2.0 * x - 1.0
        for stage in self.stages:
            h = nn.gelu(stage(h))
        h = self.dropouts[0](h.reshape(h.shape[0], -1), dropout_keys)
        features = self.normalise(nn.gelu(self.hidden(h)))
        return features, self.logits(self.dropouts[1](features, dropout_keys))
