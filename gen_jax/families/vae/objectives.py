"""What the train step minimises: the negative bound of a batch, and the codes and likelihoods that it is made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Terms
from gen_jax.families.vae import losses
from gen_jax.families.vae.models import LIKELIHOODS, VAE, reparameterize
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import distributions, pixels

BOUNDS = ("elbo", "elbo_monte_carlo", "iwae")
BINARIZATIONS = ("dynamic", "threshold", "none")


def observe(key: Key, image: Array, likelihood: str, binarization: str) -> Array:
    """What the likelihood is a likelihood of, from the stored levels of one image.

    Args:
      key: this example's key at this step.
      image: [H, W, C] uint8.
      likelihood: "bernoulli", "gaussian" (dequantised) or "discretized_logistic" (levels / 255).
      binarization: for the Bernoulli, "dynamic", "threshold" or "none".

    Returns:
      [H, W, C] float32 in [0, 1].

    Raises:
      ValueError: where a name is another one.
    """
    if likelihood not in LIKELIHOODS or binarization not in BINARIZATIONS:
        raise ValueError(
            f"likelihood='{likelihood}' or binarization='{binarization}' is unknown; expected one of {LIKELIHOODS} and "
            f"one of {BINARIZATIONS}."
        )
    if likelihood == "gaussian":
        return pixels.uniform_dequantization(key, image)
    if likelihood == "bernoulli" and binarization == "dynamic":
        return pixels.dynamic_binarization(key, image)
    if likelihood == "bernoulli" and binarization == "threshold":
        return pixels.threshold_binarization(image)
    return pixels.unit_levels(image)


def infer(
    params: Params, key: Key, x: Array, index: Array, *, model: VAE, num_samples: int, dropout: bool
) -> tuple[Array, Array, Array, Array, Array]:
    """Encodes a batch, samples q(z|x) and scores the samples.

    Args:
      params: of the model.
      key: of this step.
      x: [B, H, W, C].
      index: [B] the global number of each example, by which its noise is keyed.
      model: the VAE.
      num_samples: L, codes an example.
      dropout: whether to drop activations; all codes of an example are decoded by the same thinned network.

    Returns:
      `mean` [B, d], `log_var` [B, d], `log_px_z` [B, L], `log_pz` [B, L], `log_qz_x` [B, L].
    """
    example_keys = rng.per_example(rng.stream(key, "dropout"), index) if dropout else None
    mean, log_var = apply_in_param_dtype(model, params, x, example_keys, method="encode")

    def sample(example_key: Key, mean: Array, log_var: Array) -> Array:
        keys = rng.per_example(example_key, jnp.arange(num_samples))
        return jax.vmap(reparameterize, in_axes=(0, None, None))(keys, mean, log_var)

    z = jax.vmap(sample)(rng.per_example(rng.stream(key, "posterior"), index), mean, log_var)  # [B, L, d]
    flat = z.reshape(-1, z.shape[-1])
    code_keys = jnp.repeat(example_keys, num_samples) if example_keys is not None else None
    outputs = apply_in_param_dtype(model, params, flat, code_keys, method="decode")
    outputs = jax.tree.map(lambda a: a.reshape(*z.shape[:2], *a.shape[1:]), outputs)

    over_samples = jax.vmap(losses.log_likelihood, in_axes=(None, 0))
    log_px_z = jax.vmap(over_samples)(x, outputs)
    zeros = jnp.zeros_like(mean[0])
    log_pz = jax.vmap(jax.vmap(lambda z: distributions.gaussian_log_likelihood(z, zeros, zeros)))(z)
    log_qz_x = jax.vmap(jax.vmap(distributions.gaussian_log_likelihood, in_axes=(0, None, None)))(z, mean, log_var)
    return mean, log_var, log_px_z, log_pz, log_qz_x


def objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    model: VAE,
    bound: str = "elbo",
    num_samples: int = 1,
    binarization: str = "dynamic",
    beta: float = 1.0,
    kl_warmup_steps: int = 0,
    dropout: bool = True,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The negative bound of a batch of images: what the train step minimises.

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Section 2.3, Eq. 8, and for more
    importance samples "Importance Weighted Autoencoders", Burda et al., 2016 (arXiv:1509.00519), Eq. 8.

    Args:
      params: of the model.
      model_state: {}; the VAE has none.
      key: of this step.
      batch: `image` [B, H, W, C] uint8, `index` [B], `step` [].
      model: the VAE.
      bound: "elbo" (AEVB Eq. 10), "elbo_monte_carlo" (Eq. 6) or "iwae" (IWAE Eq. 8).
      num_samples: L, or k for "iwae".
      binarization: as in `observe`.
      beta: the weight of the divergence.
      kl_warmup_steps: over how many steps that weight rises linearly from 0; 0 for not at all.
      dropout: whether to drop activations.

    Returns:
      The loss [] in nats an example, and (model_state, terms): `bound`, `log_likelihood`, `kl` in nats and `beta`.

    Raises:
      ValueError: where the bound or the binarization is another one, or a weight other than 1 is asked of the
        importance-weighted bound, which has no divergence to weigh.
    """
    if bound not in BOUNDS:
        raise ValueError(f"bound='{bound}' is unknown; expected one of {BOUNDS}.")
    if bound == "iwae" and (beta != 1.0 or kl_warmup_steps):
        raise ValueError("The importance-weighted bound has no weighted divergence: beta must be 1, without warm-up.")
    observe_keys = rng.per_example(rng.stream(key, "observe"), batch["index"])
    x = jax.vmap(lambda k, v: observe(k, v, model.likelihood, binarization))(observe_keys, batch["image"])
    mean, log_var, log_px_z, log_pz, log_qz_x = infer(
        params, key, x, batch["index"], model=model, num_samples=num_samples, dropout=dropout
    )
    if kl_warmup_steps:
        weight = beta * jnp.minimum(1.0, batch["step"] / kl_warmup_steps)
    else:
        weight = jnp.asarray(beta, jnp.float32)

    if bound == "elbo":
        value, terms = jax.vmap(losses.elbo, in_axes=(0, 0, 0, None))(log_px_z, mean, log_var, weight)
    else:
        value, terms = jax.vmap(losses.elbo_monte_carlo, in_axes=(0, 0, 0, None))(log_px_z, log_pz, log_qz_x, weight)
    if bound == "iwae":
        value = jax.vmap(losses.iwae_bound)(losses.log_importance_weight(log_px_z, log_pz, log_qz_x))

    terms = {"bound": jnp.mean(value)} | {name: jnp.mean(term) for name, term in terms.items()} | {"beta": weight}
    return -jnp.mean(value), (model_state, terms)
