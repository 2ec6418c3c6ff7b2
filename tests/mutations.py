"""Breaks the mathematics on purpose, one place at a time, and sees whether a test fails: `make mutants`.

Each mutant is a function and one change in it: a sign, a factor, an index. The test that `equations.toml` names for the
function runs first, and where it passes, all of its file. A mutant that passes both has survived: its function needs a
better test. The changes are made in a copy of the checkout.

  python tests/mutations.py             all of them
  python tests/mutations.py nerf ops    those whose function's name has one of these in it
"""

from __future__ import annotations

import ast
import concurrent.futures
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
_COPIED = ("gen_jax", "experiments", "tests", "pyproject.toml")
_FAILED = 1  # The exit status of pytest where a test has failed, and not what runs it.


class Mutant(NamedTuple):
    """One change.

    Attributes:
      function: its full name.
      old: a text that is in the function once.
      new: what stands there instead.
      bug: in a few words.
    """

    function: str
    old: str
    new: str
    bug: str


_VAE, _GAN, _AE = "gen_jax.families.vae", "gen_jax.families.gan", "gen_jax.families.autoencoder"
_DDPM, _NERF, _OPS = "gen_jax.families.diffusion", "gen_jax.families.nerf", "gen_jax.ops"
_RENDER = f"{_OPS}.volume_rendering"

MUTANTS = (
    # Variational autoencoders.
    Mutant(f"{_OPS}.distributions.gaussian_kl", "- log_var", "+ log_var", "KL: the sign of log σ²"),
    Mutant(f"{_OPS}.distributions.gaussian_kl", "0.5 * ", "", "KL: no ½"),
    Mutant(f"{_OPS}.distributions.gaussian_log_likelihood", "+ log_var", "", "Gaussian: no normaliser"),
    Mutant(f"{_OPS}.distributions.gaussian_log_likelihood", "jnp.exp(-log_var)", "jnp.exp(log_var)", "σ² for 1 / σ²"),
    Mutant(f"{_OPS}.distributions.bernoulli_log_likelihood", "(-logits)", "(logits)", "1 − p is p"),
    Mutant(f"{_OPS}.distributions.discretized_logistic_log_likelihood", "num_levels - 1", "num_levels", "δ: 1 / 256"),
    Mutant(f"{_OPS}.distributions.density_to_levels", "- num_dims", "+ num_dims", "dequantisation: the sign"),
    Mutant(f"{_OPS}.distributions.bits_per_dim", " * math.log(2)", "", "nats for bits"),
    Mutant(f"{_VAE}.losses.elbo", "- beta * kl", "+ beta * kl", "ELBO: the sign of KL"),
    Mutant(f"{_VAE}.losses.elbo_monte_carlo", "log_qz_x - log_pz", "log_pz - log_qz_x", "KL turned round"),
    Mutant(f"{_VAE}.losses.iwae_bound", "- math.log(log_w.shape[0])", "", "IWAE: a sum for a mean"),
    Mutant(f"{_VAE}.losses.log_importance_weight", "- log_qz_x", "+ log_qz_x", "IWAE: the sign of q"),
    Mutant(f"{_VAE}.models.reparameterize", "0.5 * log_var", "log_var", "σ² for σ"),
    # Autoencoders.
    Mutant(f"{_AE}.losses.kl_sparsity", "return jnp.sum(on + off)", "return jnp.sum(on)", "sparsity: half of the KL"),
    Mutant(f"{_AE}.losses.k_sparse", "jnp.arange(most) < k", "jnp.arange(most) <= k", "k-sparse: one too many"),
    Mutant(f"{_AE}.losses.sigmoid_contractive_penalty", "(z * (1 - z)) ** 2", "z * (1 - z)", "contraction: no square"),
    Mutant(f"{_AE}.losses.hutchinson_contractive_penalty", " / num_probes", "", "Hutchinson: a sum for a mean"),
    # Adversarial networks.
    Mutant(
        f"{_GAN}.losses.minimax_discriminator_loss", "log_sigmoid(-fake_logit)", "log_sigmoid(fake_logit)", "the fakes"
    ),
    Mutant(
        f"{_GAN}.losses.non_saturating_generator_loss",
        "log_sigmoid(fake_logit)",
        "log_sigmoid(-fake_logit)",
        "saturates",
    ),
    Mutant(
        f"{_GAN}.losses.wasserstein_critic_loss", "fake_logit - real_logit", "real_logit - fake_logit", "turned round"
    ),
    Mutant(f"{_GAN}.losses.hinge_discriminator_loss", "1 + fake_logit", "1 - fake_logit", "hinge: the sign"),
    Mutant(f"{_GAN}.losses.least_squares_discriminator_loss", "0.5 * (fake_logit", "(fake_logit", "LSGAN: no ½"),
    Mutant(f"{_GAN}.losses.distance_from_slope_one", "norm - 1", "norm", "gradient penalty: slope 0 for 1"),
    Mutant(f"{_GAN}.losses.between", "(1 - epsilon) * fake", "epsilon * fake", "gradient penalty: not between"),
    Mutant(f"{_GAN}.losses.jensen_shannon_divergence", "- math.log(2)", "", "JSD: p + q for their mean"),
    Mutant(f"{_GAN}.losses.optimal_discriminator", "- log_p_model", "+ log_p_model", "D*: the sign"),
    Mutant(
        f"{_GAN}.unrolled.unrolled_discriminator",
        "jax.grad(discriminator_loss)(params, g_params, data)",
        "jax.lax.stop_gradient(jax.grad(discriminator_loss)(params, g_params, data))",
        "unrolling: a gradient stopped",
    ),
    # Diffusion.
    Mutant(f"{_DDPM}.process.cosine_betas", "** 2", "", "cosine schedule: no square"),
    Mutant(f"{_DDPM}.process.linear_betas", "first, last", "first**0.5, last**0.5", "schedule: β for √β"),
    Mutant(f"{_DDPM}.process.q_sample", "process.noise", "process.signal", "ε by √ᾱ"),
    Mutant(
        f"{_DDPM}.process.q_posterior", "process.posterior_coef_xt", "process.posterior_coef_x0", "posterior: a mean"
    ),
    Mutant(f"{_DDPM}.process.make_process", "betas * prev_variance / noise_variance", "betas", "β̃: β"),
    Mutant(f"{_DDPM}.process.make_process", "np.append(1.0, alphas_bar[:-1])", "alphas_bar", "ᾱ_{t−1}: one step off"),
    Mutant(f"{_DDPM}.parameterization.prediction_target", "- noise * x0", "+ noise * x0", "v: the sign"),
    Mutant(f"{_DDPM}.parameterization.x0_and_epsilon", "signal * x_t - noise", "signal * x_t + noise", "x_0 of v"),
    Mutant(f"{_DDPM}.parameterization.interpolated_log_var", "(v + 1) / 2", "v", "learned variance: v in [0, 1]"),
    Mutant(f"{_DDPM}.samplers.ancestral", "jnp.exp(0.5 * ", "jnp.exp(", "ancestral: σ² for σ"),
    Mutant(f"{_DDPM}.samplers.ancestral", "i == 0", "i == 1", "ancestral: noise in the last step"),
    Mutant(f"{_DDPM}.samplers.ddim", "- sigma**2", "", "DDIM: no place for σ"),
    Mutant(f"{_DDPM}.samplers.ddim", "process.alphas_bar_prev", "process.alphas_bar", "DDIM: one step off"),
    Mutant(f"{_DDPM}.samplers.dpm_solver", "(2 * h[1:])", "h[1:]", "DPM-Solver++: 1 / r for 1 / 2r"),
    Mutant(f"{_DDPM}.guidance.shift_epsilon", "- scale", "+ scale", "guidance: away from the class"),
    Mutant(f"{_DDPM}.losses.l_vlb", "t == 0", "t == 1", "bound: the decoder one step off"),
    Mutant(f"{_DDPM}.losses.l_hybrid", "jax.lax.stop_gradient(predicted)", "predicted", "hybrid: the mean not held"),
    Mutant(f"{_DDPM}.losses.l_continuous", "-0.5", "-1.0", "continuous bound: no ½"),
    Mutant(f"{_DDPM}.losses.min_snr_weight", " / snr", "", "min-SNR: not divided"),
    # Radiance fields.
    Mutant(f"{_RENDER}.render_weights", "thickness[:-1]", "thickness[1:]", "transmittance: one sample off"),
    Mutant(f"{_RENDER}.render_weights", "jnp.exp(-before) * ", "", "weights: no transmittance"),
    Mutant(f"{_RENDER}.intervals", "depths[1:] - depths[:-1]", "depths[:-1] - depths[1:]", "δ: the sign"),
    Mutant(f"{_RENDER}.composite", " * norm", "", "depths not in units of length"),
    Mutant(f"{_RENDER}.composite", "(1.0 - opacity)", "opacity", "background in front"),
    Mutant(
        f"{_RENDER}.stratified_depths", "(1.0 - part) / near + part / far", "part / near + (1.0 - part) / far", "back"
    ),
    Mutant(f"{_RENDER}.inverse_cdf", 'side="right") - 1', 'side="right")', "importance samples: one part off"),
    Mutant(f"{_RENDER}.importance_depths", "weights[1:-1]", "weights[:-2]", "importance samples: weights one off"),
    Mutant(f"{_RENDER}.over", "alpha * color", "color", "straight alpha taken for premultiplied"),
    Mutant(f"{_NERF}.losses.photometric", "(fine - color)", "(coarse - color)", "the fine level never learns"),
    Mutant(f"{_NERF}.losses.psnr", "-10.0", "-20.0", "PSNR of amplitudes"),
    Mutant(f"{_NERF}.rendering.render_ray", "view / jnp.linalg.norm(view)", "view", "directions not of length 1"),
    Mutant(f"{_NERF}.rendering.render_ray", "jnp.sort(jnp.concatenate([depths, more]))", "more", "fine samples alone"),
    Mutant(f"{_OPS}.encodings.positional_encoding", "math.pi if with_pi", "1.0 if with_pi", "encoding: no π"),
    Mutant(f"{_OPS}.encodings.integrated_encoding", "-0.5 * 4.0", "-0.5 * 2.0", "integrated encoding: σ for σ²"),
    Mutant(f"{_OPS}.cameras.ray", "pixel - camera.center", "pixel + 0.5 - camera.center", "rays half a pixel off"),
    Mutant(f"{_OPS}.cameras.ndc_ray", "1.0 + 2.0 * near", "1.0 - 2.0 * near", "device coordinates: the sign"),
    Mutant(f"{_OPS}.cameras.distort", "r2 * (k1 + r2 * k2)", "r2 * (k1 + k2)", "distortion: k_2 r² for k_2 r⁴"),
    Mutant(f"{_OPS}.interpolation.trilinear", "1.0 - fraction", "fraction", "interpolation: weights alike"),
)


def mutate(source: str, mutant: Mutant) -> str:
    """The text of a module with a mutant's change in its function, docstring and comments apart.

    Args:
      source: of the module.
      mutant: whose function is in it.

    Returns:
      The changed text.

    Raises:
      ValueError: where the function is not there, or its code does not have the old text exactly once.
    """
    name = mutant.function.rsplit(".", 1)[1]
    [node] = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name] or [None]
    if node is None:
        raise ValueError(f"There is no function {mutant.function}.")
    lines = source.splitlines(keepends=True)
    first = node.body[1].lineno if ast.get_docstring(node) else node.body[0].lineno
    code = "".join(lines[first - 1 : node.end_lineno])
    if code.count(mutant.old) != 1:
        raise ValueError(f"{mutant.function} has {mutant.old!r} {code.count(mutant.old)} times; expected it once.")
    return "".join(lines[: first - 1]) + code.replace(mutant.old, mutant.new) + "".join(lines[node.end_lineno :])


def file_of(function: str) -> pathlib.Path:
    """The file of a function's module, from the root."""
    return pathlib.Path(*function.split(".")[:-1]).with_suffix(".py")


def judge(mutant: Mutant, test: str, copy: pathlib.Path) -> str:
    """Whether a test sees the change.

    Args:
      mutant: the change.
      test: pytest's name of the test that proves its function.
      copy: of the checkout, in which nothing else is changed.

    Returns:
      "caught", "caught by its file", or "SURVIVED".

    Raises:
      RuntimeError: where the tests cannot be run.
    """
    path = copy / file_of(mutant.function)
    source = path.read_text(encoding="utf-8")
    path.write_text(mutate(source, mutant), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        for wanted, verdict in ((test, "caught"), (test.split("::")[0], "caught by its file")):
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", wanted]
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
            if done.returncode == _FAILED:
                return verdict
            if done.returncode:
                raise RuntimeError(f"{mutant.function}, {mutant.bug}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return "SURVIVED"
    finally:
        path.write_text(source, encoding="utf-8")


def main(wanted: list[str]) -> int:
    """Judges the mutants, two at a time, and prints what became of each.

    Args:
      wanted: parts of the names of functions; none for all.

    Returns:
      How many survived; 1 where there are none of that name.
    """
    rows = tomllib.loads((ROOT / "tests" / "equations.toml").read_text(encoding="utf-8"))["rows"]
    mutants = [m for m in MUTANTS if not wanted or any(part in m.function for part in wanted)]
    if not mutants:
        print(f"No mutant's function has {' or '.join(wanted)} in its name; MUTANTS in tests/mutations.py lists them.")
        return 1
    copies: queue.Queue[pathlib.Path] = queue.Queue()

    def one(mutant: Mutant) -> str:
        copy = copies.get()
        try:
            return judge(mutant, rows[mutant.function]["test"], copy)
        finally:
            copies.put(copy)

    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(2):
            copy = pathlib.Path(folder, str(number))
            for name in _COPIED:
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, copy / name)
            copies.put(copy)
        survivors = 0
        for mutant, verdict in zip(mutants, pool.map(one, mutants), strict=True):
            survivors += verdict == "SURVIVED"
            print(f"{verdict:20} {mutant.function.removeprefix('gen_jax.'):62} {mutant.bug}", flush=True)
    print(f"{len(mutants)} mutants, {survivors} survived")
    return survivors


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
