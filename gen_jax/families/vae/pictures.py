"""The pictures of a VAE: samples, reconstructions, an interpolation; the manifold and the codes where they are 2-D."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Grid, Key, Params, Picture, Scatter
from gen_jax.families.vae import sampling
from gen_jax.families.vae.evaluation import observed
from gen_jax.families.vae.models import VAE
from gen_jax.nn.precision import apply_in_param_dtype


def image_pictures(
    params: Params, key: Key, images: np.ndarray, labels: np.ndarray, *, model: VAE, binarization: str
) -> dict[str, Picture]:
    """Draws what a person wants to see of a VAE.

    Args:
      params: of the model.
      key: the root key.
      images: [N, H, W, C] uint8, the test set.
      labels: [N] of the images.
      model: the VAE.
      binarization: as in `objectives.observe`.

    Returns:
      `samples`, `reconstructions`, `interpolation`, and for a 2-D code `manifold` and `codes`.

    Raises:
      ValueError: where the binarization is another one.
    """
    observe = jax.jit(functools.partial(observed, model=model, binarization=binarization))
    reconstruct = jax.jit(functools.partial(sampling.reconstruct, model=model))
    interpolate = jax.jit(functools.partial(sampling.interpolate, num_points=10, model=model))
    decode = jax.jit(functools.partial(sampling.decode_mean, model=model))
    encode = jax.jit(lambda params, x: apply_in_param_dtype(model, params, x, method="encode")[0])

    @jax.jit
    def prior_samples(key: Key) -> Array:
        keys = rng.numbered(key, "pictures", 100)
        return sampling.sample_prior(params, keys, model=model)

    samples = np.asarray(prior_samples(key))
    first = np.arange(20) % len(images)
    x = np.asarray(observe(key, {"image": images[first], "index": first}))
    rows = np.stack([images[first] / np.float32(255), x, np.asarray(reconstruct(params, x))])  # [3, 20, H, W, C]
    found: dict[str, Picture] = {
        "samples": Grid("Means of p(x|z), z from the prior", samples.reshape(10, 10, *samples.shape[1:])),
        "reconstructions": Grid(
            "Test images, what the model sees, and the mean of p(x|z)",
            np.concatenate([rows[:, :10], rows[:, 10:]]),
            ("image", "x", "mean") * 2,
        ),
        "interpolation": Grid(
            "Between the codes of two test images, in a straight line",
            np.asarray(interpolate(params, x[0:10:2], x[1:10:2])),
        ),
    }
    if model.encoder.latent_dim == 2:
        manifold = np.asarray(decode(params, jnp.asarray(sampling.manifold_codes(20), jnp.float32)))
        found["manifold"] = Grid(
            "The manifold: means of p(x|z) at equally likely z", manifold.reshape(20, 20, *manifold.shape[1:])
        )
        # A set may be large. The last part is filled up, so that one program takes them all.
        parts = np.arange(-(-len(images) // 256) * 256).reshape(-1, 256) % len(images)
        seen = (observe(key, {"image": images[part], "index": part}) for part in parts)
        codes = np.concatenate([np.asarray(encode(params, x)) for x in seen])[: len(images)]
        found["codes"] = Scatter(
            "The test set, encoded: means of q(z|x), coloured by class", codes, labels, ("z₁", "z₂")
        )
    return found
