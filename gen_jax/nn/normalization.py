"""Normalisation of activations, by the batch, by the class or by the layer, and of weights by their spectral norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from gen_jax.contracts import Array, UserError

NORMS = ("batch", "layer", "none")

# The running averages keep 0.9 of themselves a step, and 1e-5 is added to every variance. The variance, in the batch as
# in the running average, is the one that divides by the number of values.
MOMENTUM = 0.9
_EPSILON = 1e-5


class Norm(nn.Module):
    """One layer of normalisation, of whichever kind the network asks for; "none" gives its input back.

    "batch": y = γ (x − μ) / √(σ² + ε) + β with the mean and variance of a channel over the batch and all positions;
    when not training, with their running averages. "Batch Normalization: Accelerating Deep Network Training by
    Reducing Internal Covariate Shift", Ioffe and Szegedy, 2015 (arXiv:1502.03167).

    "batch" with classes: the same with γ and β from a table by class. "A Learned Representation For Artistic Style",
    Dumoulin et al., 2017 (arXiv:1610.07629), Section 2.2.

    "layer": the mean and variance over all of one example, γ and β by channel. "Layer Normalization", Ba et al., 2016
    (arXiv:1607.06450); it keeps examples apart, and so goes with a gradient penalty.

    Attributes:
      kind: one of `NORMS`.
      num_classes: of the table of γ and β; 0 for one pair. Only "batch" has classes.
      axis_name: the mapped axis of devices over which the batch lies, or None.
      scale_init: the initializer of γ; β starts at 0.
    """

    kind: str
    num_classes: int = 0
    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Normalises `x` [B, ..., C]; `label` [B] is read where there are classes.

        Raises:
          UserError: where the kind is unknown.
        """
        if self.kind not in NORMS:
            raise UserError(f"norm='{self.kind}' is unknown; choose one of {', '.join(NORMS)}.")
        if self.kind == "none":
            return x
        if self.kind == "layer":
            axes = tuple(range(1, x.ndim))
            return nn.LayerNorm(_EPSILON, reduction_axes=axes, feature_axes=-1, scale_init=self.scale_init)(x)
        by_class = self.num_classes > 0
        y = nn.BatchNorm(
            use_running_average=not train,
            momentum=MOMENTUM,
            epsilon=_EPSILON,
            use_scale=not by_class,
            use_bias=not by_class,
            scale_init=self.scale_init,
            axis_name=self.axis_name,
        )(x)
        if not by_class:
            return y
        shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
        scale = nn.Embed(self.num_classes, x.shape[-1], embedding_init=self.scale_init, name="scale")(label)
        bias = nn.Embed(self.num_classes, x.shape[-1], embedding_init=nn.initializers.zeros_init(), name="bias")(label)
        return y * scale.reshape(shape) + bias.reshape(shape)


def with_spectral_norm(layer: nn.Module, *, spectral: bool, train: bool, dtype: Any) -> Callable[..., Array]:
    """A dense, convolutional or embedding layer, its kernel divided by its largest singular value if `spectral`.

    W / σ(W),  σ(W) ≈ uᵀ W v

    u and v come from one step of power iteration a call, begun at the u that training has left; σ is differentiated
    with both held fixed. A convolution's kernel counts as the matrix of its inputs at all taps by its outputs.

    See "Spectral Normalization for Generative Adversarial Networks", Miyato et al., 2018 (arXiv:1802.05957),
    Algorithm 1.

    Args:
      layer: a Linen layer, made within the `__call__` of the module that uses it.
      spectral: whether to divide; if not, the layer is returned as it is.
      train: whether this call's u is kept.
      dtype: in which the layer is to compute; u and σ are in float32.

    Returns:
      A function of the layer's input.
    """
    if not spectral:
        return layer
    return lambda x: nn.SpectralNorm(layer, dtype=dtype)(x, update_stats=train)
