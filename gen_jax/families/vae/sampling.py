"""From parameters and keys to pictures: the prior's samples, reconstructions, walks, and the marginal likelihood."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Key, Params
from gen_jax.families.vae.losses import log_importance_weight, log_likelihood
from gen_jax.families.vae.models import VAE, image_mean, reparameterize
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops.distributions import gaussian_log_likelihood


def decode_mean(params: Params, z: Array, *, model: VAE) -> Array:
    """The mean of p(x|z) for a batch of codes.

    Args:
      params: of the model.
      z: [B, d].
      model: the VAE.

    Returns:
      [B, H, W, C] in [0, 1].
    """
    return image_mean(apply_in_param_dtype(model, params, z, method="decode"))


def sample_prior(params: Params, keys: Key, *, model: VAE) -> Array:
    """Draws z ~ N(0, I) and shows the mean of p(x|z), sample i from key i alone.

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Section 3.

    Args:
      params: of the model.
      keys: [n].
      model: the VAE.

    Returns:
      [n, H, W, C] in [0, 1].
    """
    z = jax.vmap(lambda key: jax.random.normal(key, (model.encoder.latent_dim,)))(keys)
    return decode_mean(params, z, model=model)


def reconstruct(params: Params, x: Array, *, model: VAE) -> Array:
    """Encodes a batch to the means of q(z|x) and decodes them, without noise.

    Args:
      params: of the model.
      x: [B, H, W, C] in [0, 1].
      model: the VAE.

    Returns:
      [B, H, W, C] in [0, 1].
    """
    mean, _ = apply_in_param_dtype(model, params, x, method="encode")
    return decode_mean(params, mean, model=model)


def interpolate(params: Params, start: Array, end: Array, num_points: int, *, model: VAE) -> Array:
    """Walks in a straight line between the codes of pairs of images.

    Args:
      params: of the model.
      start: [n, H, W, C] in [0, 1].
      end: [n, H, W, C] in [0, 1].
      num_points: m ≥ 2, images on each walk, both ends counted.
      model: the VAE.

    Returns:
      [n, m, H, W, C] in [0, 1]; the first and last of each row are the ends' reconstructions.
    """
    first, _ = apply_in_param_dtype(model, params, start, method="encode")
    last, _ = apply_in_param_dtype(model, params, end, method="encode")
    weight = jnp.linspace(0.0, 1.0, num_points)[None, :, None]
    z = (1 - weight) * first[:, None] + weight * last[:, None]
    images = decode_mean(params, z.reshape(-1, z.shape[-1]), model=model)
    return images.reshape(*z.shape[:2], *images.shape[1:])


def manifold_codes(side: int) -> np.ndarray:
    """A square grid of 2-D codes that are equally likely under the prior.

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Appendix A: coordinates equally
    spaced on the unit square, mapped through the inverse distribution function of the Gaussian.

    Args:
      side: n, codes along each axis.

    Returns:
      [n * n, 2], row by row from the top left; the first coordinate grows to the right, the second upwards.
    """
    quantiles = (np.arange(side) + 0.5) / side
    axis = np.asarray(jax.scipy.stats.norm.ppf(quantiles))
    across, up = np.meshgrid(axis, axis[::-1])
    return np.stack([across.ravel(), up.ravel()], axis=-1)


def log_marginal(
    params: Params, key: Key, x: Array, *, model: VAE, num_samples: int = 5000, chunk_size: int = 100
) -> Array:
    """Estimates log p(x) of one example by importance sampling from q(z|x), at constant memory.

    log p(x) ≈ log (1/k) Σ_i p(x, z_i) / q(z_i|x)

    See "Importance Weighted Autoencoders", Burda et al., 2016 (arXiv:1509.00519), Eq. 8 and Section 5, where k = 5000.

    Args:
      params: of the model.
      key: this example's key; sample i depends on it and on i alone, whatever the chunks.
      x: [H, W, C] as `objectives.observe` gives it.
      model: the VAE.
      num_samples: k.
      chunk_size: how many samples are decoded at once; it divides k.

    Returns:
      [] nats; a lower bound of log p(x) in expectation, tight as k grows.

    Raises:
      ValueError: where `chunk_size` does not divide `num_samples`.
    """
    if num_samples % chunk_size:
        raise ValueError(f"chunk_size={chunk_size} must divide num_samples={num_samples}.")
    mean, log_var = jax.tree.map(lambda a: a[0], apply_in_param_dtype(model, params, x[None], method="encode"))
    zeros = jnp.zeros_like(mean)

    def add_chunk(log_sum: Array, first: Array) -> tuple[Array, None]:
        keys = rng.per_example(key, first + jnp.arange(chunk_size))
        z = jax.vmap(reparameterize, in_axes=(0, None, None))(keys, mean, log_var)
        outputs = apply_in_param_dtype(model, params, z, method="decode")
        log_w = log_importance_weight(
            jax.vmap(log_likelihood, in_axes=(None, 0))(x, outputs),
            jax.vmap(gaussian_log_likelihood, in_axes=(0, None, None))(z, zeros, zeros),
            jax.vmap(gaussian_log_likelihood, in_axes=(0, None, None))(z, mean, log_var),
        )
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(log_w)), None

    starts = jnp.arange(0, num_samples, chunk_size)
    log_sum, _ = jax.lax.scan(add_chunk, jnp.asarray(-jnp.inf, zeros.dtype), starts)
    return log_sum - math.log(num_samples)
