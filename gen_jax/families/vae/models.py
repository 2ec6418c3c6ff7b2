"""Encoders, decoders and the VAE that joins them: pure `apply(params, x)`."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Key
from gen_jax.nn.conv_transpose import ConvTranspose
from gen_jax.nn.dropout import Dropout

LIKELIHOODS = ("bernoulli", "gaussian", "discretized_logistic")
VARIANCES = ("fixed", "scalar", "pixel")

# A logistic this narrow, centred on a grey level of 256, holds 0.994 of its mass there: 0.01 bits from certain.
_MIN_LOG_SCALE = -8.0


class MLPEncoder(nn.Module):
    """Fully connected q(z|x): AEVB's Appendix C.2 with any number of hidden layers; none gives a linear one.

    Attributes:
      latent_dim: d.
      hidden: the width of each hidden layer.
      activation: between the layers; the paper's is tanh.
      dropout: after each hidden layer.
    """

    latent_dim: int
    hidden: tuple[int, ...] = (500,)
    activation: Callable[[Array], Array] = nn.tanh
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, dropout_keys: Key | None = None) -> tuple[Array, Array]:
        """Maps [B, H, W, C] to the mean and log-variance of q(z|x), each [B, d]."""
        h = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            h = self.activation(nn.Dense(width)(h))
            h = Dropout(self.dropout)(h, dropout_keys)
        return nn.Dense(self.latent_dim, name="mean")(h), nn.Dense(self.latent_dim, name="log_var")(h)


class MLPDecoder(nn.Module):
    """Fully connected p(x|z): AEVB's Appendix C.1 with any number of hidden layers; none gives a linear one.

    Attributes:
      output_shape: (H, W, C'), C' the channels times the likelihood's parameters a channel.
      hidden: the width of each hidden layer.
      activation: between the layers.
      dropout: after each hidden layer.
    """

    output_shape: tuple[int, int, int]
    hidden: tuple[int, ...] = (500,)
    activation: Callable[[Array], Array] = nn.tanh
    dropout: float = 0.0

    @nn.compact
    def __call__(self, z: Array, dropout_keys: Key | None = None) -> Array:
        """Maps [B, d] to [B, H, W, C']."""
        h = z
        for width in self.hidden:
            h = self.activation(nn.Dense(width)(h))
            h = Dropout(self.dropout)(h, dropout_keys)
        return nn.Dense(math.prod(self.output_shape))(h).reshape(-1, *self.output_shape)


class ConvEncoder(nn.Module):
    """Convolutional q(z|x): stages that halve the image, then one hidden layer.

    Attributes:
      latent_dim: d.
      channels: of each stage; H and W must divide by 2 to the number of stages.
      dense: the width of the fully connected layer.
      activation: between the layers.
      dropout: after the fully connected layer.
    """

    latent_dim: int
    channels: tuple[int, ...] = (32, 64)
    dense: int = 256
    activation: Callable[[Array], Array] = nn.relu
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, dropout_keys: Key | None = None) -> tuple[Array, Array]:
        """Maps [B, H, W, C] to the mean and log-variance of q(z|x), each [B, d]."""
        h = x
        for width in self.channels:
            h = self.activation(nn.Conv(width, (4, 4), strides=2)(h))
        h = self.activation(nn.Dense(self.dense)(h.reshape(h.shape[0], -1)))
        h = Dropout(self.dropout)(h, dropout_keys)
        return nn.Dense(self.latent_dim, name="mean")(h), nn.Dense(self.latent_dim, name="log_var")(h)


class ConvDecoder(nn.Module):
    """Convolutional p(x|z): the encoder's mirror image.

    Attributes:
      output_shape: (H, W, C'), C' the channels times the likelihood's parameters a channel.
      channels: of each stage, from the image inwards, as in the encoder.
      dense: the width of the fully connected layer.
      activation: between the layers.
      dropout: after the fully connected layer.
    """

    output_shape: tuple[int, int, int]
    channels: tuple[int, ...] = (32, 64)
    dense: int = 256
    activation: Callable[[Array], Array] = nn.relu
    dropout: float = 0.0

    @nn.compact
    def __call__(self, z: Array, dropout_keys: Key | None = None) -> Array:
        """Maps [B, d] to [B, H, W, C']."""
        height, width, outputs = self.output_shape
        shrink = 2 ** len(self.channels)
        top = (height // shrink, width // shrink, self.channels[-1])
        h = self.activation(nn.Dense(self.dense)(z))
        h = Dropout(self.dropout)(h, dropout_keys)
        h = self.activation(nn.Dense(math.prod(top))(h)).reshape(-1, *top)
        for features in reversed(self.channels[:-1]):
            h = self.activation(ConvTranspose(features, kernel_size=4, stride=2)(h))
        return ConvTranspose(outputs, kernel_size=4, stride=2)(h)


class VAE(nn.Module):
    """q(z|x) and p(x|z), with the decoder's raw numbers read as the parameters of a likelihood.

    Attributes:
      encoder: maps x [B, H, W, C] to (mean, log_var), each [B, d].
      decoder: maps z [B, d] to raw numbers [B, H, W, C * outputs_per_channel(likelihood, variance)].
      likelihood: "bernoulli", "gaussian" or "discretized_logistic".
      variance: of the Gaussian, "fixed", "scalar" (one learned number) or "pixel" (the decoder's).
      fixed_std: the standard deviation where `variance` is "fixed".
      squash_mean: whether the Gaussian's mean passes a sigmoid, as in the paper for data in [0, 1].
    """

    encoder: nn.Module
    decoder: nn.Module
    likelihood: str = "bernoulli"
    variance: str = "pixel"
    fixed_std: float = 1.0
    squash_mean: bool = True

    def setup(self) -> None:
        """Declares the one parameter that is neither the encoder's nor the decoder's.

        Raises:
          ValueError: where the likelihood or the variance is another than those named above.
        """
        if self.likelihood not in LIKELIHOODS or self.variance not in VARIANCES:
            raise ValueError(
                f"likelihood='{self.likelihood}' or variance='{self.variance}' is unknown; expected one of "
                f"{LIKELIHOODS} and one of {VARIANCES}."
            )
        if self.likelihood == "gaussian" and self.variance == "scalar":
            self.log_var = self.param("log_var", nn.initializers.zeros_init(), ())

    def __call__(self, x: Array) -> dict[str, Array]:
        """Encodes and decodes the mean; for initialisation."""
        return self.decode(self.encode(x)[0])

    def encode(self, x: Array, dropout_keys: Key | None = None) -> tuple[Array, Array]:
        """Maps x [B, H, W, C] to the mean and log-variance of q(z|x), each [B, d]."""
        return self.encoder(x, dropout_keys)

    def decode(self, z: Array, dropout_keys: Key | None = None) -> dict[str, Array]:
        """Maps z [B, d] to the likelihood's parameters by name, each [B, H, W, C] but a scalar log_var [B, 1, 1, 1]."""
        raw = self.decoder(z, dropout_keys)
        # The network may compute in bfloat16; a mean is finer than its 8 bits, a variance more so.
        raw = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
        if self.likelihood == "bernoulli":
            return {"logits": raw}
        if self.likelihood == "discretized_logistic":
            mean, log_scale = jnp.split(raw, 2, axis=-1)
            # At a raw 0 the mean is mid-grey and the scale about e^-2 of the range.
            return {"mean": 0.5 + mean, "log_scale": _MIN_LOG_SCALE + nn.softplus(log_scale - _MIN_LOG_SCALE - 2.0)}
        if self.variance == "pixel":
            mean, log_var = jnp.split(raw, 2, axis=-1)
        elif self.variance == "scalar":
            mean, log_var = raw, jnp.broadcast_to(self.log_var, (z.shape[0], 1, 1, 1))
        else:
            mean, log_var = raw, jnp.full((z.shape[0], 1, 1, 1), 2 * math.log(self.fixed_std), raw.dtype)
        return {"mean": nn.sigmoid(mean) if self.squash_mean else mean, "log_var": log_var}


def outputs_per_channel(likelihood: str, variance: str) -> int:
    """How many raw numbers a channel of a pixel needs.

    Args:
      likelihood: as in `VAE`.
      variance: as in `VAE`.

    Returns:
      1 or 2.
    """
    return 2 if likelihood == "discretized_logistic" or (likelihood == "gaussian" and variance == "pixel") else 1


def image_mean(outputs: dict[str, Array]) -> Array:
    """The picture that a decoder's outputs stand for: the mean of p(x|z), what lies beyond [0, 1] drawn to its ends.

    Bernoulli  σ(ℓ);   Gaussian  clip(μ, 0, 1);   logistic  E[clip(x, 0, 1)] = ∫₀¹ P(x > t) dt
    = s (log(1 + e^(μ/s)) − log(1 + e^((μ − 1)/s)))

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Appendix C.1 and C.2, and for the
    logistic, whose ends hold what lies beyond them, "PixelCNN++", Salimans et al., 2017 (arXiv:1701.05517),
    Section 2.1.

    Args:
      outputs: what `VAE.decode` returns.

    Returns:
      [B, H, W, C] in [0, 1].
    """
    if "logits" in outputs:
        return nn.sigmoid(outputs["logits"])
    if "log_scale" in outputs:
        mean, log_scale = outputs["mean"], outputs["log_scale"]
        scale = jnp.exp(jnp.minimum(log_scale, 0.0))
        narrow = scale * (nn.softplus(mean / scale) - nn.softplus((mean - 1.0) / scale))
        # The same as one logarithm: of two large softplus the difference has no digits left.
        scale = jnp.exp(jnp.clip(log_scale, 0.0, 40.0))
        wide = scale * jnp.log1p(nn.sigmoid((mean - 1.0) / scale) * jnp.expm1(1.0 / scale))
        return jnp.clip(jnp.where(log_scale < 0.0, narrow, wide), 0.0, 1.0)
    return jnp.clip(outputs["mean"], 0.0, 1.0)


def reparameterize(key: Key, mean: Array, log_var: Array) -> Array:
    """A sample of q(z|x) as a differentiable function of its parameters: z = μ + σ ε, ε ~ N(0, I).

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Section 2.4.

    Args:
      key: this sample's key.
      mean: [d] μ.
      log_var: [d] log σ².

    Returns:
      [d].
    """
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape, mean.dtype)
