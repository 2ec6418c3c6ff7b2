"""The losses and penalties of the autoencoders as mathematics on arrays."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Key, Params
from gen_jax.ops import distributions

ERRORS = ("squared_error", "cross_entropy")


def reconstruction_error(x: Array, reconstruction: Array, error: str = "squared_error") -> Array:
    """The error of one reconstruction, summed over the dimensions of the image.

    squared error  Σ_i (x_i − x̂_i)²;   cross-entropy  −Σ_i [x_i log σ(ℓ_i) + (1 − x_i) log(1 − σ(ℓ_i))]

    See "Reducing the Dimensionality of Data with Neural Networks", Hinton and Salakhutdinov, 2006 (Science 313),
    pages 504 to 507, who train on the second and report the first; both are in "Extracting and Composing Robust
    Features with Denoising Autoencoders", Vincent et al., 2008 (ICML), Section 2.2.

    Args:
      x: [...] the image, in [0, 1] for the cross-entropy.
      reconstruction: [...] the shape of `x`: x̂ for the squared error, the logits ℓ for the cross-entropy.
      error: "squared_error" or "cross_entropy".

    Returns:
      [] the sum: in squared units of a pixel, or in nats.

    Raises:
      ValueError: where the error is another one.
    """
    if error == "squared_error":
        return jnp.sum((x - reconstruction) ** 2)
    if error == "cross_entropy":
        return -distributions.bernoulli_log_likelihood(x, reconstruction)
    raise ValueError(f"error='{error}' is unknown; expected one of {ERRORS}.")


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

    See "k-Sparse Autoencoders", Makhzani and Frey, 2013 (arXiv:1312.5663), Section 2, steps 1 and 2 of the
    algorithm. Of equal activations the first are kept, so that there are never more than k.

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

    See "k-Sparse Autoencoders", Makhzani and Frey, 2013 (arXiv:1312.5663), Section 4, on scheduling the
    sparsity level: units that are never among the k largest learn nothing, so the first epochs keep many.

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

    See "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction", Rifai et al., 2011 (ICML),
    Section 4, for sigmoid units.

    Args:
      z: [d] the layer's activations, in (0, 1).
      kernel: [D, d] W.

    Returns:
      [].
    """
    return jnp.sum((z * (1 - z)) ** 2 * jnp.sum(kernel**2, axis=0))


def hutchinson_contractive_penalty(encode: Callable[[Array], Array], key: Key, x: Array, num_probes: int = 1) -> Array:
    """An unbiased estimate of the same from a few products with the Jacobian, for codes too large for all of it.

    ‖J‖²_F = tr(J Jᵀ) = E[‖Jᵀ v‖²],  v ~ U{−1, 1}^d

    See "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines", Hutchinson, 1989
    (Communications in Statistics 18), pages 1059 to 1076; for these signs the estimate varies least.

    Args:
      encode: maps one image [...] to its code [d].
      key: this example's key at this step.
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

    See "Loss Landscapes of Regularized Linear Autoencoders", Kunin et al., 2019 (arXiv:1901.08168), Section 2.

    Args:
      params: a pytree; arrays of fewer than two axes are biases.

    Returns:
      [].
    """
    return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(params) if leaf.ndim > 1), start=jnp.zeros(()))
