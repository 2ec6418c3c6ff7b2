"""Samplers as single steps on a batch: ancestral, DDIM and its inversion, DPM-Solver++(2M), and inpainting by any.

A sampler runs every step of the process it is given; `process.space` makes one of fewer. Its `step` is pure in
`(x, memory, i, keys)`, so `sampling.run` can scan it in one program or call it, jitted once, from a Python loop.
The network is a function `predict(x_t [B, ...], time [B]) -> output [B, ...]`, told `process.timesteps`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Key
from gen_jax.families.diffusion.guidance import Guide
from gen_jax.families.diffusion.parameterization import Reverse, reverse
from gen_jax.families.diffusion.process import Process, at, q_sample, told_time

Predict = Callable[[Array, Array], Array]


class Sampler(NamedTuple):
    """A way from one end of a process to the other.

    Attributes:
      steps: [S] int, the steps in the order in which they are taken.
      init: `x [B, ...] -> memory`, what a solver remembers from step to step; () for most.
      step: `(x, memory, i [], keys [B]) -> (x, memory, x0)`: the next x and the x_0 believed in at step i, [B, ...].
    """

    steps: np.ndarray
    init: Callable[[Array], Any]
    step: Callable[[Array, Any, Array, Key], tuple[Array, Any, Array]]


class _Denoiser(NamedTuple):
    """What every sampler asks at a step: the network's reverse step, constrained and guided."""

    process: Process
    predict: Predict
    options: dict[str, Any]
    guide: Guide | None

    def __call__(self, x: Array, i: Array) -> Reverse:
        steps = jnp.full(x.shape[:1], i, jnp.int32)
        output = self.predict(x, told_time(self.process, steps))
        result = jax.vmap(lambda o, x: reverse(self.process, o, x, i, **self.options))(output, x)
        return result if self.guide is None else self.guide.apply(self.process, x, i, result)


def _nothing(x: Array) -> tuple[()]:
    return ()


def _noise(keys: Key, i: Array, x: Array) -> Array:
    """[B, ...] standard normal numbers, those of an example from its key and the step alone."""
    noise_key = jax.vmap(lambda key: rng.at_step(rng.stream(key, "noise"), i))(keys)
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(noise_key)


def ancestral(
    process: Process,
    predict: Predict,
    *,
    prediction: str = "epsilon",
    variance: str | np.ndarray = "fixed_large",
    constrain: Callable[[Array], Array] | None = None,
    guide: Guide | None = None,
) -> Sampler:
    """Draws every step from p(x_{t−1} | x_t); the last step is its mean, without noise.

    x_{t−1} = μ_θ(x_t) + √Σ z,  z ~ N(0, I);  x_0 = μ_θ(x_1)

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Algorithm 2. On a process of
    fewer steps and with "fixed_large" this is what "Denoising Diffusion Implicit Models" calls σ̂.

    Args:
      process: the process.
      predict: the network.
      prediction: what it predicts, one of `parameterization.PREDICTIONS`.
      variance: one of `parameterization.VARIANCES`, or log-variances [T].
      constrain: of the predicted x_0, such as `clip_to_unit`; None for none.
      guide: of `guidance`, or None.

    Returns:
      The sampler.
    """
    options = {"prediction": prediction, "variance": variance, "constrain": constrain}
    denoise = _Denoiser(process, predict, options, guide)

    def step(x: Array, memory: Any, i: Array, keys: Key) -> tuple[Array, Any, Array]:
        result = denoise(x, i)
        noisy = result.mean + jnp.exp(0.5 * result.log_var) * _noise(keys, i, x)
        return jnp.where(i == 0, result.mean, noisy), memory, result.x0

    return Sampler(np.arange(process.num_steps)[::-1], _nothing, step)


def ddim(
    process: Process,
    predict: Predict,
    *,
    eta: float = 0.0,
    prediction: str = "epsilon",
    variance: str | np.ndarray = "fixed_large",
    constrain: Callable[[Array], Array] | None = None,
    guide: Guide | None = None,
) -> Sampler:
    """Steps of the non-Markovian process with the same marginals; without noise at η = 0, ancestral at η = 1.

    x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1 − ᾱ_{t−1} − σ²) ε̂ + σ z,  σ = η √β̃_t

    See "Denoising Diffusion Implicit Models", Song et al., 2021 (arXiv:2010.02502), Eq. 12 and 16.

    Args:
      process: the process, of as many steps as are to be taken.
      predict: the network.
      eta: η in [0, 1].
      prediction: as in `ancestral`.
      variance: only says whether the network's output holds a learned variance, which is not used.
      constrain: as in `ancestral`; ε is taken again from what it makes of x_0.
      guide: one that moves ε, or None.

    Returns:
      The sampler.

    Raises:
      ValueError: where η is not in [0, 1], or the guide moves the mean of a reverse step, which there is none of here.
    """
    _refuse_mean(guide, "DDIM")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}; DDIM's noise has a share from 0 to 1 of an ancestral step's.")
    options = {"prediction": prediction, "variance": variance, "constrain": constrain}
    denoise = _Denoiser(process, predict, options, guide)
    sigma = eta * np.sqrt(process.posterior_variance)
    prev_noise = np.append(0.0, process.noise[:-1])
    # ≥ 0 for η ≤ 1 but for rounding.
    direction = np.sqrt(np.maximum(prev_noise**2 - sigma**2, 0.0))

    def step(x: Array, memory: Any, i: Array, keys: Key) -> tuple[Array, Any, Array]:
        result = denoise(x, i)
        x_prev = at(np.sqrt(process.alphas_bar_prev), i, x) * result.x0 + at(direction, i, x) * result.epsilon
        if eta:
            x_prev = jnp.where(i == 0, x_prev, x_prev + at(sigma, i, x) * _noise(keys, i, x))
        return x_prev, memory, result.x0

    return Sampler(np.arange(process.num_steps)[::-1], _nothing, step)


def ddim_inversion(
    process: Process, predict: Predict, *, prediction: str = "epsilon", variance: str | np.ndarray = "fixed_large"
) -> Sampler:
    """DDIM backwards, from an example to the noise that `ddim` with η = 0 makes it from, up to an error of order 1 / S.

    x_t / √ᾱ_t = x_{t−1} / √ᾱ_{t−1} + (σ̄_t − σ̄_{t−1}) ε(x_{t−1}),  σ̄ = √((1 − ᾱ) / ᾱ)

    See "Denoising Diffusion Implicit Models", Song et al., 2021 (arXiv:2010.02502), Section 4.3, Eq. 13 and 14. The
    network is told the level at which x is; that of the example itself, which has no noise, is called the first step's.

    Args:
      process: as given to `ddim`.
      predict: the network.
      prediction: as in `ancestral`.
      variance: as in `ddim`.

    Returns:
      A sampler that is run from x_0 and ends at x_T.
    """
    denoise = _Denoiser(process, predict, {"prediction": prediction, "variance": variance}, None)
    ratio = process.signal / np.sqrt(process.alphas_bar_prev)
    prev_noise = np.append(0.0, process.noise[:-1])
    move = process.noise - ratio * prev_noise

    def step(x: Array, memory: Any, i: Array, keys: Key) -> tuple[Array, Any, Array]:
        result = denoise(x, jnp.maximum(i - 1, 0))
        return at(ratio, i, x) * x + at(move, i, x) * result.epsilon, memory, result.x0

    return Sampler(np.arange(process.num_steps), _nothing, step)


def dpm_solver(
    process: Process,
    predict: Predict,
    *,
    prediction: str = "epsilon",
    variance: str | np.ndarray = "fixed_large",
    constrain: Callable[[Array], Array] | None = None,
    guide: Guide | None = None,
) -> Sampler:
    """DPM-Solver++(2M): the same differential equation as DDIM's, to second order at one evaluation a step.

    x_{t−1} = σ_{t−1} / σ_t x_t − α_{t−1} (e^−h − 1) D,  h = λ_{t−1} − λ_t,  λ = log α / σ,  α = √ᾱ, σ = √(1 − ᾱ)
    D = (1 + 1 / 2r) x̂_0(x_t) − 1 / 2r x̂_0(x_{t+1}),  r = (λ_t − λ_{t+1}) / h

    See "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", Lu et al., 2022
    (arXiv:2211.01095), Algorithm 2. The first step has no step before it, and the last, whose h is infinite, gives its
    x̂_0: both are of first order, DDIM's. Where h grows from one step to the next, 1 / 2r is large and the extrapolation
    coarse; levels at even distances in λ, `process.spaced_steps(..., "log_snr")`, serve it best.

    Args:
      process: the process, of as many steps as are to be taken.
      predict: the network.
      prediction: as in `ancestral`.
      variance: as in `ddim`.
      constrain: as in `ancestral`.
      guide: one that moves ε, or None.

    Returns:
      The sampler.

    Raises:
      ValueError: where the guide moves the mean of a reverse step.
    """
    _refuse_mean(guide, "DPM-Solver++")
    options = {"prediction": prediction, "variance": variance, "constrain": constrain}
    denoise = _Denoiser(process, predict, options, guide)
    half_log_snr = 0.5 * np.log(process.snr)
    h = -np.diff(half_log_snr)  # [T − 1], of the steps 1 … T − 1.
    keep = np.append(0.0, process.noise[:-1] / process.noise[1:])
    pull = np.append(1.0, process.signal[:-1] * -np.expm1(-h))
    past = np.zeros(process.num_steps)
    past[1:-1] = h[:-1] / (2 * h[1:])  # 1 / 2r.

    def step(x: Array, memory: Any, i: Array, keys: Key) -> tuple[Array, Any, Array]:
        x0 = denoise(x, i).x0
        extrapolated = x0 + at(past, i, x) * (x0 - memory)
        return at(keep, i, x) * x + at(pull, i, x) * extrapolated, x0, x0

    return Sampler(np.arange(process.num_steps)[::-1], jnp.zeros_like, step)


def _refuse_mean(guide: Guide | None, name: str) -> None:
    if guide is not None and guide.moves == "mean":
        raise ValueError(f"{name} has no mean of a reverse step to move; take the guide that moves epsilon.")


def inpaint(process: Process, sampler: Sampler, known: Array, mask: Array, *, num_resamples: int = 1) -> Sampler:
    """Makes any sampler fill in what is missing: after each step the known part is put in, as noisy as the rest.

    x_{t−1} ← m √ᾱ_{t−1} x_known + m √(1 − ᾱ_{t−1}) z + (1 − m) x_{t−1},  x_known itself at the end

    With more resamples each step but the last is taken again, its result diffused back, so that both parts come to
    agree: the replacement alone is not a draw from the conditional law, and resampling brings it nearer.

    See "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", Lugmayr et al., 2022 (arXiv:2201.09865),
    Algorithm 1, with jumps of one step. There the way back has the variance of the step before, here that of the step
    that was taken.

    Args:
      process: the one that the sampler was made for.
      sampler: one that goes from noise to data.
      known: [B, ...] the examples; what is missing may hold anything finite.
      mask: [B, ...] 1 where an example is known and 0 where it is missing.
      num_resamples: how often each step is taken, ≥ 1.

    Returns:
      The sampler, for the same number of examples.

    Raises:
      ValueError: where a step is not taken at all.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples}; each step is taken once or more often.")
    diffuse = jax.vmap(lambda x, i, z: q_sample(process, x, i, z), in_axes=(0, None, 0))

    def once(x: Array, memory: Any, i: Array, keys: Key) -> tuple[Array, Any, Array]:
        x_prev, memory, x0 = sampler.step(x, memory, i, keys)
        known_keys = jax.vmap(lambda key: rng.stream(key, "known"))(keys)
        noisy = diffuse(known, jnp.maximum(i - 1, 0), _noise(known_keys, i, x))
        return jnp.where(mask > 0, jnp.where(i == 0, known, noisy), x_prev), memory, x0

    def step(x: Array, memory: Any, i: Array, keys: Key) -> tuple[Array, Any, Array]:
        beta = at(process.betas, i, x)
        for attempt in range(num_resamples):
            attempt_keys = keys if attempt == 0 else _attempt_keys(keys, attempt)
            x_prev, next_memory, x0 = once(x, memory, i, attempt_keys)
            if attempt < num_resamples - 1:
                back_keys = jax.vmap(lambda key: rng.stream(key, "back"))(attempt_keys)
                back = jnp.sqrt(1 - beta) * x_prev + jnp.sqrt(beta) * _noise(back_keys, i, x)
                x = jnp.where(i == 0, x, back)
        return x_prev, next_memory, x0

    return Sampler(sampler.steps, sampler.init, step)


def _attempt_keys(keys: Key, attempt: int) -> Key:
    return jax.vmap(lambda key: rng.at_step(rng.stream(key, "attempt"), attempt))(keys)
