"""What the train step minimises: the objectives of the autoencoders, made of the losses."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.collectives import all_devices, mean_over_devices
from gen_jax.contracts import Array, Batch, Key, ModelState, Objective, Params, Terms
from gen_jax.families.autoencoder import losses
from gen_jax.families.autoencoder.corruption import corrupt
from gen_jax.families.autoencoder.models import MLPAutoencoder, image_of
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import pixels

SPARSITIES = ("k_sparse", "kl", "l1")
CONTRACTIONS = ("closed_form", "jacobian", "hutchinson")


def errors_of(x: Array, raw: Array, output: str, error: str) -> Array:
    """The error of each of a batch of reconstructions from the decoder's numbers.

    Args:
      x: [B, H, W, C] what was to be reconstructed.
      raw: [B, H, W, C] as the model's `decode` gives it.
      output: the model's.
      error: "squared_error" or "cross_entropy".

    Returns:
      [B].

    Raises:
      ValueError: where the error is another one, or a cross-entropy is asked of an output that is no logit.
    """
    if error == "cross_entropy" and output != "sigmoid":
        raise ValueError(f"A cross-entropy needs logits, and the output '{output}' is none; use squared_error.")
    reconstruction = raw if error == "cross_entropy" else image_of(raw, output)
    return jax.vmap(lambda a, b: losses.reconstruction_error(a, b, error))(x, reconstruction)


def code_moments(size: int) -> ModelState:
    """The moments of codes before any was seen: those of N(0, I).

    Args:
      size: d.

    Returns:
      `code_mean` [d] and `code_second_moment` [d, d].
    """
    return {"code_mean": jnp.zeros(size), "code_second_moment": jnp.eye(size)}


def update_code_moments(moments: ModelState, z: Array, rate: Array | float = 0.01) -> ModelState:
    """Moves the running moments of the codes towards those of a batch; they let a run be sampled without its data.

    Linear in the batch's moments, so that the mean over devices of the results is the result for the whole batch.

    Args:
      moments: `code_mean` [d] and `code_second_moment` [d, d], the mean of z zᵀ.
      z: [B, d].
      rate: how much of the way the average moves.

    Returns:
      The new moments.
    """
    new = {"code_mean": jnp.mean(z, axis=0), "code_second_moment": z.T @ z / z.shape[0]}
    return jax.tree.map(lambda average, now: average + rate * (now - average), moments, new)


def objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    model: nn.Module,
    error: str = "cross_entropy",
    l2: float = 0.0,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The plain autoencoder: the mean error of the reconstructions, and μ Σ ‖W‖²_F where that is wanted.

    See "Loss Landscapes of Regularized Linear Autoencoders", Kunin et al., 2019 (arXiv:1901.08168), Section 2, for the
    sum.

    Args:
      params: of the model.
      model_state: {}, or the moments of the codes as `code_moments` begins them, which are then kept up.
      key: of this step; unused.
      batch: `image` [B, H, W, C] uint8, and for the moments `step` [].
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.
      error: "squared_error", or "cross_entropy" where the model's output is a sigmoid.
      l2: μ.

    Returns:
      The loss [] an image, and (model_state, terms): `reconstruction` and, for μ > 0, `l2`.

    Raises:
      ValueError: where the error is another one, or does not go with the model's output.
    """
    x = pixels.unit_levels(batch["image"])
    z = apply_in_param_dtype(model, params, x, method="encode")
    raw = apply_in_param_dtype(model, params, z, method="decode")
    reconstruction = jnp.mean(errors_of(x, raw, model.output, error))
    terms = {"reconstruction": reconstruction}
    if model_state:
        rate = jnp.maximum(0.01, 1.0 / (batch["step"] + 1.0))  # The mean of all batches, and later of some hundred.
        model_state = update_code_moments(model_state, jax.lax.stop_gradient(z), rate)
    if not l2:
        return reconstruction, (model_state, terms)
    penalty = losses.l2_penalty(params)
    return reconstruction + l2 * penalty, (model_state, terms | {"l2": penalty})


def denoising_objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    model: nn.Module,
    corruption: str,
    level: float,
    error: str = "cross_entropy",
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The denoising autoencoder: the error of what is reconstructed from x̃, against x.

    E_{x̃ ~ q(x̃|x)} [L(x, g(f(x̃)))]

    See "Extracting and Composing Robust Features with Denoising Autoencoders", Vincent et al., 2008 (ICML), Eq. 5.

    Args:
      params: of the model.
      model_state: {}.
      key: of this step.
      batch: `image` [B, H, W, C] uint8 and `index` [B].
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.
      corruption: "gaussian", "masking" or "salt_and_pepper".
      level: its σ or ν.
      error: as in `objective`.

    Returns:
      The loss [] an image, and (model_state, terms): `reconstruction`.

    Raises:
      ValueError: where the corruption or the error is another one, or the latter does not go with the model's output.
    """
    x = pixels.unit_levels(batch["image"])
    keys = rng.per_example(rng.stream(key, "corruption"), batch["index"])
    corrupted = jax.vmap(lambda k, a: corrupt(k, a, corruption, level))(keys, x)
    z = apply_in_param_dtype(model, params, corrupted, method="encode")
    raw = apply_in_param_dtype(model, params, z, method="decode")
    reconstruction = jnp.mean(errors_of(x, raw, model.output, error))
    return reconstruction, (model_state, {"reconstruction": reconstruction})


def sparse_objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    model: nn.Module,
    sparsity: str,
    k: int = 25,
    k_start: int = 100,
    anneal_steps: int = 0,
    rho: float = 0.05,
    weight: float = 1.0,
    error: str = "squared_error",
    axis_name: str | None = None,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The sparse autoencoder: the error of the reconstructions, the code held to few or weak activations.

    k-sparse  L(x, g(supp_k f(x)));   KL  L + β Σ_j KL(ρ ‖ ρ̂_j);   L1  L + β Σ_j |z_j|

    See "k-Sparse Autoencoders", Makhzani and Frey, 2013 (arXiv:1312.5663), Section 2, "Sparse autoencoder", Ng, 2011
    (CS294A lecture notes), Section 3, and `losses.l1_sparsity`.

    Args:
      params: of the model.
      model_state: {}.
      key: of this step; unused.
      batch: `image` [B, H, W, C] uint8 and `step` [].
      model: an `MLPAutoencoder` or a `ConvAutoencoder`; for "kl" with activations of the code in (0, 1).
      sparsity: "k_sparse", "kl" or "l1".
      k: of the k-sparse code, after annealing.
      k_start: before it.
      anneal_steps: over how many steps.
      rho: ρ of the KL.
      weight: β of the KL or of the L1.
      error: as in `objective`.
      axis_name: the mapped axis of devices, over which ρ̂ is the mean of the whole batch.

    Returns:
      The loss [] an image, and (model_state, terms): `reconstruction`, and `k` or the penalty before its weight.

    Raises:
      ValueError: where the sparsity or the error is another one, k is larger than the code, or the error does not go
        with the model's output.
    """
    x = pixels.unit_levels(batch["image"])
    z = apply_in_param_dtype(model, params, x, method="encode")
    penalty: Array | float = 0.0
    terms: Terms = {}
    if sparsity == "k_sparse":
        now = losses.annealed_k(batch["step"], k_start, k, anneal_steps)
        z = jax.vmap(losses.k_sparse, in_axes=(0, None, None))(z, now, max(k, k_start))
        terms["k"] = now.astype(jnp.float32)
    elif sparsity == "kl":
        rho_hat = mean_over_devices(jnp.mean(z, axis=0), axis_name)
        penalty = terms["kl_sparsity"] = losses.kl_sparsity(rho, rho_hat)
    elif sparsity == "l1":
        penalty = terms["l1_sparsity"] = jnp.mean(jax.vmap(losses.l1_sparsity)(z))
    else:
        raise ValueError(f"sparsity='{sparsity}' is unknown; expected one of {SPARSITIES}.")
    raw = apply_in_param_dtype(model, params, z, method="decode")
    reconstruction = jnp.mean(errors_of(x, raw, model.output, error))
    return reconstruction + weight * penalty, (model_state, {"reconstruction": reconstruction} | terms)


def contractive_objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    model: nn.Module,
    weight: float,
    contraction: str = "closed_form",
    num_probes: int = 1,
    error: str = "cross_entropy",
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The contractive autoencoder: the error of the reconstructions, and the size of the encoder's Jacobian.

    L(x, g(f(x))) + λ ‖J_f(x)‖²_F

    See "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction", Rifai et al., 2011 (ICML),
    Section 4, J_CAE.

    Args:
      params: of the model.
      model_state: {}.
      key: of this step.
      batch: `image` [B, H, W, C] uint8 and `index` [B].
      model: an `MLPAutoencoder` or a `ConvAutoencoder`; for the closed form one layer with a sigmoid code.
      weight: λ.
      contraction: "closed_form", "jacobian" or "hutchinson".
      num_probes: of "hutchinson".
      error: as in `objective`.

    Returns:
      The loss [] an image, and (model_state, terms): `reconstruction` and `contraction`, before its weight.

    Raises:
      ValueError: where the contraction or the error is another one, or either does not go with the model.
    """
    x = pixels.unit_levels(batch["image"])
    z = apply_in_param_dtype(model, params, x, method="encode")

    def encode(image: Array) -> Array:
        return apply_in_param_dtype(model, params, image[None], method="encode")[0]

    if contraction == "closed_form":
        penalties = closed_form_contractions(params, z, model)
    elif contraction == "jacobian":
        penalties = jax.vmap(lambda image: losses.contractive_penalty(encode, image))(x)
    elif contraction == "hutchinson":
        keys = rng.per_example(rng.stream(key, "contraction"), batch["index"])
        estimate = losses.hutchinson_contractive_penalty
        penalties = jax.vmap(lambda k, image: estimate(encode, k, image, num_probes))(keys, x)
    else:
        raise ValueError(f"contraction='{contraction}' is unknown; expected one of {CONTRACTIONS}.")
    raw = apply_in_param_dtype(model, params, z, method="decode")
    reconstruction = jnp.mean(errors_of(x, raw, model.output, error))
    penalty = jnp.mean(penalties)
    return reconstruction + weight * penalty, (model_state, {"reconstruction": reconstruction, "contraction": penalty})


def closed_form_contractions(params: Params, z: Array, model: nn.Module) -> Array:
    """`losses.sigmoid_contractive_penalty` of each of a batch of codes.

    Args:
      params: of the model.
      z: [B, d] its codes.
      model: an `MLPAutoencoder` of one layer with a sigmoid code.

    Returns:
      [B].

    Raises:
      ValueError: where the model is another one.
    """
    if not isinstance(model, MLPAutoencoder) or len(model.widths) != 1 or model.code_activation is not nn.sigmoid:
        raise ValueError("The closed form of the contraction is that of one sigmoid layer; use jacobian or hutchinson.")
    kernel = jnp.asarray(params["encoder_0"]["kernel"], z.dtype)
    return jax.vmap(losses.sigmoid_contractive_penalty, in_axes=(0, None))(z, kernel)


def beside_plain(trained: Objective, plain: Objective, *, whole_batch: bool = False) -> Objective:
    """One objective of a model and of its plain twin, which share nothing but the batches.

    Args:
      trained: of `params["model"]`.
      plain: of `params["plain"]`.
      whole_batch: whether `trained` has statistics of the whole batch in it, and so takes `axis_name`.

    Returns:
      An objective of {"model": ..., "plain": ...}: the sum of both, whose gradient in each is that of its own loss. The
      twin's terms have names that begin with `plain_`. Clipping by the norm of the whole gradient would join them.
    """

    def both(
        params: Params, model_state: ModelState, key: Key, batch: Batch, **axis: str | None
    ) -> tuple[Array, tuple[ModelState, Terms]]:
        loss, (model_state, terms) = trained(params["model"], model_state, key, batch, **(axis if whole_batch else {}))
        plain_loss, (_, plain_terms) = plain(params["plain"], {}, key, batch)
        return loss + plain_loss, (model_state, terms | {f"plain_{name}": term for name, term in plain_terms.items()})

    return both


def remembering_images(objective: Objective) -> Objective:
    """An objective that keeps the last batch's images as its model state: a run can be sampled without its data.

    Args:
      objective: of a model without a state, that takes `axis_name`.

    Returns:
      The same, with the model state `images` [B, H, W, C] uint8: those of all devices, alike on each.
    """

    def remembered(
        params: Params, model_state: ModelState, key: Key, batch: Batch, **axis: str | None
    ) -> tuple[Array, tuple[ModelState, Terms]]:
        loss, (_, terms) = objective(params, {}, key, batch, **axis)
        return loss, ({"images": all_devices(batch["image"], axis.get("axis_name"))}, terms)

    return remembered


def any_images(key: Key, shape: tuple[int, ...]) -> ModelState:
    """What `remembering_images` begins with: noise.

    Args:
      key: of the noise.
      shape: [B, H, W, C], B the size of the whole batch.

    Returns:
      `images`, of that shape, uint8.
    """
    return {"images": jax.random.bits(key, shape, jnp.uint8)}


def twins(params: Params) -> Params:
    """The parameters of a model and of a plain twin that begins where the model does.

    Args:
      params: of the model.

    Returns:
      {"model": ..., "plain": ...}, in buffers of their own.
    """
    return {"model": params, "plain": jax.tree.map(jnp.copy, params)}
