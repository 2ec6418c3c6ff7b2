"""The network of a radiance field: from a place and a direction to a colour and a density."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Params
from gen_jax.nn.precision import apply_in_param_dtype, param_dtype
from gen_jax.ops.encodings import positional_encoding


class RadianceField(nn.Module):
    """The multilayer perceptron of NeRF: F(x, d) = (c, σ), of 595,844 parameters with its defaults.

    Layers of ReLUs see the encoded place, and see it again after the layer `skip`. From the last come the density,
    which so depends on the place alone, and a feature vector, which with the encoded direction gives the colour.

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Sections 3 and 5.1, Figure 7, and its code.

    Attributes:
      depth: how many layers see the place.
      width: of each.
      skip: the layer, from 0, after which the encoded place is seen again; None for never.
      color_width: of the layer that sees the direction.
      position_frequencies: L of the place.
      direction_frequencies: L of the direction.
      encoding: its convention, one of `ops.encodings.CONVENTIONS`.
      first_relu: whether the first layer has a ReLU.
      feature_relu: whether the feature vector has one.
    """

    depth: int = 8
    width: int = 256
    skip: int | None = 4
    color_width: int = 128
    position_frequencies: int = 10
    direction_frequencies: int = 4
    encoding: str = "code"
    first_relu: bool = True
    feature_relu: bool = False

    def __call__(self, position: Array, direction: Array) -> tuple[Array, Array]:
        """The field at places seen from directions.

        Args:
          position: [..., 3].
          direction: [..., 3] of length 1, broadcast against the places.

        Returns:
          The colour [..., 3] and the density [...], as they come out of the last layers: before the sigmoid and ReLU.
        """
        return self.ask(
            self.encode(position, self.position_frequencies), self.encode(direction, self.direction_frequencies)
        )

    @nn.compact
    def ask(self, place: Array, view: Array) -> tuple[Array, Array]:
        """The same of encoded places and directions."""
        h = place
        for i in range(self.depth):
            h = nn.Dense(self.width, name=f"place{i}")(h)
            h = nn.relu(h) if i or self.first_relu else h
            h = jnp.concatenate([place, h], axis=-1) if i == self.skip else h
        density = nn.Dense(1, name="density")(h)[..., 0]
        feature = nn.Dense(self.width, name="feature")(h)
        feature = nn.relu(feature) if self.feature_relu else feature
        view = jnp.broadcast_to(view, (*feature.shape[:-1], view.shape[-1]))
        h = nn.relu(nn.Dense(self.color_width, name="view")(jnp.concatenate([feature, view], axis=-1)))
        return nn.Dense(3, name="color")(h), density

    def encode(self, x: Array, num_frequencies: int) -> Array:
        """γ of places or directions [..., 3]."""

        def one(point: Array) -> Array:
            return positional_encoding(point, num_frequencies, convention=self.encoding)

        flat = jax.vmap(one)(x.reshape(-1, x.shape[-1]))
        return flat.reshape(*x.shape[:-1], flat.shape[-1])


def ask_field(params: Params, position: Array, direction: Array, *, field: RadianceField) -> tuple[Array, Array]:
    """A field as its parameters make it: places are encoded in float32, what follows is in the parameters' precision.

    In bfloat16 the finest waves of the encoding would be noise, as a place has three digits there.

    Args:
      params: of the network.
      position: [..., 3].
      direction: [..., 3] of length 1, broadcast against the places.
      field: the network.

    Returns:
      The colour [..., 3] and the density [...] in float32, before the sigmoid and ReLU.
    """
    place = field.encode(position, field.position_frequencies)
    view = jnp.asarray(field.encode(direction, field.direction_frequencies), param_dtype(params))
    return apply_in_param_dtype(field, params, place, view, method="ask")
