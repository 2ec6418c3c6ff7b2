"""Encoders and decoders in one module, since their weights may be tied: pure `apply(params, x, method="encode")`."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.contracts import Array
from gen_jax.nn.conv_transpose import ConvTranspose, conv_transpose

OUTPUTS = ("linear", "sigmoid")


def identity(a: Array) -> Array:
    """The activation of a linear layer: a."""
    return a


class MLPAutoencoder(nn.Module):
    """Fully connected layers to the code and back; one layer with a linear code and output is a linear autoencoder.

    z = s(… s(x W₁ + b₁) … W_n + b_n),  x̂ = s(… s(z V_n + c_n) …) V₁ + c₁,  V_i = W_iᵀ where the weights are tied

    See "Reducing the Dimensionality of Data with Neural Networks", Hinton and Salakhutdinov, 2006 (Science 313),
    Fig. 1, and for the tied weights "Extracting and Composing Robust Features with Denoising Autoencoders", Vincent et
    al., 2008 (ICML), Section 2.2.

    Attributes:
      image_shape: (H, W, C).
      widths: of each layer from the image inwards, the code's d last.
      activation: of every layer but the code and the output.
      code_activation: of the code; HS's is linear.
      output: "sigmoid" where `decode` gives the logits of an image, "linear" where it gives the image itself.
      tied: whether the decoder's weights are the encoder's, transposed.
      init_std: of the encoder's initial weights; None for LeCun's. A wide random layer at LeCun's scale reconstructs
        well as it is, and units need learn nothing; from small weights all of them grow towards the data.
    """

    image_shape: tuple[int, int, int]
    widths: tuple[int, ...] = (1000, 500, 250, 30)
    activation: Callable[[Array], Array] = nn.gelu
    code_activation: Callable[[Array], Array] = identity
    output: str = "sigmoid"
    tied: bool = False
    init_std: float | None = None

    def setup(self) -> None:
        """Declares the layers; `decoder_i` and `decoder_bias_i` lead back to the input of `encoder_i`.

        Raises:
          ValueError: where the output is another than those named above, or there is no layer.
        """
        _check(self.output, self.widths)
        sizes = (math.prod(self.image_shape), *self.widths[:-1])
        initializers = nn.initializers
        init = initializers.lecun_normal() if self.init_std is None else initializers.normal(self.init_std)
        self.encoder = [nn.Dense(width, kernel_init=init) for width in self.widths]
        if self.tied:
            zeros = nn.initializers.zeros_init()
            self.decoder_bias = [
                self.param(f"decoder_bias_{i}", zeros, (size,), jnp.float32) for i, size in enumerate(sizes)
            ]
        else:
            self.decoder = [nn.Dense(size) for size in sizes]

    @property
    def latent_dim(self) -> int:
        """How many numbers a code has, d."""
        return self.widths[-1]

    def __call__(self, x: Array) -> Array:
        """Encodes and decodes, without the output's sigmoid; for initialisation."""
        return self.decode(self.encode(x))

    def encode(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to the code [B, d]."""
        h = x.reshape(x.shape[0], -1)
        for layer in self.encoder[:-1]:
            h = self.activation(layer(h))
        return self.code_activation(self.encoder[-1](h))

    def decode(self, z: Array) -> Array:
        """Maps z [B, d] to [B, H, W, C]: logits where the output is "sigmoid"."""
        h = z
        for i in reversed(range(len(self.widths))):
            if self.tied:
                kernel, bias = self.encoder[i].variables["params"]["kernel"], self.decoder_bias[i]
                h = h @ kernel.T + bias[None]
            else:
                h = self.decoder[i](h)
            h = self.activation(h) if i else h
        return h.reshape(-1, *self.image_shape)


class ConvAutoencoder(nn.Module):
    """Convolutions that halve the image, a dense code, and the mirror image of both.

    With tied weights every stage of the decoder is the transpose of the encoder's linear map, kernel and all.

    Attributes:
      image_shape: (H, W, C); H and W divide by 2 to the number of stages.
      channels: of each stage.
      latent_dim: d.
      activation: of every layer but the code and the output.
      code_activation: of the code.
      output: "sigmoid" or "linear", as in `MLPAutoencoder`.
      tied: whether the decoder's weights are the encoder's, transposed.
    """

    image_shape: tuple[int, int, int]
    channels: tuple[int, ...] = (32, 64)
    latent_dim: int = 30
    activation: Callable[[Array], Array] = nn.gelu
    code_activation: Callable[[Array], Array] = identity
    output: str = "sigmoid"
    tied: bool = False

    def setup(self) -> None:
        """Declares the layers.

        Raises:
          ValueError: where the output is another than those named above, there is no stage, or the stages do not
            divide the image.
        """
        _check(self.output, self.channels)
        height, width, channels = self.image_shape
        shrink = 2 ** len(self.channels)
        if height % shrink or width % shrink:
            raise ValueError(f"{len(self.channels)} stages need sides that divide by {shrink}, not {height}x{width}.")
        self.top = (height // shrink, width // shrink, self.channels[-1])
        ins = (channels, *self.channels[:-1])
        self.stages = [nn.Conv(width, (4, 4), strides=2) for width in self.channels]
        self.to_code = nn.Dense(self.latent_dim)
        if self.tied:
            zeros = nn.initializers.zeros_init()
            self.from_code_bias = self.param("from_code_bias", zeros, (math.prod(self.top),), jnp.float32)
            self.back_bias = [self.param(f"back_bias_{n}", zeros, (width,), jnp.float32) for n, width in enumerate(ins)]
        else:
            self.from_code = nn.Dense(math.prod(self.top))
            self.back = [ConvTranspose(width, kernel_size=4, stride=2) for width in ins]

    def __call__(self, x: Array) -> Array:
        """Encodes and decodes, without the output's sigmoid; for initialisation."""
        return self.decode(self.encode(x))

    def encode(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to the code [B, d]."""
        h = x
        for stage in self.stages:
            h = self.activation(stage(h))
        return self.code_activation(self.to_code(h.reshape(h.shape[0], -1)))

    def decode(self, z: Array) -> Array:
        """Maps z [B, d] to [B, H, W, C]: logits where the output is "sigmoid"."""
        if self.tied:
            h = z @ self.to_code.variables["params"]["kernel"].T + self.from_code_bias[None]
        else:
            h = self.from_code(z)
        h = self.activation(h).reshape(-1, *self.top)
        for n in reversed(range(len(self.channels))):
            if self.tied:
                kernel, bias = self.stages[n].variables["params"]["kernel"], self.back_bias[n]
                h = conv_transpose(h, kernel, 2) + bias[None, None, None]
            else:
                h = self.back[n](h)
            h = self.activation(h) if n else h
        return h


def _check(output: str, layers: tuple[int, ...]) -> None:
    if output not in OUTPUTS:
        raise ValueError(f"output='{output}' is unknown; expected one of {OUTPUTS}.")
    if not layers:
        raise ValueError("An autoencoder has at least one layer.")


def image_of(raw: Array, output: str) -> Array:
    """The image that a decoder's numbers stand for.

    Args:
      raw: [...] as `decode` gives it.
      output: the model's: "sigmoid" or "linear".

    Returns:
      [...] x̂, in [0, 1] for a sigmoid.
    """
    return nn.sigmoid(raw) if output == "sigmoid" else jnp.asarray(raw)
