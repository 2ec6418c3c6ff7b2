"""Generative adversarial networks: minimax, Wasserstein, hinge, least-squares and unrolled.

Papers:
  * "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661): the game, its two generator losses, the
    best discriminator.
  * "Improved Techniques for Training GANs", Salimans et al., 2016 (arXiv:1606.03498): one-sided label smoothing.
  * "Wasserstein GAN", Arjovsky et al., 2017 (arXiv:1701.07875): the critic, with clipped weights; "Improved Training of
    Wasserstein GANs", Gulrajani et al., 2017 (arXiv:1704.00028): the gradient penalty.
  * "Geometric GAN", Lim and Ye, 2017 (arXiv:1705.02894), and "Spectral Normalization for Generative Adversarial
    Networks", Miyato et al., 2018 (arXiv:1802.05957): the hinge losses.
  * "Least Squares Generative Adversarial Networks", Mao et al., 2017 (arXiv:1611.04076).
  * "Which Training Methods for GANs do actually Converge?", Mescheder et al., 2018 (arXiv:1801.04406): the R₁ penalty
    and the Dirac-GAN, the game of two numbers by which it is tested.
  * "Unrolled Generative Adversarial Networks", Metz et al., 2017 (arXiv:1611.02163).

Symbols:
  x        a real example, [...]; "real" in names
  z        what the generator starts from, [d]
  x̃        a fake example G(z), [...]; "fake" in names
  x̂        a point between the two, ε x + (1 − ε) x̃
  D        the discriminator: D = σ(logit) in the game of cross-entropies, and the logit itself in all others
  critic   a discriminator as a function of ONE example, [...] -> []
  θ, φ     the parameters of G and of D: params["generator"] and params["discriminator"]
  K        how many updates the unrolled generator looks ahead
  α        the label of a real example, 1 unless it is softened
  λ, γ     the weights of the gradient penalty and of R₁

Differences from the papers:
  * Every loss is minimised, so values that a paper has the discriminator maximise have the other sign here.
  * Penalties come without their weights: λ of the gradient penalty, and γ/2 of R₁, are the caller's to multiply by.
  * The penalties are of one example; an objective takes those of a batch at once, and refuses a discriminator in which
    one example reaches another.
"""

from gen_jax.families.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from gen_jax.families.gan.losses import (
    clip_weights,
    gradient_penalty,
    hinge_discriminator_loss,
    hinge_generator_loss,
    jensen_shannon_divergence,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    minimax_discriminator_loss,
    minimax_generator_loss,
    non_saturating_generator_loss,
    optimal_discriminator,
    r1_penalty,
    value_at_optimum,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)
from gen_jax.families.gan.models import MLPDiscriminator, MLPGenerator
from gen_jax.families.gan.objectives import (
    Networks,
    discriminator_objective,
    generator_objective,
    unrolled_generator_objective,
)
from gen_jax.families.gan.resnet import ResNetDiscriminator, ResNetGenerator
from gen_jax.families.gan.unrolled import unrolled_discriminator, unrolled_generator_loss

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "MLPDiscriminator",
    "MLPGenerator",
    "Networks",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "clip_weights",
    "discriminator_objective",
    "generator_objective",
    "gradient_penalty",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "jensen_shannon_divergence",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "minimax_discriminator_loss",
    "minimax_generator_loss",
    "non_saturating_generator_loss",
    "optimal_discriminator",
    "r1_penalty",
    "unrolled_discriminator",
    "unrolled_generator_loss",
    "unrolled_generator_objective",
    "value_at_optimum",
    "wasserstein_critic_loss",
    "wasserstein_generator_loss",
]
