"""From parameters to codes, reconstructions and scores, and ways to draw images from a model that has no prior."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Key, ModelState, Params
from gen_jax.families.autoencoder.corruption import corrupt
from gen_jax.families.autoencoder.losses import k_sparse
from gen_jax.families.autoencoder.models import image_of
from gen_jax.nn.precision import apply_in_param_dtype


def encode(params: Params, x: Array, *, model: nn.Module, k: int | None = None) -> Array:
    """The codes of a batch.

    Args:
      params: of the model.
      x: [B, H, W, C] in [0, 1].
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.
      k: how many of the activations are kept; None for all.

    Returns:
      [B, d].

    Raises:
      ValueError: where k is larger than the code.
    """
    z = apply_in_param_dtype(model, params, x, method="encode")
    return z if k is None else jax.vmap(k_sparse, in_axes=(0, None))(z, k)


def decode(params: Params, z: Array, *, model: nn.Module) -> Array:
    """The images that codes stand for.

    Args:
      params: of the model.
      z: [B, d].
      model: as in `encode`.

    Returns:
      [B, H, W, C], in [0, 1] where the model's output is a sigmoid.
    """
    return image_of(apply_in_param_dtype(model, params, z, method="decode"), model.output)


def reconstruct(params: Params, x: Array, *, model: nn.Module, k: int | None = None) -> Array:
    """The reconstructions x̂ = g(f(x)) of a batch.

    See "Extracting and Composing Robust Features with Denoising Autoencoders", Vincent et al., 2008 (ICML), Section
    2.2.

    Args:
      params: of the model.
      x: [B, H, W, C] in [0, 1].
      model: as in `encode`.
      k: as in `encode`.

    Returns:
      [B, H, W, C], in [0, 1] where the model's output is a sigmoid.

    Raises:
      ValueError: where k is larger than the code.
    """
    return decode(params, encode(params, x, model=model, k=k), model=model)


def score(denoise: Callable[[Array], Array], x: Array, sigma: float) -> Array:
    """The gradient of the log-density of noisy data as a denoiser knows it.

    ∇ log p_σ(x) ≈ (r(x) − x) / σ²,  p_σ = p * N(0, σ² I); exact for the denoiser of least squared error

    See "What Regularized Auto-Encoders Learn from the Data Generating Distribution", Alain and Bengio, 2014
    (arXiv:1211.4246), Theorem 1, and "A Connection Between Score Matching and Denoising Autoencoders", Vincent, 2011
    (Neural Computation 23), Section 4.

    Args:
      denoise: r, which maps images [...] to reconstructions of the same shape.
      x: [...].
      sigma: σ > 0 of the Gaussian noise that `denoise` was trained with.

    Returns:
      [...] in inverse units of `x`.
    """
    return (denoise(x) - x) / sigma**2


def sample_gaussian_codes(
    params: Params, model_state: ModelState, keys: Key, *, model: nn.Module, jitter: float = 1e-4
) -> Array:
    """Decodes codes drawn from the Gaussian with the running mean and covariance of the training codes.

    The codes are those of the encoder as it trains: where the run averages parameters, the decoder is the averaged one.

    See "From Variational to Deterministic Autoencoders", Ghosh et al., 2020 (arXiv:1903.12436), Section 4: a density
    that is fitted to the codes afterwards.

    Args:
      params: of the model.
      model_state: `code_mean` [d] and `code_second_moment` [d, d], as `objectives.objective` keeps them.
      keys: [n].
      model: as in `encode`.
      jitter: what is added to the covariance's diagonal, as a part of its mean.

    Returns:
      [n, H, W, C] in [0, 1], image i from key i alone.
    """
    mean, second = model_state["code_mean"], model_state["code_second_moment"]
    covariance = second - jnp.outer(mean, mean)
    size = mean.shape[0]
    # By its eigenvectors and not Cholesky's: as a difference of averages it may miss being positive by a rounding.
    variances, directions = jnp.linalg.eigh(covariance + jitter * jnp.trace(covariance) / size * jnp.eye(size))
    scaled = directions * jnp.sqrt(jnp.maximum(variances, 0.0))[None]
    z = jax.vmap(lambda key: mean + scaled @ jax.random.normal(key, (size,), mean.dtype))(keys)
    return jnp.clip(decode(params, z, model=model), 0.0, 1.0)


def denoising_chain(
    reconstruct: Callable[[Array], Array],
    keys: Key,
    image_shape: tuple[int, ...],
    *,
    corruption: str,
    level: float,
    num_steps: int,
) -> Array:
    """Runs a chain of corruption and reconstruction for each image, from noise on.

    x̃_t ~ q(x̃ | x_t),  x_{t+1} = r(x̃_t);  x_0 ~ U[0, 1]^D

    See "Generalized Denoising Auto-Encoders as Generative Models", Bengio et al., 2013 (arXiv:1305.6663),
    Section 2.2; here the mean r(x̃) stands for a draw of P(X|X̃).

    Args:
      reconstruct: r, which maps [n, H, W, C] to the same shape.
      keys: [n].
      image_shape: (H, W, C).
      corruption: as in `corruption.corrupt`.
      level: its σ or ν.
      num_steps: how many reconstructions are made.

    Returns:
      [n, H, W, C] in [0, 1], image i from key i alone.

    Raises:
      ValueError: where the corruption is another one.
    """

    def step(x: Array, t: Array) -> tuple[Array, None]:
        at_t = jax.vmap(lambda key: rng.at_step(rng.stream(key, "chain"), t))(keys)
        corrupted = jax.vmap(lambda key, image: corrupt(key, image, corruption, level))(at_t, x)
        return jnp.clip(reconstruct(corrupted), 0.0, 1.0), None

    start = jax.vmap(lambda key: jax.random.uniform(rng.stream(key, "start"), image_shape, jnp.float32))(keys)
    return jax.lax.scan(step, start, jnp.arange(num_steps))[0]


def contractive_walk(
    params: Params, keys: Key, images: Array, *, model: nn.Module, step_size: float, num_steps: int
) -> Array:
    """Walks along the directions in which the code is still sensitive, decoding at every step, from an image on.

    z_t = f(x_t) + Δ,  Δ = J Jᵀ ε,  ε ~ N(0, s² I);  x_{t+1} = g(z_t)

    See "A Generative Process for Sampling Contractive Auto-Encoders", Rifai et al., 2012 (arXiv:1206.6434),
    pages 1 to 8. J is never formed: Δ is one backward and one forward product.

    Args:
      params: of the model.
      keys: [n].
      images: [M, H, W, C] in [0, 1], one of which a walk begins at.
      model: as in `encode`.
      step_size: s.
      num_steps: how many steps are made.

    Returns:
      [n, H, W, C] in [0, 1], image i from key i alone.
    """

    def one(key: Key, x: Array) -> Array:
        def f(image: Array) -> Array:
            return encode(params, image[None], model=model)[0]

        z, backward = jax.vjp(f, x)
        epsilon = step_size * jax.random.normal(key, z.shape, z.dtype)
        _, delta = jax.jvp(f, (x,), backward(epsilon))
        return jnp.clip(decode(params, (z + delta)[None], model=model)[0], 0.0, 1.0)

    def step(x: Array, t: Array) -> tuple[Array, None]:
        return jax.vmap(one)(jax.vmap(lambda key: rng.at_step(rng.stream(key, "walk"), t))(keys), x), None

    start = jax.vmap(lambda key: jax.random.randint(rng.stream(key, "start"), (), 0, len(images)))(keys)
    return jax.lax.scan(step, jnp.asarray(images)[start], jnp.arange(num_steps))[0]


def gaussian_images(keys: Key, images: Array) -> Array:
    """Noise with the mean and the covariance of a set of images, for a model to make something of.

    x = μ + Σ_i ε_i (x_i − μ) / √M,  ε ~ N(0, I)

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 11.1.1, here with the images as the root of
    their covariance.

    Args:
      keys: [n].
      images: [M, H, W, C].

    Returns:
      [n, H, W, C], image i from key i alone.
    """
    images = jnp.asarray(images)
    mean = jnp.mean(images, axis=0)
    deviations = (images - mean[None]).reshape(len(images), -1) / jnp.sqrt(len(images))
    noise = jax.vmap(lambda key: jax.random.normal(key, (len(images),), images.dtype) @ deviations)(keys)
    return mean[None] + noise.reshape(-1, *mean.shape)


def inpaint(reconstruct: Callable[[Array], Array], known: Array, mask: Array, num_steps: int) -> Array:
    """Fills in what is not known of images, by reconstructing them over and over with the rest put back.

    x_{t+1} = m ⊙ x + (1 − m) ⊙ r(x_t),  x_0 = m ⊙ x

    See "Image Denoising and Inpainting with Deep Neural Networks", Xie et al., 2012 (NeurIPS 25), Section 2, for
    autoencoders that fill in, and for holding what is known "Deep Generative Stochastic Networks Trainable by
    Backprop", Bengio et al., 2014 (arXiv:1306.1091).

    Args:
      reconstruct: r, which maps [B, H, W, C] to the same shape.
      known: [B, H, W, C] x in [0, 1]; what it is where it is not known has no influence.
      mask: [B, H, W, C] m, 1 where a pixel is known and 0 elsewhere.
      num_steps: how many reconstructions are made.

    Returns:
      [B, H, W, C] in [0, 1], with the known pixels as they were.
    """

    def step(now: Array, _: None) -> tuple[Array, None]:
        return jnp.where(mask > 0, known, jnp.clip(reconstruct(now), 0.0, 1.0)), None

    return jax.lax.scan(step, jnp.where(mask > 0, known, 0.0), length=num_steps)[0]
