"""How likely an example is: the variational bound over all steps, and the density along the probability-flow ODE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Key, Terms
from gen_jax.families.diffusion.continuous import Continuous, signal_and_noise
from gen_jax.families.diffusion.losses import (
    Decoder,
    discretized_gaussian_log_likelihood,
    l_prior,
    l_simple,
    l_vlb,
)
from gen_jax.families.diffusion.parameterization import prediction_target, reverse, split_output, x0_and_epsilon
from gen_jax.families.diffusion.process import Process, at, diffuse, told_time
from gen_jax.families.diffusion.samplers import Predict
from gen_jax.ops.distributions import bits_per_dim, density_to_levels, gaussian_log_likelihood

SOLVERS = ("heun", "rk4")
TRACES = ("hutchinson", "exact")


def bound_terms(
    process: Process,
    predict: Predict,
    x0: Array,
    keys: Key,
    steps: Array,
    *,
    prediction: str = "epsilon",
    variance: str | np.ndarray = "fixed_large",
    constrain: Callable[[Array], Array] | None = None,
    decoder: Decoder = discretized_gaussian_log_likelihood,
) -> Terms:
    """The bound's terms of a batch at some steps, with one x_t for each; pure, for a loop of one's own.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 5.

    Args:
      process: the process.
      predict: the network; it sees B · S examples at once.
      x0: [B, ...].
      keys: [B]; the noise of an example at a step depends on its key and the step alone.
      steps: [S] int, or [B, S] where every example has its own.
      prediction: as in `parameterization.reverse`.
      variance: as in `parameterization.reverse`.
      constrain: as in `parameterization.reverse`; DDPM clips here too.
      decoder: as in `losses.l_vlb`.

    Returns:
      [B, S] each: `vlb` in bits/dim; `simple`, the mean squared error of what the network predicts, as in training; and
      the mean squared errors `epsilon_mse` and `x0_mse` of what the step believes in, once it is constrained.

    Raises:
      ValueError: where a name is another one, or the output has other channels than the variance asks for.
    """
    count, num = x0.shape[0], steps.shape[-1]
    t = jnp.broadcast_to(jnp.asarray(steps, jnp.int32), (count, num)).reshape(-1)  # [B S], example by example.
    x0 = jnp.repeat(x0, num, axis=0)
    noise_keys = jax.vmap(lambda key, t: rng.at_step(rng.stream(key, "bound"), t))(jnp.repeat(keys, num), t)
    x_t, epsilon = diffuse(process, x0, t, noise_keys)
    output = predict(x_t, told_time(process, t))

    def of_one(output: Array, x0: Array, x_t: Array, t: Array, epsilon: Array) -> Terms:
        step = reverse(process, output, x_t, t, prediction=prediction, variance=variance, constrain=constrain)
        predicted, _ = split_output(output, variance)
        target = prediction_target(prediction, x0, epsilon, at(process.signal, t, x0), at(process.noise, t, x0))
        return {
            "simple": l_simple(target, predicted),
            "vlb": l_vlb(process, x0, x_t, t, step.mean, step.log_var, decoder),
            "epsilon_mse": jnp.mean((step.epsilon - epsilon) ** 2),
            "x0_mse": jnp.mean((step.x0 - x0) ** 2),
        }

    terms = jax.vmap(of_one)(output, x0, x_t, t, epsilon)
    return jax.tree.map(lambda a: a.reshape(count, num), terms)


def variational_bound(
    process: Process, predict: Predict, x0: Array, keys: Key, *, chunk_size: int = 1, **options: Any
) -> Terms:
    """The whole variational bound of each example: L_T + Σ_t L_{t−1}, with one x_t at each of the T steps.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 5. It is exact but for the
    draw of x_t, and −log₂ p(x_0) / D is at most its expectation.

    Args:
      process: the process.
      predict: the network.
      x0: [B, ...].
      keys: [B].
      chunk_size: how many steps go through the network at once; the result does not depend on it.
      **options: of `bound_terms`.

    Returns:
      In bits/dim, `total` [B] and its parts `prior` [B] and `vlb` [B, T] (L_0 first); and the mean squared errors
      `simple`, `epsilon_mse` and `x0_mse` [B, T].

    Raises:
      ValueError: as in `bound_terms`.
    """
    num_steps = process.num_steps
    # The last chunk is filled up with the last step, and what it gives for it once more is left out.
    padded = np.minimum(np.arange(-(-num_steps // chunk_size) * chunk_size), num_steps - 1).reshape(-1, chunk_size)
    terms = jax.lax.map(lambda steps: bound_terms(process, predict, x0, keys, steps, **options), jnp.asarray(padded))
    terms = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1).reshape(x0.shape[0], -1)[:, :num_steps], terms)
    prior = jax.vmap(lambda x: l_prior(process, x))(x0)
    return terms | {"prior": prior, "total": prior + jnp.sum(terms["vlb"], axis=1)}


def step_levels(process: Process) -> np.ndarray:
    """The noise levels of a process as a grid for `probability_flow`, at which a trained network knows its way.

    Args:
      process: of T steps.

    Returns:
      [T] λ, falling.
    """
    return np.log(process.snr)


def probability_flow(
    continuous: Continuous,
    predict: Predict,
    x0: Array,
    keys: Key,
    levels: np.ndarray,
    *,
    prediction: str = "epsilon",
    solver: str = "heun",
    trace: str = "hutchinson",
    num_probes: int = 1,
) -> tuple[Array, Array]:
    """The log-density of examples by the change of variables along the deterministic path to the prior.

    With u = −λ/2 = log √((1 − ᾱ) / ᾱ) the path is dx/du = f = √(1 − ᾱ) (ε(x, t) − √(1 − ᾱ) x) from x = √ᾱ_0 x_0, and
    log p(x_0) = log N(x_1; 0, I) + ∫ ∇·f du + D log √ᾱ_0

    See "Score-Based Generative Modeling through Stochastic Differential Equations", Song et al., 2021
    (arXiv:2011.13456), Eq. 13 and Section 4.3, with u in the place of time, in which the path is smooth at both ends.
    It is the density of x_0 + e^{u_0} z, z ~ N(0, I): the first level's noise blurs the data's.

    Args:
      continuous: what tells the network the time of a level.
      predict: the network; told times are floating-point. It must not mix examples.
      x0: [B, ...].
      keys: [B], for the probes; without use for an exact trace.
      levels: [N + 1] λ, falling, from the data's end to the prior's.
      prediction: what the network predicts, one of `parameterization.PREDICTIONS`.
      solver: "heun", second order, two evaluations a step and none between levels; or "rk4", fourth order, four.
      trace: "hutchinson", unbiased for the density's logarithm but for the solver's error, or "exact", at D times the
        cost.
      num_probes: how many random directions the first one averages, the same along the whole path.

    Returns:
      [B] nats per the unit of volume in which x_0 is measured, and where the paths end: x_1 [B, ...].

    Raises:
      ValueError: where the solver or the trace is another one, or the levels do not fall.
    """
    if solver not in SOLVERS or trace not in TRACES:
        raise ValueError(f"solver='{solver}' or trace='{trace}' is unknown; expected one of {SOLVERS}, of {TRACES}.")
    if not (np.diff(levels) < 0).all():
        raise ValueError("The levels must fall strictly, from little noise to much.")
    directions = _directions(x0, keys, trace, num_probes)

    def field(u: Array, x: Array) -> Array:
        log_snr = -2 * u
        signal, noise = signal_and_noise(log_snr)
        time = jnp.full(x.shape[:1], continuous.time(log_snr))
        epsilon = x0_and_epsilon(prediction, predict(x, time), x, signal, noise)[1]
        return noise * (epsilon - noise * x)

    def rate(u: Array, x: Array) -> tuple[Array, Array]:
        """The path's direction [B, ...] and the divergence there [B]."""
        value, push = jax.linearize(lambda x: field(u, x), x)
        along = jax.vmap(lambda z: jnp.sum((z * push(z)).reshape(z.shape[0], -1), axis=1))(directions)
        return value, jnp.sum(along, axis=0) if trace == "exact" else jnp.mean(along, axis=0)

    def step(carry: tuple[Array, Array], ends: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        return _solve[solver](rate, carry, *ends), None

    grid = jnp.asarray(-0.5 * np.asarray(levels), x0.dtype)
    signal, _ = signal_and_noise(-2 * grid[0])
    start = (signal * x0, jnp.zeros(x0.shape[:1], x0.dtype))
    (x1, integral), _ = jax.lax.scan(step, start, (grid[:-1], grid[1:]))
    prior = jax.vmap(lambda x: gaussian_log_likelihood(x, jnp.zeros_like(x), jnp.zeros((), x.dtype)))(x1)
    return prior + integral + math.prod(x0.shape[1:]) * jnp.log(signal), x1


def _directions(x0: Array, keys: Key, trace: str, num_probes: int) -> Array:
    """[P, B, ...] along which the divergence is taken: one axis each, or random signs."""
    if trace == "exact":
        num_dims = math.prod(x0.shape[1:])
        axes = jnp.eye(num_dims, dtype=x0.dtype).reshape(num_dims, 1, *x0.shape[1:])
        return jnp.broadcast_to(axes, (num_dims, *x0.shape))

    def probes(key: Key) -> Array:
        probe_keys = rng.numbered(key, "probe", num_probes)
        return jax.vmap(lambda key: jax.random.rademacher(key, x0.shape[1:], x0.dtype))(probe_keys)

    return jax.vmap(probes, out_axes=1)(keys)


def _move(carry: Any, step: Array, rate: Any) -> Any:
    return jax.tree.map(lambda a, b: a + step * b, carry, rate)


def _heun(rate: Callable[..., Any], carry: Any, u: Array, u_next: Array) -> Any:
    """One step of the trapezoidal rule with Euler's guess of the end."""
    h = u_next - u
    first = rate(u, carry[0])
    second = rate(u_next, carry[0] + h * first[0])
    return _move(carry, h / 2, _move(first, jnp.ones_like(h), second))


def _rk4(rate: Callable[..., Any], carry: Any, u: Array, u_next: Array) -> Any:
    """One step of the classical method of fourth order."""
    h = u_next - u
    first = rate(u, carry[0])
    second = rate(u + h / 2, carry[0] + h / 2 * first[0])
    third = rate(u + h / 2, carry[0] + h / 2 * second[0])
    fourth = rate(u_next, carry[0] + h * third[0])
    total = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth)
    return _move(carry, h, total)


_solve: dict[str, Callable[..., Any]] = {"heun": _heun, "rk4": _rk4}


def density_bits_per_dim(log_density: Array, num_dims: int, num_levels: int = 256, width: float = 2.0) -> Array:
    """The code length of levels from the log-density of their dequantised values.

    See "A note on the evaluation of generative models", Theis et al., 2016 (arXiv:1511.01844), Section 3.1.

    Args:
      log_density: [...] nats, of levels v as x = width · (v + u) / num_levels − 1 with u ~ U[0, 1).
      num_dims: D, channels counted.
      num_levels: how many levels there are, 256 for 8 bits.
      width: of the interval that holds all levels, 2 for [−1, 1).

    Returns:
      [...] bits/dim; exactly 8 for the uniform density on the interval and 256 levels.
    """
    unit = log_density + num_dims * math.log(width)  # On [0, 1).
    return bits_per_dim(density_to_levels(unit, num_dims, num_levels), num_dims)
