"""The pictures of a VAE: samples, reconstructions, an interpolation; the manifold and the codes where they are 2-D."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Grid, Key, Params, Picture, Scatter, Source
from gen_jax.families.vae import sampling
from gen_jax.families.vae.evaluation import observed
from gen_jax.families.vae.models import VAE
from gen_jax.nn.precision import apply_in_param_dtype


def image_pictures(
    params: Params, key: Key, *, model: VAE, test_source: Source, binarization: str
) -> dict[str, Picture]:
    """Draws what a person wants to see of a VAE.

    Args:
      params: of the model.
      key: the root key.
      model: the VAE.
      test_source: of the images that are reconstructed and encoded.
      binarization: as in `objectives.observe`.

    Returns:
      `samples`, `reconstructions`, `interpolation`, and for a 2-D code `manifold` and `codes`.
    """
    observe = jax.jit(functools.partial(observed, model=model, binarization=binarization))
    reconstruct = jax.jit(functools.partial(sampling.reconstruct, model=model))
    interpolate = jax.jit(functools.partial(sampling.interpolate, num_points=10, model=model))
    decode = jax.jit(functools.partial(sampling.decode_mean, model=model))

    @jax.jit
    def prior_samples(key: Key) -> Array:
        keys = rng.numbered(key, "pictures", 100)
        return sampling.sample_prior(params, keys, model=model)

    # The whole test set, though this process may evaluate only a part of it.
    batches = [dict(b) | {"x": np.asarray(observe(key, b))} for b in test_source.whole().evaluation()]
    shown = np.arange(20) % test_source.num_examples
    images, x = (np.concatenate([b[name] for b in batches])[shown] for name in ("image", "x"))
    rows = np.stack([images / np.float32(255), x, np.asarray(reconstruct(params, x))])  # [3, 20, H, W, C]
    found: dict[str, Picture] = {
        "samples": Grid("Means of p(x|z), z from the prior", _rows(prior_samples(key), 10)),
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
        codes = jnp.asarray(sampling.manifold_codes(20), jnp.float32)
        manifold = _rows(decode(params, codes), 20)
        found["manifold"] = Grid("The manifold: means of p(x|z) at equally likely z", manifold)
        found["codes"] = _encoded(params, batches, model)
    return found


def _rows(images: Array, columns: int) -> np.ndarray:
    """[n, H, W, C] as rows of a grid, [n / columns, columns, H, W, C]."""
    return np.asarray(images).reshape(-1, columns, *images.shape[1:])


def _encoded(params: Params, batches: Sequence[Batch], model: VAE) -> Scatter:
    encode = jax.jit(lambda x: apply_in_param_dtype(model, params, x, method="encode")[0])
    means = [np.asarray(encode(b["x"]))[b["mask"] > 0] for b in batches]
    labels = [b["label"][b["mask"] > 0] for b in batches]
    points, classes = np.concatenate(means), np.concatenate(labels)
    return Scatter("The test set, encoded: means of q(z|x), coloured by class", points, classes, ("z₁", "z₂"))
