"""The variational autoencoder.

Papers:
  * "Auto-Encoding Variational Bayes", Kingma and Welling, 2014 (arXiv:1312.6114): AEVB below.
  * "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework", Higgins et al., 2017
    (ICLR): the weight `beta`.
  * "Importance Weighted Autoencoders", Burda, Grosse and Salakhutdinov, 2016 (arXiv:1509.00519): IWAE below.

Symbols:
  x         an observation, [H, W, C]
  z         its latent code, [d]
  mean      μ of q(z|x), [d]
  log_var   log σ² of q(z|x), [d]
  eps       ε ~ N(0, I), by which z = μ + σ ε
  L         how many codes are sampled for an example (k in IWAE)
  β         the weight of the divergence, `beta`
  φ, θ      the parameters of q(z|x) and p(x|z): params["encoder"] and params["decoder"]
  log_px_z  log p(x|z), nats, summed over dimensions
  log_pz    log p(z), nats
  log_qz_x  log q(z|x), nats
  log_w     log p(x, z) − log q(z|x), the logarithm of an importance weight

Differences from AEVB:
  * By default Adam with a cosine schedule on batches of 128 instead of Adagrad on batches of 100
    (`config.optim.name=adagrad` is there), and LeCun-normal initial weights instead of N(0, 0.01).
  * No weight decay by default; the paper has a weak N(0, I) prior on the weights.
  * Grey images are binarised anew at every step by default (x ~ Bernoulli(v / 255)), so that the Bernoulli
    likelihood is one. The paper feeds the grey levels themselves; `config.data.binarization=none` does that.
  * Convolutional networks and the discretised logistic likelihood, whose scale has a soft floor at e^−8 of the
    range, are ours to choose from.
"""

from gen_jax.families.vae.losses import elbo, elbo_monte_carlo, iwae_bound, log_importance_weight
from gen_jax.families.vae.models import VAE, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from gen_jax.families.vae.objectives import objective

__all__ = [
    "VAE",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "elbo",
    "elbo_monte_carlo",
    "iwae_bound",
    "log_importance_weight",
    "objective",
]
