"""The bounds of the VAE and the likelihood of its outputs as mathematics on arrays."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Terms
from gen_jax.ops import distributions


def elbo(log_px_z: Array, mean: Array, log_var: Array, beta: Array | float = 1.0) -> tuple[Array, Terms]:
    """The evidence lower bound of one example with the divergence in closed form.

    L = (1/L) Σ_l log p(x | z_l) − β KL(q(z|x) ‖ p(z)),  z_l ~ q(z|x) = N(μ, diag σ²),  p(z) = N(0, I)

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Eq. 7 and 10, and for β
    "beta-VAE", Higgins et al., 2017 (ICLR), Eq. 4.

    Args:
      log_px_z: [L] nats, the log-likelihood of x under each sampled code.
      mean: [d] μ.
      log_var: [d] log σ².
      beta: [] the weight of the divergence; 1 for the bound.

    Returns:
      The bound [] in nats, to be maximised, and its terms: `log_likelihood` and `kl`, nats.
    """
    reconstruction = jnp.mean(log_px_z)  # Eq. 7, second term.
    kl = distributions.gaussian_kl(mean, log_var)  # Eq. 7, first term; Appendix B.
    return reconstruction - beta * kl, {"log_likelihood": reconstruction, "kl": kl}


def elbo_monte_carlo(log_px_z: Array, log_pz: Array, log_qz_x: Array, beta: Array | float = 1.0) -> tuple[Array, Terms]:
    """The evidence lower bound of one example with every term sampled; it needs no closed form.

    L = (1/L) Σ_l [log p(x | z_l) + β (log p(z_l) − log q(z_l | x))],  z_l ~ q(z|x)

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Eq. 6.

    Args:
      log_px_z: [L] nats.
      log_pz: [L] nats.
      log_qz_x: [L] nats.
      beta: [] the weight of the sampled divergence; 1 for the bound.

    Returns:
      The bound [] in nats, to be maximised, and its terms: `log_likelihood` and `kl` (an estimate; it may be
      negative), nats.
    """
    reconstruction = jnp.mean(log_px_z)
    kl = jnp.mean(log_qz_x - log_pz)
    return reconstruction - beta * kl, {"log_likelihood": reconstruction, "kl": kl}


def log_importance_weight(log_px_z: Array, log_pz: Array, log_qz_x: Array) -> Array:
    """The logarithm of an importance weight: log w = log p(x|z) + log p(z) − log q(z|x).

    See "Importance Weighted Autoencoders", Burda et al., 2016 (arXiv:1509.00519), Eq. 8.

    Args:
      log_px_z: [...] nats.
      log_pz: [...] nats.
      log_qz_x: [...] nats.

    Returns:
      [...] nats.
    """
    return log_px_z + log_pz - log_qz_x


def iwae_bound(log_w: Array) -> Array:
    """The importance-weighted bound of one example.

    L_k = log (1/k) Σ_i w_i,  w_i = p(x, z_i) / q(z_i|x),  z_i ~ q(z|x)

    See "Importance Weighted Autoencoders", Burda et al., 2016 (arXiv:1509.00519), Eq. 8. L_1 is the ELBO, L_k grows
    with k and tends to log p(x).

    Args:
      log_w: [k] nats.

    Returns:
      [] nats, to be maximised.
    """
    return jax.nn.logsumexp(log_w) - math.log(log_w.shape[0])


def log_likelihood(x: Array, outputs: dict[str, Array]) -> Array:
    """Log p(x|z) of one example from the decoder's outputs for it.

    See "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114), Appendix C.1 and C.2, for the
    Bernoulli and the Gaussian, whose density of dequantised levels bounds their probability by "A note on the
    evaluation of generative models", Theis et al., 2016 (arXiv:1511.01844), Section 3.1; and for the logistic
    "PixelCNN++", Salimans et al., 2017 (arXiv:1701.05517), Section 2.1, Eq. 2.

    Args:
      x: [H, W, C] as `objectives.observe` gives it.
      outputs: the likelihood's parameters, [H, W, C] each, as `VAE.decode` names them.

    Returns:
      [] nats: of levels for the logistic and, by `density_to_levels`, for the Gaussian; of binary pixels for the
      Bernoulli.
    """
    if "logits" in outputs:
        return distributions.bernoulli_log_likelihood(x, outputs["logits"])
    if "log_scale" in outputs:
        return distributions.discretized_logistic_log_likelihood(x, outputs["mean"], outputs["log_scale"])
    density = distributions.gaussian_log_likelihood(x, outputs["mean"], outputs["log_var"])
    return distributions.density_to_levels(density, x.size)
