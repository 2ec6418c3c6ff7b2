"""What a network may predict, how one prediction becomes another, and the reverse step that follows from it.

Everything here is of ONE example and one step; the caller maps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array
from gen_jax.families.diffusion.process import Process, at, q_posterior

PREDICTIONS = ("epsilon", "x0", "v", "score")
VARIANCES = ("fixed_large", "fixed_small", "beta", "learned")


class Reverse(NamedTuple):
    """A reverse step p(x_{t−1} | x_t) = N(mean, Σ) and what it was made of; all of the shape of x_t.

    Attributes:
      mean: μ_θ.
      log_var: log Σ, diagonal.
      x0: the x_0 that the network believes in.
      epsilon: the ε that goes with it.
    """

    mean: Array
    log_var: Array
    x0: Array
    epsilon: Array


def clip_to_unit(x0: Array) -> Array:
    """Cuts a predicted x_0 to [−1, 1], as DDPM does at every step of sampling images.

    Args:
      x0: [...].

    Returns:
      [...].
    """
    return jnp.clip(x0, -1.0, 1.0)


def prediction_target(prediction: str, x0: Array, epsilon: Array, signal: Array, noise: Array) -> Array:
    """What a network of a kind should have predicted.

    ε;  x_0;  v = √ᾱ ε − √(1 − ᾱ) x_0;  score ∇ log q(x_t | x_0) = −ε / √(1 − ᾱ)

    For v see "Progressive Distillation for Fast Sampling of Diffusion Models", Salimans and Ho, 2022
    (arXiv:2202.00512), Section 4.

    Args:
      prediction: one of `PREDICTIONS`.
      x0: [...].
      epsilon: [...].
      signal: [] √ᾱ.
      noise: [] √(1 − ᾱ).

    Returns:
      [...].

    Raises:
      ValueError: where the kind is another one.
    """
    if prediction == "epsilon":
        return epsilon
    if prediction == "x0":
        return x0
    if prediction == "v":
        return signal * epsilon - noise * x0
    if prediction == "score":
        return -epsilon / noise
    raise ValueError(f"prediction='{prediction}' is unknown; expected one of {PREDICTIONS}.")


def x0_and_epsilon(prediction: str, output: Array, x_t: Array, signal: Array, noise: Array) -> tuple[Array, Array]:
    """The pair (x_0, ε) with x_t = √ᾱ x_0 + √(1 − ᾱ) ε that a prediction of any kind names.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 4, and for v "Progressive
    Distillation for Fast Sampling of Diffusion Models", Salimans and Ho, 2022 (arXiv:2202.00512), Section 4.

    Args:
      prediction: one of `PREDICTIONS`.
      output: [...] the prediction.
      x_t: [...].
      signal: [] √ᾱ.
      noise: [] √(1 − ᾱ).

    Returns:
      x_0 [...] and ε [...].

    Raises:
      ValueError: where the kind is another one.
    """
    if prediction == "v":
        return signal * x_t - noise * output, noise * x_t + signal * output
    if prediction == "x0":
        return output, (x_t - signal * output) / noise
    if prediction == "score":
        output = -noise * output
    elif prediction != "epsilon":
        raise ValueError(f"prediction='{prediction}' is unknown; expected one of {PREDICTIONS}.")
    return (x_t - noise * output) / signal, output


def convert(output: Array, x_t: Array, signal: Array, noise: Array, *, source: str, target: str) -> Array:
    """A prediction of one kind as one of another.

    See "Progressive Distillation for Fast Sampling of Diffusion Models", Salimans and Ho, 2022 (arXiv:2202.00512),
    Section 4.

    Args:
      output: [...] of the kind `source`.
      x_t: [...].
      signal: [] √ᾱ.
      noise: [] √(1 − ᾱ).
      source: one of `PREDICTIONS`.
      target: one of `PREDICTIONS`.

    Returns:
      [...] of the kind `target`; `output` itself where the kinds are the same.

    Raises:
      ValueError: where the kinds differ and one of them is unknown.
    """
    if source == target:
        return output
    x0, epsilon = x0_and_epsilon(source, output, x_t, signal, noise)
    return prediction_target(target, x0, epsilon, signal, noise)


def split_output(output: Array, variance: str | np.ndarray) -> tuple[Array, Array | None]:
    """A network's output as its prediction and, where the variance is learned, what says the variance.

    Args:
      output: [..., C], or [..., 2 C] with a learned variance.
      variance: as in `reverse`.

    Returns:
      The prediction [..., C], and v [..., C] or None.
    """
    if isinstance(variance, str) and variance == "learned":
        prediction, v = jnp.split(output, 2, axis=-1)
        return prediction, v
    return output, None


def log_var_table(process: Process, variance: str) -> np.ndarray:
    """The logarithm of a fixed variance of the reverse steps.

    "fixed_small": β̃; "fixed_large": β; both with β̃ of the second step at the first one, as in DDPM's code. "beta": β
    at every step, the first included.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Section 3.2: β is best for
    x_0 ~ N(0, I), β̃ for one point.

    Args:
      process: the process.
      variance: one of these names.

    Returns:
      [T] float64.

    Raises:
      ValueError: where the name is another one.
    """
    if variance == "fixed_small":
        return process.posterior_log_var
    log_betas = np.log(process.betas)
    if variance == "fixed_large":
        return np.append(process.posterior_log_var[:1], log_betas[1:])
    if variance == "beta":
        return log_betas
    raise ValueError(f"variance='{variance}' is not a fixed one; expected one of {VARIANCES[:-1]}, or an array [T].")


def interpolated_log_var(process: Process, v: Array, t: Array) -> Array:
    """A learned variance between the two fixed ones.

    log Σ = f log β + (1 − f) log β̃,  f = (v + 1) / 2

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Eq. 15,
    where the network says f itself; that it says v is its code's way.

    Args:
      process: the process.
      v: [...] what the network says, meant to be in [−1, 1]; nothing holds it there, as in the paper.
      t: [] int.

    Returns:
      [...].
    """
    smallest = at(process.posterior_log_var, t, v)
    largest = at(np.log(process.betas), t, v)
    fraction = (v + 1) / 2
    return fraction * largest + (1 - fraction) * smallest


def reverse(
    process: Process,
    output: Array,
    x_t: Array,
    t: Array,
    *,
    prediction: str = "epsilon",
    variance: str | np.ndarray = "fixed_large",
    constrain: Callable[[Array], Array] | None = None,
) -> Reverse:
    """The reverse step of one example: the posterior with the network's x_0 in the place of the true one.

    p(x_{t−1} | x_t) = N(μ̃(x_t, x̂_0), Σ)

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 7 and 11: without a
    constraint the mean is the latter's, (x_t − β_t / √(1 − ᾱ_t) ε) / √α_t.

    Args:
      process: the process.
      output: [..., C] what the network said, or [..., 2 C] with a learned variance.
      x_t: [..., C].
      t: [] int.
      prediction: what it predicts, one of `PREDICTIONS`.
      variance: one of `VARIANCES`, or log-variances [T] of any other choice.
      constrain: maps the predicted x_0 [...] to one that may be, such as `clip_to_unit`; None for none.

    Returns:
      The step.

    Raises:
      ValueError: where a name is another one, or the output has other channels than the variance asks for.
    """
    signal, noise = at(process.signal, t, x_t), at(process.noise, t, x_t)
    output, v = split_output(output, variance)
    if output.shape != x_t.shape:
        raise ValueError(
            f"The network's prediction is {output.shape} where x_t is {x_t.shape}; it has as many channels, and "
            "an output with a learned variance twice as many."
        )
    x0, epsilon = x0_and_epsilon(prediction, output, x_t, signal, noise)
    if constrain is not None:
        x0 = constrain(x0)
        epsilon = (x_t - signal * x0) / noise
    mean, _ = q_posterior(process, x0, x_t, t)
    if v is not None:
        log_var = interpolated_log_var(process, v, t)
    else:
        table = log_var_table(process, variance) if isinstance(variance, str) else variance
        log_var = jnp.full_like(x_t, at(table, t, x_t))
    return Reverse(mean, log_var, x0, epsilon)
