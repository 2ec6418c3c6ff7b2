"""What a test set says of a diffusion model: the losses at a few steps of each example, or the whole likelihood."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, Params, Values
from gen_jax.families.diffusion.continuous import Continuous, in_continuous_time
from gen_jax.families.diffusion.exact import best_epsilon
from gen_jax.families.diffusion.likelihood import (
    bound_terms,
    density_bits_per_dim,
    probability_flow,
    step_levels,
    variational_bound,
)
from gen_jax.families.diffusion.losses import l_prior
from gen_jax.families.diffusion.objectives import Diffusion, predictor
from gen_jax.families.diffusion.parameterization import clip_to_unit
from gen_jax.families.diffusion.process import Process, at, q_sample, told_time
from gen_jax.families.diffusion.strata import doubling_strata, draw_in_strata, even_strata, stratified_sum
from gen_jax.ops import pixels
from gen_jax.ops.distributions import gaussian_log_likelihood, mixture_log_density


def _labels(batch: Batch, diffusion: Diffusion, repeats: int) -> Array | None:
    """The labels of a batch for a network that sees every example so many times in a row."""
    return jnp.repeat(jnp.asarray(batch["label"], jnp.int32), repeats) if diffusion.num_classes else None


def image_values(params: Params, key: Key, batch: Batch, *, diffusion: Diffusion) -> Values:
    """Unbiased estimates of L_simple and of the bound, each image at one step of every doubling stratum.

    By `strata.stratified_sum`: Σ_s n_s L_{t_s − 1} for the bound less L_T, Σ_s n_s ‖ε − ε_θ‖² / T D for L_simple.

    Args:
      params: of the network.
      key: the root key.
      batch: `image` [B, H, W, C] uint8, `index` [B], and `label` [B] where the model has classes.
      diffusion: the model.

    Returns:
      `simple`, and in bits/dim `vlb` and `prior`, [B] each.
    """
    process, x0 = diffusion.process, pixels.examples_of(batch)
    edges = doubling_strata(process.num_steps)
    keys = rng.in_evaluation(key, "bound", batch["index"])
    t = jax.vmap(lambda k: draw_in_strata(rng.stream(k, "strata"), edges))(keys)
    predict = predictor(params, _labels(batch, diffusion, t.shape[1]), diffusion=diffusion)
    terms = bound_terms(process, predict, x0, keys, t, **_options(diffusion))
    widths = np.diff(edges)
    return {
        "simple": stratified_sum(terms["simple"], widths) / process.num_steps,
        "vlb": stratified_sum(terms["vlb"], widths),
        "prior": jax.vmap(lambda x: l_prior(process, x))(x0),
    }


def image_terms(params: Params, key: Key, batch: Batch, *, diffusion: Diffusion, steps: np.ndarray) -> Values:
    """The losses of images at some steps, where along the process they are.

    Args:
      params: of the network.
      key: the root key.
      batch: as in `image_values`.
      diffusion: the model.
      steps: [S] int, the same for all.

    Returns:
      As `likelihood.bound_terms`, [B, S] each.
    """
    x0 = pixels.examples_of(batch)
    keys = rng.in_evaluation(key, "terms", batch["index"])
    predict = predictor(params, _labels(batch, diffusion, len(steps)), diffusion=diffusion)
    return bound_terms(diffusion.process, predict, x0, keys, jnp.asarray(steps), **_options(diffusion))


def likelihood_values(
    params: Params,
    key: Key,
    batch: Batch,
    *,
    diffusion: Diffusion,
    whole: bool = True,
    chunk_size: int = 1,
    flow_steps: int = 0,
) -> Values:
    """The whole variational bound of every image, and the probability flow's code length where it is asked for.

    Args:
      params: of the network.
      key: the root key.
      batch: as in `image_values`.
      diffusion: the model.
      whole: whether the bound is taken at all steps; if not, `image_values` estimates it.
      chunk_size: how many steps go through the network at once.
      flow_steps: how many steps the differential equation is solved in; 0 for none.

    Returns:
      What `bound_values` or `image_values` gives, and `flow` [B] bits/dim where it is asked for.

    Raises:
      ValueError: where the flow is asked for and the timesteps of the process do not increase.
    """
    if whole:
        values = bound_values(params, key, batch, diffusion=diffusion, chunk_size=chunk_size)
    else:
        values = image_values(params, key, batch, diffusion=diffusion)
    if flow_steps:
        values["flow"] = flow_bits(params, key, batch, diffusion=diffusion, num_steps=flow_steps)
    return values


def bound_values(params: Params, key: Key, batch: Batch, *, diffusion: Diffusion, chunk_size: int) -> Values:
    """The whole variational bound of every image.

    Args:
      params: of the network.
      key: the root key.
      batch: as in `image_values`.
      diffusion: the model.
      chunk_size: how many steps go through the network at once.

    Returns:
      `simple` [B]; in bits/dim `vlb`, `prior` and `decoder` (L_0, a part of `vlb`), [B] each.
    """
    x0 = pixels.examples_of(batch)
    keys = rng.in_evaluation(key, "likelihood", batch["index"])
    predict = predictor(params, _labels(batch, diffusion, chunk_size), diffusion=diffusion)
    terms = variational_bound(diffusion.process, predict, x0, keys, chunk_size=chunk_size, **_options(diffusion))
    return {
        "simple": jnp.mean(terms["simple"], axis=1),
        "vlb": jnp.sum(terms["vlb"], axis=1),
        "prior": terms["prior"],
        "decoder": terms["vlb"][:, 0],
    }


def flow_bits(params: Params, key: Key, batch: Batch, *, diffusion: Diffusion, num_steps: int) -> Array:
    """The code length of images by the probability-flow ODE, of one dequantised draw of each.

    Args:
      params: of the network.
      key: the root key.
      batch: as in `image_values`.
      diffusion: the model.
      num_steps: of Heun's method, between as many of the process's own levels.

    Returns:
      [B] bits/dim.

    Raises:
      ValueError: where the timesteps of the process do not increase.
    """
    keys = rng.in_evaluation(key, "flow", batch["index"])
    unit = jax.vmap(pixels.uniform_dequantization)(
        jax.vmap(lambda k: rng.stream(k, "dequantize"))(keys), batch["image"]
    )
    continuous: Continuous = in_continuous_time(diffusion.process)
    predict_both = predictor(params, _labels(batch, diffusion, 1), diffusion=diffusion)

    def predict(x_t: Array, time: Array) -> Array:
        output = predict_both(x_t, time)
        return output[..., : x_t.shape[-1]]

    log_density, _ = probability_flow(
        continuous,
        predict,
        2.0 * unit - 1.0,
        keys,
        flow_levels(diffusion.process, num_steps),
        prediction=diffusion.prediction,
    )
    return density_bits_per_dim(log_density, math.prod(unit.shape[1:]))


def flow_levels(process: Process, num_steps: int) -> np.ndarray:
    """Levels of a process for the differential equation, near even distances of λ.

    Args:
      process: the forward process.
      num_steps: N ≥ 1.

    Returns:
      [N + 1] or fewer λ, falling, all of them levels that the network was trained at.
    """
    levels = step_levels(process)
    wanted = np.linspace(levels[0], levels[-1], num_steps + 1)
    return levels[np.unique([np.abs(levels - level).argmin() for level in wanted])]


def _options(diffusion: Diffusion) -> dict[str, Any]:
    return {"prediction": diffusion.prediction, "variance": diffusion.variance, "constrain": clip_to_unit}


def image_report(means: dict[str, np.ndarray]) -> dict[str, float]:
    """The numbers people read: the loss, and the bound on the code length with its parts.

    Args:
      means: over the test set, as `image_values` or `likelihood_values` name them.

    Returns:
      `l_simple`; `bits_per_dim`, the bound on the code length, and `prior_bits_per_dim`, its part L_T; from the whole
      bound `distortion_bits_per_dim` (L_0), `rate_bits_per_dim` (the rest), and `flow_bits_per_dim` where it was asked
      for.
    """
    total = float(means["vlb"] + means["prior"])
    numbers = {
        "l_simple": float(means["simple"]),
        "bits_per_dim": total,
        "prior_bits_per_dim": float(means["prior"]),
    }
    if "decoder" in means:
        distortion = float(means["decoder"])
        numbers |= {"distortion_bits_per_dim": distortion, "rate_bits_per_dim": total - distortion}
    if "flow" in means:
        numbers["flow_bits_per_dim"] = float(means["flow"])
    return numbers


def point_values(
    params: Params,
    key: Key,
    batch: Batch,
    *,
    diffusion: Diffusion,
    centres: np.ndarray,
    std: float,
    num_strata: int = 20,
) -> Values:
    """L_simple of points of a mixture of Gaussians, and the least that it can be, at the same steps and noise.

    Unbiased estimates of both by `strata.stratified_sum`, each point at one step of every even stratum.

    Args:
      params: of the network.
      key: the root key.
      batch: `point` [B, 2], `index` [B], and `label` [B] where the model has classes.
      diffusion: the model; it predicts ε.
      centres: [K, 2] of the mixture.
      std: of each mode.
      num_strata: at so many steps of each point, one of every range of equal length.

    Returns:
      `simple` and `best` [B].
    """
    process, x0 = diffusion.process, pixels.examples_of(batch)
    edges = even_strata(process.num_steps, num_strata)
    keys = rng.in_evaluation(key, "loss", batch["index"])
    t = jax.vmap(lambda k: draw_in_strata(rng.stream(k, "strata"), edges))(keys).reshape(-1)
    epsilon = jax.vmap(lambda k: jax.random.normal(rng.stream(k, "noise"), (num_strata, *x0.shape[1:])))(keys)
    epsilon = epsilon.reshape(-1, *x0.shape[1:])
    x_t = jax.vmap(lambda x, t, e: q_sample(process, x, t, e))(jnp.repeat(x0, num_strata, axis=0), t, epsilon)
    predict = predictor(params, _labels(batch, diffusion, num_strata), diffusion=diffusion)
    predicted = predict(x_t, told_time(process, t))
    best = jax.vmap(lambda x, s, n: best_epsilon(x, s, n, centres, std))(
        x_t, at(process.signal, t, x0), at(process.noise, t, x0)
    )
    shares = np.diff(edges) / process.num_steps
    return {
        name: stratified_sum(jnp.mean((guess - epsilon) ** 2, axis=-1).reshape(-1, num_strata), shares)
        for name, guess in {"simple": predicted, "best": best}.items()
    }


def point_terms(
    params: Params,
    key: Key,
    batch: Batch,
    *,
    diffusion: Diffusion,
    centres: np.ndarray,
    std: float,
    steps: np.ndarray,
) -> Values:
    """The losses of points at some steps, and the least that L_simple can be there.

    Args:
      params: of the network.
      key: the root key.
      batch: as in `point_values`.
      diffusion: the model; it predicts ε.
      centres: [K, 2] of the mixture.
      std: of each mode.
      steps: [S] int, the same for all.

    Returns:
      `simple`, `best`, and `vlb` in bits/dim with a Gaussian decoder of the last step, whose density is of x_0 itself:
      [B, S] each.
    """
    process, x0 = diffusion.process, pixels.examples_of(batch)
    keys = rng.in_evaluation(key, "terms", batch["index"])

    options: dict[str, Any] = {"variance": diffusion.variance, "decoder": gaussian_log_likelihood}

    def best(x_t: Array, time: Array) -> Array:
        t = jnp.tile(jnp.asarray(steps, jnp.int32), len(keys))
        levels = at(process.signal, t, x_t), at(process.noise, t, x_t)
        return jax.vmap(lambda x, s, n: best_epsilon(x, s, n, centres, std))(x_t, *levels)

    predict = predictor(params, _labels(batch, diffusion, len(steps)), diffusion=diffusion)
    terms = bound_terms(process, predict, x0, keys, jnp.asarray(steps), **options)
    least = bound_terms(process, best, x0, keys, jnp.asarray(steps), **options)
    return {"simple": terms["simple"], "best": least["simple"], "vlb": terms["vlb"]}


def point_likelihood_values(
    params: Params,
    key: Key,
    batch: Batch,
    *,
    diffusion: Diffusion,
    centres: np.ndarray,
    std: float,
    chunk_size: int = 10,
    flow_steps: int = 200,
) -> Values:
    """What the model says of the density of points, in two ways, and what it is.

    The bound is of the density of the data, log q(x_0), which it cannot exceed on average. The flow ends at the first
    level's noise, and so is of the density of x_0 + √(1 − ᾱ_0) / √ᾱ_0 z: a mixture as well, whose modes are wider.

    Args:
      params: of the network.
      key: the root key.
      batch: as in `point_values`.
      diffusion: the model.
      centres: [K, 2] of the mixture.
      std: of each mode.
      chunk_size: how many steps of the bound go through the network at once.
      flow_steps: how many steps the differential equation is solved in, its divergence taken exactly.

    Returns:
      In nats, `bound` and `density`, `flow` and `blurred_density`, [B] each; and what `point_values` gives.

    Raises:
      ValueError: where the timesteps of the process do not increase.
    """
    process, x0 = diffusion.process, pixels.examples_of(batch)
    keys = rng.in_evaluation(key, "likelihood", batch["index"])
    options: dict[str, Any] = {"prediction": diffusion.prediction, "decoder": gaussian_log_likelihood}
    predict = predictor(params, _labels(batch, diffusion, chunk_size), diffusion=diffusion)
    bound = variational_bound(process, predict, x0, keys, chunk_size=chunk_size, variance="beta", **options)["total"]
    flow, _ = probability_flow(
        in_continuous_time(process),
        predictor(params, _labels(batch, diffusion, 1), diffusion=diffusion),
        x0,
        keys,
        flow_levels(diffusion.process, flow_steps),
        prediction=diffusion.prediction,
        trace="exact",
    )
    blur = float(process.noise[0] / process.signal[0])
    return point_values(params, key, batch, diffusion=diffusion, centres=centres, std=std) | {
        "bound": -math.log(2) * math.prod(x0.shape[1:]) * bound,
        "density": jax.vmap(lambda x: mixture_log_density(x, centres, std))(x0),
        "flow": flow,
        "blurred_density": jax.vmap(lambda x: mixture_log_density(x, centres, math.hypot(std, blur)))(x0),
    }


def point_report(means: dict[str, np.ndarray]) -> dict[str, float]:
    """The numbers people read: the loss, its least possible value, and how far the one is above the other.

    Args:
      means: over the test set, as `point_values` names them.

    Returns:
      `l_simple`, `best_l_simple`, and `above_best_percent`; of `point_likelihood_values` also `bound_nats` and
      `density_nats`, which is never smaller, and `flow_nats` and `blurred_density_nats`, which are alike where the
      model is right.
    """
    simple, best = float(means["simple"]), float(means["best"])
    numbers = {"l_simple": simple, "best_l_simple": best, "above_best_percent": 100 * (simple / best - 1)}
    names = ("bound", "density", "flow", "blurred_density")
    return numbers | {f"{name}_nats": float(means[name]) for name in names if name in means}
