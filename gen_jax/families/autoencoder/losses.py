"""The losses and penalties of the autoencoders as mathematics on arrays, and the objectives made of them."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, ModelState, Objective, Params, Terms
from gen_jax.families.autoencoder.corruption import corrupt
from gen_jax.families.autoencoder.models import MLPAutoencoder, image_of
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import distributions, pixels

ERRORS = ("squared_error", "cross_entropy")
SPARSITIES = ("k_sparse", "kl", "l1")
CONTRACTIONS = ("closed_form", "jacobian", "hutchinson")


def reconstruction_error(x: Array, reconstruction: Array, kind: str = "squared_error") -> Array:
    """The error of one reconstruction, summed over the dimensions of the image.

    squared error  Σ_i (x_i − x̂_i)²;   cross-entropy  −Σ_i [x_i log σ(ℓ_i) + (1 − x_i) log(1 − σ(ℓ_i))]

    See "Reducing the Dimensionality of Data with Neural Networks", Hinton and Salakhutdinov, 2006 (Science 313), Fig. 2
    and its note 16.

    Args:
      x: [...] the image, in [0, 1] for the cross-entropy.
      reconstruction: [...] the shape of `x`: x̂ for the squared error, the logits ℓ for the cross-entropy.
      kind: "squared_error" or "cross_entropy".

    Returns:
      [] the sum: in squared units of a pixel, or in nats.

    Raises:
      ValueError: where the kind is another one.
    """
    if kind == "squared_error":
        return jnp.sum((x - reconstruction) ** 2)
    if kind == "cross_entropy":
        return -distributions.bernoulli_log_likelihood(x, reconstruction)
    raise ValueError(f"kind='{kind}' is unknown; expected one of {ERRORS}.")


def kl_sparsity(rho: Array | float, rho_hat: Array) -> Array:
    """How far the units' mean activations are from the one that is wanted; of a whole batch, not of one example.

    Σ_j KL(ρ ‖ ρ̂_j) = Σ_j ρ log(ρ / ρ̂_j) + (1 − ρ) log((1 − ρ) / (1 − ρ̂_j)),  ρ̂_j = (1/B) Σ_i z_j(x_i)

    See "Sparse autoencoder", Ng, 2011 (CS294A lecture notes), Section 3.

    Args:
      rho: ρ in (0, 1), [] or [d].
      rho_hat: [d] ρ̂, the mean over the batch of activations that lie in (0, 1).

    Returns:
      [] nats; infinite where a unit's mean is 0 or 1.
    """
    # log a − log b and not log(a / b): a tiny ρ̂ then overflows in no quotient.
    on = rho * (jnp.log(rho) - jnp.log(rho_hat))
    off = (1 - rho) * (jnp.log1p(-rho) - jnp.log1p(-rho_hat))
    return jnp.sum(on + off)


def l1_sparsity(z: Array) -> Array:
    """The sum of absolute activations of one code: Σ_j |z_j|.

    See "Emergence of simple-cell receptive field properties by learning a sparse code for natural images", Olshausen
    and Field, 1996 (Nature 381), Eq. 2 and 4, S(x) = |x|.

    Args:
      z: [d].

    Returns:
      [] in the unit of the activations; its gradient at 0 is 0.
    """
    return jnp.sum(z * jnp.sign(z))  # JAX gives |z| the gradient 1 at 0, which would pull there for good.


def k_sparse(z: Array, k: Array | int, max_k: int | None = None) -> Array:
    """Keeps the k largest activations of one code and sets the others to 0; the gradient goes through the kept alone.

    z_j where j ∈ supp_k(z), 0 elsewhere

    See "k-Sparse Autoencoders", Makhzani and Frey, 2013 (arXiv:1312.5663), Section 2.1, steps 1 and 2. Of equal
    activations the first are kept, so that there are never more than k.

    Args:
      z: [d] the linear activations, before any other nonlinearity; the largest are kept, not the largest in size.
      k: how many, from 0 to d; an integer, or traced [] and so free to anneal.
      max_k: the most that a traced `k` can be; None where `k` is an integer.

    Returns:
      [d] with at most k elements other than 0 (exactly k, unless a kept one is 0 itself).

    Raises:
      ValueError: where `k` or `max_k` is not from 0 to d.
    """
    most = int(k) if max_k is None else max_k
    if not 0 <= most <= z.shape[0]:
        raise ValueError(f"k={most} is out of range for a code of {z.shape[0]}; expected 0 to {z.shape[0]}.")
    # A NaN must show. The sort puts one whose sign is minus, as 0/0 is, below all numbers; jnp.nan's is plus.
    largest, support = jax.lax.top_k(jnp.where(jnp.isnan(z), jnp.nan, z), most)
    kept = jnp.where(jnp.arange(most) < k, largest, 0.0)  # `top_k` gives the largest first.
    return jnp.zeros_like(z).at[support].set(kept)


def annealed_k(step: Array, k_start: int, k: int, anneal_steps: int) -> Array:
    """How many activations are kept at a step: from `k_start` in a straight line to `k`, and `k` from then on.

    See "k-Sparse Autoencoders", Makhzani and Frey, 2013 (arXiv:1312.5663), Section 4.2.1: units that are never among
    the k largest learn nothing, so the first epochs keep many.

    Args:
      step: [] the number of updates made.
      k_start: at step 0.
      k: at step `anneal_steps` and later.
      anneal_steps: how many steps it takes; 0 for `k` from the start.

    Returns:
      [] int32.
    """
    if not anneal_steps:
        return jnp.asarray(k, jnp.int32)
    remaining = 1.0 - jnp.minimum(step / anneal_steps, 1.0)
    return jnp.round(k + (k_start - k) * remaining).astype(jnp.int32)


def contractive_penalty(encode: Callable[[Array], Array], x: Array) -> Array:
    """The squared Frobenius norm of an encoder's Jacobian at one image, exactly and for any encoder.

    ‖J_f(x)‖²_F = Σ_ij (∂f_j(x) / ∂x_i)²

    See "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction", Rifai et al., 2011 (ICML), Eq. 1.
    The Jacobian takes D forward passes: for one sigmoid layer use `sigmoid_contractive_penalty`.

    Args:
      encode: maps one image [...] to its code [d].
      x: [...] the image.

    Returns:
      [].
    """
    return jnp.sum(jax.jacfwd(encode)(x) ** 2)


def sigmoid_contractive_penalty(z: Array, kernel: Array) -> Array:
    """The same for one layer z = σ(x W + b), in closed form and at the cost of a product over d.

    ‖J_f(x)‖²_F = Σ_j [z_j (1 − z_j)]² Σ_i W_ij²

    See "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction", Rifai et al., 2011 (ICML), the
    equation after Eq. 3.

    Args:
      z: [d] the layer's activations, in (0, 1).
      kernel: [D, d] W.

    Returns:
      [].
    """
    return jnp.sum((z * (1 - z)) ** 2 * jnp.sum(kernel**2, axis=0))


def hutchinson_contractive_penalty(key: Key, encode: Callable[[Array], Array], x: Array, num_probes: int = 1) -> Array:
    """An unbiased estimate of the same from a few products with the Jacobian, for codes too large for all of it.

    ‖J‖²_F = tr(J Jᵀ) = E[‖Jᵀ v‖²],  v ~ U{−1, 1}^d

    See "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", Hutchinson, 1989
    (Communications in Statistics 18); for these signs the estimate varies least.

    Args:
      key: this example's key at this step.
      encode: maps one image [...] to its code [d].
      x: [...] the image.
      num_probes: how many v are averaged over, each one backward pass.

    Returns:
      [].
    """
    z, backward = jax.vjp(encode, x)
    probes = jax.random.rademacher(key, (num_probes, *z.shape), z.dtype)
    (products,) = jax.vmap(backward)(probes)
    return jnp.sum(products**2) / num_probes


def l2_penalty(params: Params) -> Array:
    """The sum of the squares of all weights, biases left out: Σ ‖W‖²_F.

    See "Loss Landscapes of Regularized Linear Autoencoders", Kunin et al., 2019 (arXiv:1901.08168), Eq. 2.

    Args:
      params: a pytree; arrays of fewer than two axes are biases.

    Returns:
      [].
    """
    return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(params) if leaf.ndim > 1), start=jnp.zeros(()))


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
      ValueError: where a cross-entropy is asked of an output that is no logit.
    """
    if error == "cross_entropy" and output != "sigmoid":
        raise ValueError(f"A cross-entropy needs logits, and the output '{output}' is none; use squared_error.")
    reconstruction = raw if error == "cross_entropy" else image_of(raw, output)
    return jax.vmap(lambda a, b: reconstruction_error(a, b, error))(x, reconstruction)


def code_moments(size: int) -> ModelState:
    """The moments of codes before any was seen: those of N(0, I).

    Args:
      size: d.

    Returns:
      `code_mean` [d] and `code_second_moment` [d, d].
    """
    return {"code_mean": jnp.zeros(size), "code_second_moment": jnp.eye(size)}


def update_code_moments(moments: ModelState, z: Array, rate: float = 0.01) -> ModelState:
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

    See "Loss Landscapes of Regularized Linear Autoencoders", Kunin et al., 2019 (arXiv:1901.08168), Eq. 2, for the sum.

    Args:
      params: of the model.
      model_state: {}, or the moments of the codes as `code_moments` begins them, which are then kept up.
      key: of this step; unused.
      batch: `image` [B, H, W, C] uint8.
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.
      error: "squared_error", or "cross_entropy" where the model's output is a sigmoid.
      l2: μ.

    Returns:
      The loss [] an image, and (model_state, terms): `reconstruction` and, for μ > 0, `l2`.
    """
    x = pixels.unit_levels(batch["image"])
    z = apply_in_param_dtype(model, params, x, method="encode")
    raw = apply_in_param_dtype(model, params, z, method="decode")
    reconstruction = jnp.mean(errors_of(x, raw, model.output, error))
    terms = {"reconstruction": reconstruction}
    if model_state:
        model_state = update_code_moments(model_state, jax.lax.stop_gradient(z))
    if not l2:
        return reconstruction, (model_state, terms)
    penalty = l2_penalty(params)
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
      The loss [] an image, and ({}, terms): `reconstruction`.
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

    See `k_sparse`, `kl_sparsity` and `l1_sparsity` for the papers.

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
      The loss [] an image, and ({}, terms): `reconstruction`, and `k` or the penalty before its weight.

    Raises:
      ValueError: where the sparsity is another one.
    """
    x = pixels.unit_levels(batch["image"])
    z = apply_in_param_dtype(model, params, x, method="encode")
    penalty: Array | float = 0.0
    terms: Terms = {}
    if sparsity == "k_sparse":
        now = annealed_k(batch["step"], k_start, k, anneal_steps)
        z = jax.vmap(k_sparse, in_axes=(0, None, None))(z, now, max(k, k_start))
        terms["k"] = now.astype(jnp.float32)
    elif sparsity == "kl":
        rho_hat = jnp.mean(z, axis=0)
        rho_hat = rho_hat if axis_name is None else jax.lax.pmean(rho_hat, axis_name)
        penalty = terms["kl_sparsity"] = kl_sparsity(rho, rho_hat)
    elif sparsity == "l1":
        penalty = terms["l1_sparsity"] = jnp.mean(jax.vmap(l1_sparsity)(z))
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

    See "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction", Rifai et al., 2011 (ICML), Eq. 3.

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
      The loss [] an image, and ({}, terms): `reconstruction` and `contraction`, before its weight.

    Raises:
      ValueError: where the contraction is another one, or has no closed form for the model.
    """
    x = pixels.unit_levels(batch["image"])
    z = apply_in_param_dtype(model, params, x, method="encode")

    def encode(image: Array) -> Array:
        return apply_in_param_dtype(model, params, image[None], method="encode")[0]

    if contraction == "closed_form":
        penalties = closed_form_contractions(params, z, model)
    elif contraction == "jacobian":
        penalties = jax.vmap(lambda image: contractive_penalty(encode, image))(x)
    elif contraction == "hutchinson":
        keys = rng.per_example(rng.stream(key, "contraction"), batch["index"])
        penalties = jax.vmap(lambda k, image: hutchinson_contractive_penalty(k, encode, image, num_probes))(keys, x)
    else:
        raise ValueError(f"contraction='{contraction}' is unknown; expected one of {CONTRACTIONS}.")
    raw = apply_in_param_dtype(model, params, z, method="decode")
    reconstruction = jnp.mean(errors_of(x, raw, model.output, error))
    penalty = jnp.mean(penalties)
    return reconstruction + weight * penalty, (model_state, {"reconstruction": reconstruction, "contraction": penalty})


def closed_form_contractions(params: Params, z: Array, model: nn.Module) -> Array:
    """`sigmoid_contractive_penalty` of each of a batch of codes.

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
    return jax.vmap(sigmoid_contractive_penalty, in_axes=(0, None))(z, kernel)


def beside_plain(trained: Objective, plain: Objective) -> Objective:
    """One objective of a model and of its plain twin, which share nothing but the batches.

    Args:
      trained: of `params["model"]`.
      plain: of `params["plain"]`.

    Returns:
      An objective of {"model": ..., "plain": ...}: the sum of both, whose gradient in each is that of its own loss. The
      twin's terms have names that begin with `plain_`.
    """

    def both(
        params: Params, model_state: ModelState, key: Key, batch: Batch, **axis: str | None
    ) -> tuple[Array, tuple[ModelState, Terms]]:
        loss, (model_state, terms) = trained(params["model"], model_state, key, batch, **axis)
        plain_loss, (_, plain_terms) = plain(params["plain"], {}, key, batch)
        return loss + plain_loss, (model_state, terms | {f"plain_{name}": term for name, term in plain_terms.items()})

    return both
