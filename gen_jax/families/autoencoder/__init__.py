"""Autoencoders: plain, deep, denoising, sparse and contractive.

Papers:
  * "Reducing the Dimensionality of Data with Neural Networks", Hinton and Salakhutdinov, 2006 (Science 313): HS below;
    the deep autoencoder against principal components.
  * "Extracting and Composing Robust Features with Denoising Autoencoders", Vincent et al., 2008 (ICML), and "Stacked
    Denoising Autoencoders: Learning Useful Representations in a Deep Network with a Local Denoising Criterion", Vincent
    et al., 2010 (JMLR 11): the corruptions.
  * "k-Sparse Autoencoders", Makhzani and Frey, 2013 (arXiv:1312.5663): the top-k code. "Sparse autoencoder", Ng, 2011
    (CS294A lecture notes): the divergence of mean activations.
  * "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction", Rifai et al., 2011 (ICML): the penalty.
  * "What Regularized Auto-Encoders Learn from the Data Generating Distribution", Alain and Bengio, 2014
    (arXiv:1211.4246): the denoising autoencoder as an estimate of the score.
  * "Generalized Denoising Auto-Encoders as Generative Models", Bengio et al., 2013 (arXiv:1305.6663), "A Generative
    Process for Sampling Contractive Auto-Encoders", Rifai et al., 2012 (arXiv:1206.6434), and "From Variational to
    Deterministic Autoencoders", Ghosh et al., 2020 (arXiv:1903.12436): how to draw samples of a model that has no
    prior.

Symbols:
  x         an image, [H, W, C] in [0, 1]; D = H W C
  x̃         the same, corrupted
  z         its code, [d]: f(x) of the encoder; h in the papers
  x̂         the reconstruction g(z), [H, W, C]
  W, b, c   a layer's weights [in, out], the encoder's bias and the decoder's; with tied weights the decoder has Wᵀ
  ρ         the mean activation that is wanted of a unit; ρ̂ [d] the means that are there, over a batch
  k         how many units of a code may be other than 0
  J         the encoder's Jacobian ∂z/∂x, [d, D]
  λ, β      the weights of the penalties

Errors are sums over the dimensions of an image with pixels in [0, 1], as HS report them, and not means.

Differences from the papers:
  * The deep autoencoder has no pretraining by restricted Boltzmann machines: Adam with a cosine schedule and GELU
    units do without. `config.model.activation=sigmoid` has HS's units.
  * The sparse and the contractive experiment train a plain twin beside the model, with the same initial weights and the
    same batches, to compare with. Neither touches the other's gradient, unless `config.optim.clip_norm` clips both.
    What a run logs as `loss`, `grad_norm` and `param_norm` is of the two together.
  * Masking and salt-and-pepper noise choose every pixel by itself, and not an exact share of an image's pixels.
"""

from gen_jax.families.autoencoder.corruption import gaussian_corruption, masking_corruption, salt_and_pepper_corruption
from gen_jax.families.autoencoder.losses import (
    annealed_k,
    contractive_penalty,
    hutchinson_contractive_penalty,
    k_sparse,
    kl_sparsity,
    l1_sparsity,
    l2_penalty,
    reconstruction_error,
    sigmoid_contractive_penalty,
)
from gen_jax.families.autoencoder.models import ConvAutoencoder, MLPAutoencoder
from gen_jax.families.autoencoder.objectives import (
    contractive_objective,
    denoising_objective,
    objective,
    sparse_objective,
)

__all__ = [
    "ConvAutoencoder",
    "MLPAutoencoder",
    "annealed_k",
    "contractive_objective",
    "contractive_penalty",
    "denoising_objective",
    "gaussian_corruption",
    "hutchinson_contractive_penalty",
    "k_sparse",
    "kl_sparsity",
    "l1_sparsity",
    "l2_penalty",
    "masking_corruption",
    "objective",
    "reconstruction_error",
    "salt_and_pepper_corruption",
    "sigmoid_contractive_penalty",
    "sparse_objective",
]
