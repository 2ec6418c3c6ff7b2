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
  log_px_z  log p(x|z), nats, summed over dimensions
  log_pz    log p(z), nats
  log_qz_x  log q(z|x), nats
  log_w     log p(x, z) − log q(z|x), the logarithm of an importance weight

Differences from AEVB:
  * Adam instead of Adagrad, and LeCun-normal initial weights instead of N(0, 0.01).
  * No weight decay by default; the paper has a weak N(0, I) prior on the weights.
  * Grey images are binarised anew at every step by default (x ~ Bernoulli(v / 255)), so that the Bernoulli
    likelihood is one. The paper feeds the grey levels themselves; `config.data.binarization=none` does that.
  * log q(z|x) is not clipped, and the logistic likelihood's scale has a soft floor at e^−7 of the full range.
"""

from gen_jax.families.vae.losses import elbo, elbo_monte_carlo, iwae_bound, log_importance_weight, objective
from gen_jax.families.vae.models import VAE, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

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
