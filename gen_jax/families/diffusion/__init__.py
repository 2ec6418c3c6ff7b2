"""Diffusion models: process, network, loss, sampler, guidance and likelihood, each apart from the others.

Papers:
  * "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239): DDPM below.
  * "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672): the cosine
    schedule, the learned variance, L_hybrid, importance sampling of steps, fewer steps.
  * "Denoising Diffusion Implicit Models", Song et al., 2021 (arXiv:2010.02502).
  * "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233): classifier guidance
    and the network called ADM.
  * "Classifier-Free Diffusion Guidance", Ho and Salimans, 2022 (arXiv:2207.12598).
  * "Score-Based Generative Modeling through Stochastic Differential Equations", Song et al., 2021 (arXiv:2011.13456):
    continuous time, the probability-flow ODE.
  * "Variational Diffusion Models", Kingma et al., 2021 (arXiv:2107.00630): the bound in continuous time, stratified
    steps.
  * "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", Lu et al., 2022
    (arXiv:2211.01095); "Efficient Diffusion Training via Min-SNR Weighting Strategy", Hang et al., 2023
    (arXiv:2303.09556); "Progressive Distillation for Fast Sampling of Diffusion Models", Salimans and Ho, 2022
    (arXiv:2202.00512), for v; "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", Lugmayr et al.,
    2022 (arXiv:2201.09865).

Symbols:
  t          the step, 0 … T − 1: the papers' t is one more. t = 0 is the last step of sampling
  i          the step of a sampler; with all steps kept, t
  time       what the network is told: `process.timesteps[t]`, whichever steps were kept
  x0, x_t    the example, and the example after the step t; x_{−1} is x_0
  epsilon    ε ~ N(0, I) with x_t = √ᾱ x_0 + √(1 − ᾱ) ε; the network's guess of it is ε̂
  β, ᾱ, β̃    `betas`, `alphas_bar`, `posterior_variance`
  signal     √ᾱ
  noise      √(1 − ᾱ)
  snr        ᾱ / (1 − ᾱ); λ is its logarithm (in DPM-Solver's papers, half of it)
  v          √ᾱ ε − √(1 − ᾱ) x_0 as a prediction; the second half of the output where a variance is learned
  Σ          the variance of a reverse step, diagonal; `log_var`
  predict    the network: `(x_t [B, ...], time [B]) -> output [B, ...]`, parameters and labels closed over

What is independent of what:
  * `process` knows no network: tables, q(x_t | x_0), fewer steps. Every loss, sampler and likelihood runs all steps of
    the process that it is given, so fewer steps are another process, `space(process, spaced_steps(...))`.
  * `parameterization` turns whatever a network predicts into x_0, ε and a reverse step; nothing else asks what it was.
  * `losses` and `timesteps` are for training, `samplers`, `sampling` and `guidance` for sampling, `likelihood` and
    `strata` for evaluation; any goes with any process and prediction.
  * `unet` (DDPM's network), `adm` (ADM's), `classifier` (of noisy images) and `models` (for points) know no process:
    they are told a time. `torch_weights` reads published weights of DDPM's.
  * `objectives` puts process, network and loss together for a train step, `evaluation` for a test set; `exact` has the
    best possible prediction where the data are a mixture of Gaussians.

Differences from the papers:
  * Steps count from 0, as in the papers' code. Losses are means over dimensions, or bits/dim, not sums.
  * The decoder of levels is exact in its tails; DDPM's code approximates Φ and clamps probabilities at 1e-12.
  * The first variance is 0, whose logarithm "fixed_large" and "fixed_small" replace by the second step's, as DDPM's
    code does. It costs 0.11 nats a dimension in L_0 of Gaussian data; "beta" has β_1 there, which costs none.
  * A process of a few steps keeps the original's marginals exactly for any choice of steps; DDIM's own choices,
    "uniform" and "quadratic", are moved apart where they would repeat a step.
"""

from gen_jax.families.diffusion.adm import ADMUNet
from gen_jax.families.diffusion.classifier import NoisyClassifier
from gen_jax.families.diffusion.continuous import (
    Continuous,
    cosine_continuous,
    in_continuous_time,
    linear_continuous,
    signal_and_noise,
)
from gen_jax.families.diffusion.guidance import (
    Guide,
    check_labels,
    classifier_free,
    combine,
    drop_labels,
    shift_epsilon,
    shift_mean,
)
from gen_jax.families.diffusion.likelihood import (
    bound_terms,
    density_bits_per_dim,
    probability_flow,
    step_levels,
    variational_bound,
)
from gen_jax.families.diffusion.losses import (
    discretized_gaussian_log_likelihood,
    epsilon_weight,
    l_continuous,
    l_hybrid,
    l_prior,
    l_simple,
    l_vlb,
    min_snr_weight,
    normal_kl,
)
from gen_jax.families.diffusion.objectives import Diffusion, objective, predictor
from gen_jax.families.diffusion.parameterization import (
    Reverse,
    clip_to_unit,
    convert,
    interpolated_log_var,
    log_var_table,
    prediction_target,
    reverse,
    split_output,
    x0_and_epsilon,
)
from gen_jax.families.diffusion.process import (
    Process,
    cosine_betas,
    diffuse,
    linear_betas,
    make_process,
    q_posterior,
    q_sample,
    rescaled_linear_betas,
    space,
    spaced_steps,
    told_time,
)
from gen_jax.families.diffusion.samplers import Sampler, ancestral, ddim, ddim_inversion, dpm_solver, inpaint
from gen_jax.families.diffusion.sampling import run, sample, start_noise
from gen_jax.families.diffusion.timesteps import (
    History,
    antithetic,
    importance,
    importance_probabilities,
    init_history,
    stratified,
    uniform,
    update_history,
)
from gen_jax.families.diffusion.unet import UNet
from gen_jax.ops.pixels import to_unit

__all__ = [
    "ADMUNet",
    "Continuous",
    "Diffusion",
    "Guide",
    "History",
    "NoisyClassifier",
    "Process",
    "Reverse",
    "Sampler",
    "UNet",
    "ancestral",
    "antithetic",
    "bound_terms",
    "check_labels",
    "classifier_free",
    "clip_to_unit",
    "combine",
    "convert",
    "cosine_betas",
    "cosine_continuous",
    "ddim",
    "ddim_inversion",
    "density_bits_per_dim",
    "diffuse",
    "discretized_gaussian_log_likelihood",
    "dpm_solver",
    "drop_labels",
    "epsilon_weight",
    "importance",
    "importance_probabilities",
    "in_continuous_time",
    "init_history",
    "inpaint",
    "interpolated_log_var",
    "l_continuous",
    "l_hybrid",
    "l_prior",
    "l_simple",
    "l_vlb",
    "linear_betas",
    "linear_continuous",
    "log_var_table",
    "make_process",
    "min_snr_weight",
    "normal_kl",
    "objective",
    "prediction_target",
    "predictor",
    "probability_flow",
    "q_posterior",
    "q_sample",
    "rescaled_linear_betas",
    "reverse",
    "run",
    "sample",
    "shift_epsilon",
    "shift_mean",
    "signal_and_noise",
    "space",
    "spaced_steps",
    "split_output",
    "start_noise",
    "step_levels",
    "stratified",
    "to_unit",
    "told_time",
    "uniform",
    "update_history",
    "variational_bound",
    "x0_and_epsilon",
]
