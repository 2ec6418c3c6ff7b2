"""What a test set says of a VAE: values for each example, and the numbers that people read of their means."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, Params, Values
from gen_jax.families.vae import losses, objectives, sampling
from gen_jax.families.vae.models import VAE
from gen_jax.ops import distributions


def observed(key: Key, batch: Batch, *, model: VAE, binarization: str) -> Array:
    """The test images as the model sees them, the same at every evaluation of a run.

    Args:
      key: the root key.
      batch: `image` [B, H, W, C] uint8 and `index` [B].
      model: the VAE.
      binarization: as in `objectives.observe`.

    Returns:
      [B, H, W, C] in [0, 1].

    Raises:
      ValueError: where the binarization is another one.
    """
    keys = rng.in_evaluation(key, "observe", batch["index"])
    return jax.vmap(lambda k, v: objectives.observe(k, v, model.likelihood, binarization))(keys, batch["image"])


def bound_values(
    params: Params, key: Key, batch: Batch, *, model: VAE, binarization: str, num_samples: int = 1
) -> Values:
    """The bound, its terms and the posterior's mean for each test image.

    Args:
      params: of the model.
      key: the root key.
      batch: as in `observed`.
      model: the VAE.
      binarization: as in `objectives.observe`.
      num_samples: codes an example; for more than one the importance-weighted bound of as many is there too.

    Returns:
      `elbo`, `log_likelihood`, `kl` and, for several codes, `iwae`, each [B] nats; `latent_mean` and
      `latent_mean_squared`, each [B, d].

    Raises:
      ValueError: where the binarization is another one.
    """
    x = observed(key, batch, model=model, binarization=binarization)
    mean, log_var, log_px_z, log_pz, log_qz_x = objectives.infer(
        params, rng.stream(key, "eval"), x, batch["index"], model=model, num_samples=num_samples, dropout=False
    )
    value, terms = jax.vmap(losses.elbo)(log_px_z, mean, log_var)
    values = {"elbo": value, "latent_mean": mean, "latent_mean_squared": mean**2} | terms
    if num_samples > 1:
        values["iwae"] = jax.vmap(losses.iwae_bound)(losses.log_importance_weight(log_px_z, log_pz, log_qz_x))
    return values


def likelihood_values(
    params: Params,
    key: Key,
    batch: Batch,
    *,
    model: VAE,
    binarization: str,
    num_samples: int,
    importance_samples: int,
    importance_chunk: int,
) -> Values:
    """What `bound_values` has, and log p(x) by importance sampling.

    Args:
      params: of the model.
      key: the root key.
      batch: as in `observed`.
      model: the VAE.
      binarization: as in `objectives.observe`.
      num_samples: as in `bound_values`.
      importance_samples: k of `sampling.log_marginal`.
      importance_chunk: how many of them are decoded at once.

    Returns:
      The values of `bound_values`, and `log_px` [B] nats.

    Raises:
      ValueError: where the binarization is another one, or the chunk does not divide the samples.
    """
    x = observed(key, batch, model=model, binarization=binarization)
    keys = rng.in_evaluation(key, "importance", batch["index"])
    estimate = functools.partial(
        sampling.log_marginal, params, model=model, num_samples=importance_samples, chunk_size=importance_chunk
    )
    # One example after another: memory is that of one chunk, whatever the batch.
    log_px = jax.lax.map(lambda pair: estimate(*pair), (keys, x))
    values = bound_values(params, key, batch, model=model, binarization=binarization, num_samples=num_samples)
    return values | {"log_px": log_px}


def active_units(mean: np.ndarray, mean_squared: np.ndarray) -> int:
    """How many numbers of the code say something of x: those whose posterior mean varies over the test set.

    Var_x(E_{q(z|x)}[z_j]) > 0.01

    See "Importance Weighted Autoencoders", Burda et al., 2016 (arXiv:1509.00519), Section 5.2.

    Args:
      mean: [d] of the posterior means over the test set.
      mean_squared: [d] of their squares.

    Returns:
      From 0 to d.
    """
    return int(np.sum(mean_squared - mean**2 > 0.01))


def report(means: dict[str, np.ndarray], *, num_dims: int, exact: bool) -> dict[str, float]:
    """The numbers people read: the bound and its terms in nats, the code length in bits/dim, and the active units.

    Bits/dim are of what the likelihood is of: binary pixels for the Bernoulli (1 is the uniform distribution's), 8-bit
    levels for the others (8 is), for the Gaussian by way of one dequantised draw an image.

    Args:
      means: over the test set, as `bound_values` or `likelihood_values` name them.
      num_dims: D, channels counted.
      exact: whether the bound bounds a log-probability. Where it does not, as for grey levels under a Bernoulli, it is
        called a score, and there are no bits/dim and no log p(x).

    Returns:
      Numbers by name.
    """
    names = {"elbo": "elbo_nats" if exact else "score_nats", "log_likelihood": "log_likelihood_nats", "kl": "kl_nats"}
    if exact:
        names |= {"iwae": "iwae_nats", "log_px": "log_px_nats"}
    numbers = {name: float(means[key]) for key, name in names.items() if key in means}
    numbers["active_units"] = float(active_units(means["latent_mean"], means["latent_mean_squared"]))
    if exact:
        numbers["bits_per_dim"] = float(distributions.bits_per_dim(jnp.asarray(means["elbo"]), num_dims))
    if exact and "log_px" in means:
        numbers["log_px_bits_per_dim"] = float(distributions.bits_per_dim(jnp.asarray(means["log_px"]), num_dims))
    return numbers
