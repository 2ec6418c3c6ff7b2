"""The forward process: from data to noise in T steps, its tables, its posterior, and the choice of fewer steps.

The functions of arrays take ONE example and one step; the caller maps. A step outside 0 … T − 1 is not noticed under
`jit`: JAX takes the nearest table entry.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Key, UserError

SPACINGS = ("uniform", "even", "trailing", "quadratic", "log_snr")


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """A forward process as tables of float64 numbers, one a step; row t is the paper's t + 1. Made by `make_process`.

    Attributes:
      betas: [T] β, the variance that a step adds.
      alphas_bar: [T] ᾱ = Π (1 − β), how much of the data's variance is left after the step.
      alphas_bar_prev: [T] ᾱ before the step; 1 for the first.
      signal: [T] √ᾱ.
      noise: [T] √(1 − ᾱ).
      posterior_coef_x0: [T] the weight of x_0 in the mean of q(x_{t−1} | x_t, x_0); 1 for the first step.
      posterior_coef_xt: [T] the weight of x_t in it; 0 for the first step.
      posterior_variance: [T] β̃, its variance; 0 for the first step.
      posterior_log_var: [T] log β̃ with the second step's number in the place of the first step's log 0.
      timesteps: [T] what a network is told at each step, integers or not.
    """

    betas: np.ndarray
    alphas_bar: np.ndarray
    alphas_bar_prev: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    posterior_coef_x0: np.ndarray
    posterior_coef_xt: np.ndarray
    posterior_variance: np.ndarray
    posterior_log_var: np.ndarray
    timesteps: np.ndarray

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.betas)

    @property
    def snr(self) -> np.ndarray:
        """[T] ᾱ / (1 − ᾱ), the signal-to-noise ratio after each step."""
        return self.alphas_bar / self.noise**2


def linear_betas(num_steps: int, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """The schedule of DDPM: β from 1e-4 to 0.02 in equal steps.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Section 4, where T = 1000. For
    another T, `rescaled_linear_betas` ends at about the same noise.

    Args:
      num_steps: T.
      first: β of the first step.
      last: β of the last.

    Returns:
      [T] float64.
    """
    return np.linspace(first, last, num_steps, dtype=np.float64)


def rescaled_linear_betas(num_steps: int) -> np.ndarray:
    """The schedule of DDPM stretched to any number of steps: every β times 1000 / T.

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), and its
    code, which does so for T = 4000.

    Args:
      num_steps: T, more than 20: with fewer, a β is 1 or more.

    Returns:
      [T] float64.
    """
    return linear_betas(num_steps, 1e-4 * 1000 / num_steps, 0.02 * 1000 / num_steps)


def cosine_betas(num_steps: int, offset: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """The schedule whose ᾱ falls like a squared cosine.

    β_t = min(1 − f(t/T) / f((t − 1)/T), 0.999),  f(s) = cos²((s + 0.008) / 1.008 · π/2)

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Eq. 17 and
    the clipping after it.

    Args:
      num_steps: T.
      offset: s in the paper.
      largest: the largest β.

    Returns:
      [T] float64.
    """
    times = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    f = np.cos((times + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], largest)


def make_process(betas: np.ndarray | Sequence[float], timesteps: np.ndarray | Sequence[float] | None = None) -> Process:
    """Makes the tables of a forward process from its variances.

    q(x_t | x_{t−1}) = N(√(1 − β_t) x_{t−1}, β_t I)

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 2, 4, 6 and 7.

    Args:
      betas: [T] in (0, 1).
      timesteps: [T] what the network is told at each step; 0 … T − 1 if None. Nichol and Dhariwal's rescaled timesteps
        are `np.arange(T) * 1000 / T`.

    Returns:
      The tables.

    Raises:
      UserError: where there are no steps, or a β is not inside (0, 1).
      ValueError: where there are not as many timesteps as steps.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) == 0:
        raise UserError(f"A diffusion has steps in a row, and these betas have the shape {betas.shape}; give [T].")
    if not ((betas > 0) & (betas < 1)).all():  # A NaN is neither.
        raise UserError(
            f"Every beta must lie inside (0, 1), and these go from {betas.min():g} to {betas.max():g}; "
            "choose another schedule or more steps."
        )
    timesteps = np.arange(len(betas)) if timesteps is None else np.asarray(timesteps)
    if timesteps.shape != betas.shape:
        raise ValueError(f"There are {len(betas)} betas and timesteps of the shape {timesteps.shape}; they must agree.")
    alphas_bar = np.cumprod(1 - betas)
    prev = np.append(1.0, alphas_bar[:-1])
    # The variance of the noise, as a sum of positive terms: 1 − ᾱ would lose digits where ᾱ is near 1.
    noise_variance = -np.expm1(np.cumsum(np.log1p(-betas)))
    prev_variance = np.append(0.0, noise_variance[:-1])
    posterior_variance = betas * prev_variance / noise_variance  # Eq. 7.
    # The first step's variance is 0. A process of one step has no second to lend its own.
    second = posterior_variance[1] if len(betas) > 1 else betas[0]
    return Process(
        betas=betas,
        alphas_bar=alphas_bar,
        alphas_bar_prev=prev,
        signal=np.sqrt(alphas_bar),
        noise=np.sqrt(noise_variance),
        posterior_coef_x0=np.sqrt(prev) * betas / noise_variance,  # Eq. 7.
        posterior_coef_xt=np.sqrt(1 - betas) * prev_variance / noise_variance,
        posterior_variance=posterior_variance,
        posterior_log_var=np.log(np.append(second, posterior_variance[1:])),
        timesteps=timesteps,
    )


def spaced_steps(process: Process, count: int, spacing: str = "uniform") -> np.ndarray:
    """Chooses some of the steps of a process, in increasing order and each once.

    "uniform": ⌊i T / S⌋, with 0 and without T − 1: what DDIM calls linear; "even": both ends, as the code of Nichol and
    Dhariwal, 2021; "trailing": ends at T − 1, at equal distances; "quadratic": near (√(0.8 T) i / (S − 1))², DDIM's
    choice for CIFAR-10, which suits the linear schedule alone, as it ends at 0.8 T; "log_snr": both ends and, between
    them, equal distances of λ = ½ log SNR, which suit `samplers.dpm_solver`. Where rounding makes two steps one, the
    later moves on to the next. A single step is T − 1, whose x_t is noise.

    See "Denoising Diffusion Implicit Models", Song et al., 2021 (arXiv:2010.02502), Appendix D.2.

    Args:
      process: of T steps.
      count: S, 1 ≤ S ≤ T.
      spacing: one of `SPACINGS`.

    Returns:
      [S] int64, strictly increasing in 0 … T − 1.

    Raises:
      UserError: where S is not in 1 … T, or the spacing has another name.
    """
    num_steps = process.num_steps
    if not 1 <= count <= num_steps:
        raise UserError(f"{count} sampling steps of a process of {num_steps} cannot be; choose 1 to {num_steps}.")
    if spacing not in SPACINGS:
        raise UserError(f"The spacing '{spacing}' is unknown; choose one of {', '.join(SPACINGS)}.")
    if count == 1:
        return np.array([num_steps - 1])
    index = np.arange(count)
    if spacing == "uniform":
        steps = index * num_steps // count
    elif spacing == "even":
        steps = np.round(index * (num_steps - 1) / (count - 1)).astype(np.int64)
    elif spacing == "trailing":
        steps = (index + 1) * num_steps // count - 1
    elif spacing == "log_snr":
        half_log_snr = 0.5 * np.log(process.snr)
        wanted = np.linspace(half_log_snr[0], half_log_snr[-1], count)
        steps = np.abs(half_log_snr[None] - wanted[:, None]).argmin(axis=1)
    else:
        steps = np.floor((math.sqrt(0.8 * num_steps) * index / (count - 1)) ** 2).astype(np.int64)
    steps = np.maximum.accumulate(steps - index) + index  # Strictly increasing,
    return np.minimum(steps, num_steps - count + index)  # and still so below T.


def space(process: Process, steps: np.ndarray | Sequence[int]) -> Process:
    """The process that visits only some steps of another: the same marginals, and a network told the same times.

    β'_i = 1 − ᾱ_{τ_i} / ᾱ_{τ_{i−1}}

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Section 4,
    Eq. 19. Every sampler runs all steps of the process that it is given; for fewer, give it this one.

    Args:
      process: of T steps.
      steps: τ [S], strictly increasing in 0 … T − 1.

    Returns:
      The process of S steps, whose `timesteps` are those of the steps that were kept; all steps give the process back.

    Raises:
      UserError: where the steps are none, are no integers, are not of the process, repeat or fall.
    """
    steps = np.asarray(steps)
    inside = steps.ndim == 1 and len(steps) > 0 and steps[0] >= 0 and steps[-1] < process.num_steps
    if not inside or not np.issubdtype(steps.dtype, np.integer) or not (np.diff(steps) > 0).all():
        raise UserError(f"Kept steps must rise strictly inside 0 to {process.num_steps - 1}; these are {steps}.")
    if len(steps) == process.num_steps:
        return process
    # In logarithms, as 1 − a ratio near 1 loses digits.
    log_alphas_bar = np.cumsum(np.log1p(-process.betas))[steps]
    betas = -np.expm1(np.diff(log_alphas_bar, prepend=0.0))
    return make_process(betas, process.timesteps[steps])


def at(table: np.ndarray, t: Array, like: Array) -> Array:
    """An entry of a float64 table, in the type of the arrays that it meets.

    Args:
      table: [T].
      t: [...] int.
      like: any floating-point array.

    Returns:
      [...] in the type of `like`.
    """
    return jnp.asarray(table, like.dtype)[t]


def told_time(process: Process, t: Array) -> Array:
    """What the network is told at a step.

    Args:
      process: the process.
      t: [...] int, the step.

    Returns:
      [...] int32, or float32 where the process has timesteps that are not integers.
    """
    integers = np.issubdtype(process.timesteps.dtype, np.integer)
    return jnp.asarray(process.timesteps, jnp.int32 if integers else jnp.float32)[t]


def q_sample(process: Process, x0: Array, t: Array, epsilon: Array) -> Array:
    """A noisy example: x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 4.

    Args:
      process: the process.
      x0: [...] the example.
      t: [] int.
      epsilon: [...] ε ~ N(0, I).

    Returns:
      [...] x_t.
    """
    return at(process.signal, t, x0) * x0 + at(process.noise, t, x0) * epsilon


def diffuse(process: Process, x0: Array, t: Array, keys: Key) -> tuple[Array, Array]:
    """The examples of a batch after steps of their own: x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, ε ~ N(0, I) by each one's key.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 4.

    Args:
      process: the process.
      x0: [B, ...].
      t: [B] int.
      keys: [B].

    Returns:
      x_t [B, ...] and the ε [B, ...] with which it was made.
    """
    epsilon = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:], x0.dtype))(keys)
    return jax.vmap(functools.partial(q_sample, process))(x0, t, epsilon), epsilon


def q_posterior(process: Process, x0: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    """The law of the step before, had one seen both ends: q(x_{t−1} | x_t, x_0) = N(μ̃, β̃ I).

    μ̃ = √ᾱ_{t−1} β_t / (1 − ᾱ_t) x_0 + √α_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t) x_t,  β̃ = (1 − ᾱ_{t−1}) / (1 − ᾱ_t) β_t

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 6 and 7.

    Args:
      process: the process.
      x0: [...].
      x_t: [...].
      t: [] int.

    Returns:
      The mean [...] and the log-variance []. At the first step the mean is x_0 and the variance is 0; the second
      step's log-variance stands in its place, so that it is finite.
    """
    mean = at(process.posterior_coef_x0, t, x_t) * x0 + at(process.posterior_coef_xt, t, x_t) * x_t
    return mean, at(process.posterior_log_var, t, x_t)
