"""Breaks the mathematics on purpose, one place at a time, and sees whether a test fails: `make mutants`.

Each mutant is a function and one change in it: a sign, a factor, an index. The test that `equations.toml` names for the
function, or the mutant itself, runs first, and where it passes, all of its file. A mutant that passes both survives:
its function needs a better test. The changes are made in a copy of the checkout, in which the same tests pass without
any change: what failed for another reason would seem to catch every mutant.

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
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
_FAILED = 1  # The exit status of pytest where a test has failed, and not what runs it.


class Mutant(NamedTuple):
    """One change.

    Attributes:
      function: its full name; that of a method has its class before it.
      old: a text that is in the function once.
      new: what stands there instead.
      bug: in a few words.
      test: the test, or the file of tests, that proves the function; "" for the one that `equations.toml` names.
    """

    function: str
    old: str
    new: str
    bug: str
    test: str = ""


# By module: the function, what is in it, what stands there instead, the bug, and its test where no row names one.
_CHANGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "families.vae.losses": (
        ("elbo", "- beta * kl", "+ beta * kl", "ELBO: the sign of KL"),
        ("elbo_monte_carlo", "log_qz_x - log_pz", "log_pz - log_qz_x", "KL turned round"),
        ("iwae_bound", "- math.log(log_w.shape[0])", "", "IWAE: a sum for a mean"),
        ("log_importance_weight", "- log_qz_x", "+ log_qz_x", "IWAE: the sign of q"),
    ),
    "families.vae.models": (("reparameterize", "0.5 * log_var", "log_var", "σ² for σ"),),
    "families.vae.objectives": (
        ("objective", "-jnp.mean(value)", "-jnp.sum(value)", "a sum over the batch"),
        ("objective", "jnp.minimum(1.0, ", "(", "warm-up: the weight of KL grows on"),
    ),
    "families.vae.sampling": (("log_marginal", "- math.log(num_samples)", "", "log p(x): a sum for a mean"),),
    "families.autoencoder.losses": (
        ("kl_sparsity", "return jnp.sum(on + off)", "return jnp.sum(on)", "sparsity: half of the KL"),
        ("k_sparse", "jnp.arange(most) < k", "jnp.arange(most) <= k", "k-sparse: one too many"),
        ("sigmoid_contractive_penalty", "(z * (1 - z)) ** 2", "z * (1 - z)", "contraction: no square"),
        ("hutchinson_contractive_penalty", " / num_probes", "", "Hutchinson: a sum for a mean"),
    ),
    "families.autoencoder.objectives": (
        ("objective", "l2 * penalty", "penalty", "decay: no weight"),
        ("denoising_objective", "errors_of(x,", "errors_of(corrupted,", "the noise as the target"),
    ),
    "families.autoencoder.sampling": (
        ("score", "sigma**2", "sigma", "score: σ for σ²"),
        ("sample_gaussian_codes", "- jnp.outer(mean, mean)", "", "codes: moments about 0"),
    ),
    "families.gan.losses": (
        ("minimax_discriminator_loss", "log_sigmoid(-fake_logit)", "log_sigmoid(fake_logit)", "the fakes"),
        ("non_saturating_generator_loss", "log_sigmoid(fake_logit)", "log_sigmoid(-fake_logit)", "saturates"),
        ("wasserstein_critic_loss", "fake_logit - real_logit", "real_logit - fake_logit", "turned round"),
        ("hinge_discriminator_loss", "1 + fake_logit", "1 - fake_logit", "hinge: the sign"),
        ("least_squares_discriminator_loss", "0.5 * (fake_logit", "(fake_logit", "LSGAN: no ½"),
        ("distance_from_slope_one", "norm - 1", "norm", "gradient penalty: slope 0 for 1"),
        ("between", "(1 - epsilon) * fake", "epsilon * fake", "gradient penalty: not between"),
        ("between", "jax.random.uniform(key, ", "jax.random.uniform(key, real.shape, ", "an ε for every pixel"),
        (
            "distance_from_slope_one",
            "jnp.where(is_zero, 1, jnp.sum(scaled**2))",
            "jnp.sum(scaled**2)",
            "NaN at no gradient",
        ),
        ("squared_slope", "jnp.sum(gradient**2)", "jnp.linalg.norm(gradient)", "R1: no square"),
        ("r1_penalty", "squared_slope(", "distance_from_slope_one(", "R1: slope 1 for 0"),
        ("jensen_shannon_divergence", "- math.log(2)", "", "JSD: p + q for their mean"),
        ("optimal_discriminator", "- log_p_model", "+ log_p_model", "D*: the sign"),
    ),
    "families.gan.objectives": (
        ("discriminator_objective", "0.5 if", "1.0 if", "R1: γ for γ / 2"),
        ("discriminator_objective", "1.0) * penalty_every", "1.0)", "lazy penalty: no n"),
        ("discriminator_objective", '(batch["step"] + 1)', 'batch["step"]', "lazy penalty: one round off"),
        ("slope_penalties", "jnp.sum(", "jnp.mean(", "penalty: slopes by the batch's size"),
        ("slope_penalties", 'real if penalty == "r1"', 'fake if penalty == "r1"', "R1 at fakes"),
    ),
    "families.gan.sampling": (
        (
            "settle_statistics",
            'params["generator"], zeros',
            'params["generator"], model_state["generator"]',
            "old averages",
        ),
        ("settle_statistics", "a / (1.0 - MOMENTUM)", "a", "a tenth of the statistics"),
    ),
    "families.gan.unrolled": (
        (
            "unrolled_discriminator",
            "(params, g_params, data)",
            "(jax.lax.stop_gradient(params), g_params, data)",
            "a gradient stopped",
        ),
    ),
    "families.diffusion.process": (
        ("cosine_betas", "** 2", "", "cosine schedule: no square"),
        ("linear_betas", "first, last", "first**0.5, last**0.5", "schedule: β for √β"),
        ("q_sample", "process.noise", "process.signal", "ε by √ᾱ"),
        ("q_posterior", "process.posterior_coef_xt", "process.posterior_coef_x0", "posterior: a mean"),
        ("make_process", "betas * prev_variance / noise_variance", "betas", "β̃: β"),
        ("make_process", "np.append(1.0, alphas_bar[:-1])", "alphas_bar", "ᾱ_{t−1}: one step off"),
        (
            "make_process",
            "np.append(second, posterior_variance[1:])",
            "np.maximum(posterior_variance, 1e-20)",
            "t = 0: log 1e-20",
        ),
        (
            "space",
            "-np.expm1(np.diff(log_alphas_bar, prepend=0.0))",
            "process.betas[steps]",
            "skipped steps: one β for many",
        ),
        ("space", "process.timesteps[steps]", "np.arange(len(steps))", "skipped steps: told new numbers"),
        ("spaced_steps", "index * num_steps // count", "index * (num_steps - 1) // count", "skipped steps: one off"),
        ("spaced_steps", "(index + 1) * num_steps // count - 1", "index * num_steps // count", "no T − 1"),
    ),
    "families.diffusion.parameterization": (
        ("log_var_table", "[:1], log_betas[1:]", "[1:], log_betas[:1]", "t = 0: at T − 1"),
        ("log_var_table", "np.append(process.posterior_log_var[:1], log_betas[1:])", "log_betas", "t = 0: β"),
        ("prediction_target", "- noise * x0", "+ noise * x0", "v: the sign"),
        ("x0_and_epsilon", "signal * x_t - noise", "signal * x_t + noise", "x_0 of v"),
        ("interpolated_log_var", "(v + 1) / 2", "v", "learned variance: v in [0, 1]"),
    ),
    "families.diffusion.samplers": (
        ("ancestral", "jnp.exp(0.5 * ", "jnp.exp(", "ancestral: σ² for σ"),
        ("ancestral", "i == 0", "i == 1", "ancestral: noise in the last step"),
        ("ddim", "- sigma**2", "", "DDIM: no place for σ"),
        ("ddim", "process.alphas_bar_prev", "process.alphas_bar", "DDIM: one step off"),
        ("ddim_inversion", "jnp.maximum(i - 1, 0)", "i", "inversion: told where it goes"),
        ("ddim_inversion", "- ratio * prev_noise", "- prev_noise", "inversion: one step off"),
        ("inpaint", "jnp.maximum(i - 1, 0)", "i", "inpainting: what is known as noisy as before"),
        ("dpm_solver", "(2 * h[1:])", "h[1:]", "DPM-Solver++: 1 / r for 1 / 2r"),
    ),
    "families.diffusion.guidance": (
        ("shift_epsilon", "- scale", "+ scale", "guidance: away from the class"),
        ("shift_epsilon", "scale * noise * ", "scale * ", "guidance: the score for ε"),
        ("shift_mean", "jnp.exp(", "jnp.exp(0.5 * ", "guidance: σ for σ²"),
        ("shift_mean", "process, x_t, i)", "process, step.mean, i)", "gradient at the mean"),
        ("shift_mean", "jnp.maximum(i - 1, 0)", "i", "gradient told the step after"),
        ("combine", "unconditional + strength *", "conditional + strength *", "w for s"),
        ("combine", "- strength *", "+ strength *", "classifier-free: the sign"),
        ("classifier_free", "(label, null)", "(label, label)", "unconditional: told the label"),
        ("classifier_free", "time, null)", "time, label)", "unconditional alone: told the label"),
        ("classifier_free", "(label, null)", "(null, label)", "classifier-free: turned round"),
        ("drop_labels", "null_label, label)", "label, null_label)", "labels kept at the rate"),
    ),
    "families.diffusion.classifier": (("classifier_objective", "-jnp.mean(", "-jnp.sum(", "a sum over the batch"),),
    "families.diffusion.losses": (
        ("discretized_gaussian_log_likelihood", "(num_levels - 1)", "num_levels", "δ: 1 / 256"),
        ("l_prior", "2 * math.log", "math.log", "L_T: σ for σ²"),
        ("l_vlb", "t == 0", "t == 1", "bound: the decoder one step off"),
        ("l_hybrid", "jax.lax.stop_gradient(predicted)", "predicted", "hybrid: the mean not held"),
        ("l_continuous", "-0.5", "-1.0", "continuous bound: no ½"),
        ("min_snr_weight", " / snr", "", "min-SNR: not divided"),
    ),
    "families.diffusion.likelihood": (
        ("bound_terms", "constrain=constrain", "constrain=None", "bound: of another sampler"),
        ("density_bits_per_dim", "+ num_dims", "- num_dims", "density on [−1, 1): the sign"),
        ("probability_flow", "jnp.log(signal)", "0.0", "ODE: no volume of the first level"),
    ),
    "families.diffusion.timesteps": (("importance", "1 / (p.shape[0] * p[t])", "1 / p[t]", "importance: no T"),),
    "families.nerf.losses": (("photometric", "(fine - color)", "(coarse - color)", "the fine level never learns"),),
    "families.nerf.rendering": (
        ("render_ray", "view / jnp.linalg.norm(view)", "view", "directions not of length 1"),
        ("render_ray", "jnp.sort(jnp.concatenate([depths, more]))", "more", "fine samples alone"),
    ),
    "families.classifier.losses": (("cross_entropy", "- logits[label]", "+ logits[label]", "cross-entropy: the sign"),),
    "families.classifier.objectives": (("objective", "loss = jnp.mean(", "loss = jnp.sum(", "a sum over the batch"),),
    "families.classifier.sampling": (
        ("class_images", "- weight *", "+ weight *", "images of a class: larger for ever"),
    ),
    "ops.distributions": (
        ("gaussian_kl", "- log_var", "+ log_var", "KL: the sign of log σ²"),
        ("gaussian_kl", "0.5 * ", "", "KL: no ½"),
        ("gaussian_log_likelihood", "+ log_var", "", "Gaussian: no normaliser"),
        ("gaussian_log_likelihood", "jnp.exp(-log_var)", "jnp.exp(log_var)", "σ² for 1 / σ²"),
        ("bernoulli_log_likelihood", "(-logits)", "(logits)", "1 − p is p"),
        ("discretized_logistic_log_likelihood", "num_levels - 1", "num_levels", "δ: 1 / 256"),
        ("density_to_levels", "- num_dims", "+ num_dims", "dequantisation: the sign"),
        ("bits_per_dim", " * math.log(2)", "", "nats for bits"),
        ("gaussian_kl", "jnp.sum(", "jnp.mean(", "KL: a mean over the dimensions"),
    ),
    "ops.volume_rendering": (
        ("render_weights", "thickness[:-1]", "thickness[1:]", "transmittance: one sample off"),
        ("render_weights", "jnp.exp(-before) * ", "", "weights: no transmittance"),
        ("intervals", "depths[1:] - depths[:-1]", "depths[:-1] - depths[1:]", "δ: the sign"),
        ("composite", " * norm", "", "depths not in units of length"),
        ("composite", "(1.0 - opacity)", "opacity", "background in front"),
        ("stratified_depths", "(1.0 - part) / near + part / far", "part / near + (1.0 - part) / far", "back"),
        ("inverse_cdf", 'side="right") - 1', 'side="right")', "importance samples: one part off"),
        ("importance_depths", "weights[1:-1]", "weights[:-2]", "importance samples: weights one off"),
        ("over", "alpha * color", "color", "straight alpha taken for premultiplied"),
    ),
    "ops.image_quality": (("psnr", "-10.0", "-20.0", "PSNR of amplitudes"),),
    "ops.encodings": (
        ("positional_encoding", "math.pi if with_pi", "1.0 if with_pi", "encoding: no π"),
        ("integrated_encoding", "-0.5 * 4.0", "-0.5 * 2.0", "integrated encoding: σ for σ²"),
    ),
    "ops.cameras": (
        ("ray", "pixel - camera.center", "pixel + 0.5 - camera.center", "rays half a pixel off"),
        ("ndc_ray", "1.0 + 2.0 * near", "1.0 - 2.0 * near", "device coordinates: the sign"),
        ("ray", " * _signs(axes)", "", "rays: y down and z forward"),
        ("project", " * _signs(axes)", "", "projection: y down and z forward"),
        ("project", "pose[:3, :3].T", "pose[:3, :3]", "projection: camera to world, not back"),
        ("unproject", "* direction", "* direction / jnp.linalg.norm(direction)", "a depth for a z-depth"),
        ("distort", "r2 * (k1 + r2 * k2)", "r2 * (k1 + k2)", "distortion: k_2 r² for k_2 r⁴"),
    ),
    "ops.interpolation": (("trilinear", "1.0 - fraction", "fraction", "interpolation: weights alike"),),
    "ops.surfaces": (
        ("marching_cubes", "vertices + points", "vertices + 0.5 * step + points", "half a voxel off"),
        ("marching_cubes", "faces[:, ::-1]", "faces", "triangles inside out"),
    ),
    "nn.attention": (("attention", " * query.shape[-1] ** -0.5", "", "attention: no √d"),),
    "nn.dropout": (("Dropout.__call__", "x / (1.0 - self.rate)", "x", "dropout: the mean shrinks"),),
    "nn.group_norm": (
        ("GroupNorm.__call__", " - mean**2", "", "group normalisation: moments about 0"),
        ("GroupNorm.__call__", "factor * (1 + scale)", "factor * scale", "no 1 + scale"),
    ),
    "nn.maxout": (("maxout", ".max(axis=-2)", ".mean(axis=-2)", "maxout: the mean"),),
    "nn.time_embedding": (("sinusoidal_embedding", "half - 1 if", "half if", "waves: one off"),),
    "eval.distances": (
        ("gaussian_moments", "(len(features) - 1)", "len(features)", "covariance by 1 / N"),
        ("frechet_distance", "** 2)", ")", "Fréchet distance: means, no square"),
        ("frechet_distance", "- 2 * cross", "- cross", "Fréchet distance: no 2"),
        ("kernel_distance", "- 2 * across", "- across", "kernel distance: no 2"),
        (
            "_mean_within",
            "(len(x) - 1)",
            "len(x)",
            "kernel distance: biased",
            "tests/eval/test_distances.py::test_kernel_distance_is_the_loop_over_pairs",
        ),
        ("inception_score", "np.exp(divergence.mean())", "divergence.mean()", "score: no exp"),
    ),
    "eval.coverage": (
        ("precision_recall", "_squared_radii(fake,", "_squared_radii(real,", "recall: others' balls"),
        ("density_coverage", "num_neighbours * len(fake)", "len(fake)", "density: no k"),
    ),
    "eval.image_quality": (("psnr", "-10.0", "-20.0", "PSNR of amplitudes"),),
    "eval.parzen": (("log_density", "(sigma,)", "(sigma**2,)", "Parzen: σ² for σ"),),
    "train.step": (
        ("update_ema", "average + rate", "new + rate", "average: nearly none"),
        ("make_train_step", "ema_params, params, ema", "ema_params, state.params, ema", "average: the old parameters"),
        ("mean_of_parts", "new / parts", "new", "accumulation: a sum for a mean"),
        (
            "make_train_step",
            "model_state, terms, grads), axis_name)",
            "model_state, terms, grads), None)",
            "devices apart",
        ),
        ("masked_sums", "values.items()}, axis_name)", "values.items()}, None)", "evaluation: devices apart"),
    ),
    "collectives": (
        ("mean_over_devices", "jax.lax.pmean", "jax.lax.psum", "a sum"),
        ("sum_over_devices", "psum(", "pmean(", "a mean"),
        ("mean_over_devices", "jax.lax.pmean(x, axis_name)", "x", "devices apart"),
    ),
    "rng": (
        (
            "per_example",
            "jnp.asarray(index, jnp.uint32)",
            "jnp.asarray(index, jnp.uint32) * 0",
            "one key for all examples",
        ),
    ),
}
# The tests of modules without rows.
_TESTS = {
    "families.gan.sampling": "tests/families/gan/test_gan_sampling.py",
    "train.step": "tests/train/test_step.py",
    "collectives": "tests/test_collectives.py",
    "rng": "tests/test_rng.py",
}
MUTANTS = tuple(
    Mutant(f"gen_jax.{module}.{function}", old, new, bug, *(test or [_TESTS.get(module, "")]))
    for module, changes in _CHANGES.items()
    for function, old, new, bug, *test in changes
)


def place_of(function: str) -> tuple[pathlib.Path, list[str]]:
    """Where a function is: the file of its module, from the root, and its name there, after its class if it has one."""
    parts = function.split(".")
    depth = 2 if parts[-2].lstrip("_")[:1].isupper() else 1
    return pathlib.Path(*parts[:-depth]).with_suffix(".py"), parts[-depth:]


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
    node: Any = ast.parse(source)
    for name in place_of(mutant.function)[1]:
        [node] = [child for child in node.body if getattr(child, "name", "") == name] or [None]
        if node is None:
            raise ValueError(f"There is no function {mutant.function}.")
    lines = source.splitlines(keepends=True)
    first = node.body[1].lineno if ast.get_docstring(node) else node.body[0].lineno
    code = "".join(lines[first - 1 : node.end_lineno])
    if code.count(mutant.old) != 1:
        raise ValueError(f"{mutant.function} has {mutant.old!r} {code.count(mutant.old)} times; expected it once.")
    return "".join(lines[: first - 1]) + code.replace(mutant.old, mutant.new) + "".join(lines[node.end_lineno :])


def proof_of(mutant: Mutant, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Pytest's name of the test of a mutant's function: its own, or that of the row of the function or of its class."""
    row = rows.get(mutant.function) or rows.get(mutant.function.rpartition(".")[0]) or {}
    return mutant.test or row["test"]


def run_tests(names: Iterable[str], copy: pathlib.Path) -> str:
    """Runs tests up to the first that fails.

    Args:
      names: of tests or of files of them, as pytest has them.
      copy: of the checkout, whose code is tested.

    Returns:
      What pytest said of the one that failed; "" where all passed.

    Raises:
      RuntimeError: where the tests cannot be run.
    """
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    names = list(names)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, _FAILED):
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise RuntimeError(f"pytest ended with status {done.returncode} on {' '.join(names)}: {said}")
    return done.stdout[-2000:] if done.returncode else ""


def judge(mutant: Mutant, test: str, copy: pathlib.Path) -> str:
    """Whether a test sees the change.

    Args:
      mutant: the change.
      test: pytest's name of the test that proves its function, or of the file of its tests.
      copy: of the checkout, in which nothing else is changed.

    Returns:
      "caught", "caught by its file", or "SURVIVED".

    Raises:
      RuntimeError: where the tests cannot be run.
    """
    path = copy / place_of(mutant.function)[0]
    source = path.read_text(encoding="utf-8")
    path.write_text(mutate(source, mutant), encoding="utf-8")
    try:
        if run_tests([test], copy):
            return "caught"
        file, _, name = test.partition("::")
        return "caught by its file" if name and run_tests([file], copy) else "SURVIVED"
    finally:
        path.write_text(source, encoding="utf-8")


def copy_checkout(folder: pathlib.Path) -> None:
    """Copies the files of the checkout that git tracks, or would: neither what is ignored nor what was deleted."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def main(wanted: list[str]) -> int:
    """Judges the mutants, two at a time, and prints what became of each.

    Args:
      wanted: parts of the names of functions; none for all.

    Returns:
      How many survived; 1 where there are none of that name, or where a test fails without any mutant.
    """
    rows = tomllib.loads((ROOT / "tests" / "equations.toml").read_text(encoding="utf-8"))["rows"]
    mutants = [m for m in MUTANTS if not wanted or any(part in m.function for part in wanted)]
    if not mutants:
        print(f"No mutant's function has {' or '.join(wanted)} in its name; MUTANTS in tests/mutations.py lists them.")
        return 1
    tests = [proof_of(mutant, rows) for mutant in mutants]
    copies: queue.Queue[pathlib.Path] = queue.Queue()

    def one(mutant: Mutant, test: str) -> str:
        copy = copies.get()
        try:
            return judge(mutant, test, copy)
        finally:
            copies.put(copy)

    def passes_unchanged(names: Iterable[str]) -> bool:
        said = run_tests(dict.fromkeys(names), pathlib.Path(folder, "0"))
        if said:
            print(f"{said}\nA test fails without any mutant, so what it says of mutants means nothing.")
        return not said

    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            copy_checkout(pathlib.Path(folder, str(number)))
            copies.put(pathlib.Path(folder, str(number)))
        if not passes_unchanged(tests):
            return 1
        survivors, by_file = 0, []
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            verdicts = pool.map(one, mutants, tests)
            for mutant, test, verdict in zip(mutants, tests, verdicts, strict=True):
                survivors += verdict == "SURVIVED"
                by_file += [test.split("::")[0]] if verdict == "caught by its file" else []
                print(f"{verdict:20} {mutant.function.removeprefix('gen_jax.'):62} {mutant.bug}", flush=True)
        print(f"{len(mutants)} mutants, {survivors} survived")
        return survivors if not by_file or passes_unchanged(by_file) else 1


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
