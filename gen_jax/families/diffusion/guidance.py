"""Guidance: a classifier's gradient on the way, or the difference that a label makes to the network itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Key, UserError
from gen_jax.families.diffusion.parameterization import Reverse
from gen_jax.families.diffusion.process import Process, at, q_posterior, told_time

CONVENTIONS = ("scale", "weight")
GRADIENT_POINTS = ("x_t", "mean")

LogProb = Callable[[Array, Array], Array]


class Guide(NamedTuple):
    """What moves a reverse step.

    Attributes:
      moves: "mean", for ancestral sampling, or "epsilon", for every sampler.
      apply: `(process, x_t [B, ...], i [], step of a batch) -> step of a batch`.
    """

    moves: str
    apply: Callable[[Process, Array, Array, Reverse], Reverse]


def _gradient(log_prob: LogProb, process: Process, x: Array, i: Array) -> Array:
    """[B, ...] the gradient of each example's log-probability; the classifier must not mix examples."""
    time = told_time(process, jnp.full(x.shape[:1], i, jnp.int32))
    return jax.grad(lambda x: jnp.sum(log_prob(x, time)))(x)


def shift_mean(log_prob: LogProb, scale: float | Array = 1.0, *, at_point: str = "x_t") -> Guide:
    """Classifier guidance of ancestral sampling: the mean moves along the gradient of log p(y | x).

    μ ← μ + s Σ g

    "x_t", as published: g = ∇ log p(y | x_t, t), at the noisy example from which the step is taken. "mean", as derived:
    the step's law is N(x_{t−1}; μ, Σ) p(y | x_{t−1}), and the logarithm of its second factor is expanded about μ, so
    that g = ∇ log p(y | x_{t−1}, t − 1) at x_{t−1} = μ; the classifier is told the step before, the first at the end.

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Section 4.1 and
    Algorithm 1.

    Args:
      log_prob: `(x [B, ...], time [B]) -> [B]`, log p(y | x) in nats for the labels that are wanted.
      scale: s, [] or [B, 1, …].
      at_point: "x_t" or "mean".

    Returns:
      A guide for `samplers.ancestral`.

    Raises:
      ValueError: where the point is another one.
    """
    if at_point not in GRADIENT_POINTS:
        raise ValueError(f"at_point='{at_point}' is unknown; expected one of {GRADIENT_POINTS}.")

    def apply(process: Process, x_t: Array, i: Array, step: Reverse) -> Reverse:
        if at_point == "x_t":
            gradient = _gradient(log_prob, process, x_t, i)
        else:
            gradient = _gradient(log_prob, process, step.mean, jnp.maximum(i - 1, 0))
        return step._replace(mean=step.mean + scale * jnp.exp(step.log_var) * gradient)

    return Guide("mean", apply)


def shift_epsilon(log_prob: LogProb, scale: float | Array = 1.0) -> Guide:
    """Classifier guidance of any sampler: the score moves along the gradient of log p(y | x_t).

    ε ← ε − s √(1 − ᾱ_t) ∇ log p(y | x_t, t), and x_0 and the mean follow from it, after any constraint of x_0

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Section 4.2, Eq.
    14, and Algorithm 2; Section 4.3 for s.

    Args:
      log_prob: as in `shift_mean`.
      scale: s, [] or [B, 1, …].

    Returns:
      A guide for every sampler.
    """

    def apply(process: Process, x_t: Array, i: Array, step: Reverse) -> Reverse:
        signal, noise = at(process.signal, i, x_t), at(process.noise, i, x_t)
        epsilon = step.epsilon - scale * noise * _gradient(log_prob, process, x_t, i)
        x0 = (x_t - noise * epsilon) / signal
        mean, _ = q_posterior(process, x0, x_t, i)
        return step._replace(mean=mean, x0=x0, epsilon=epsilon)

    return Guide("epsilon", apply)


def combine(conditional: Array, unconditional: Array, strength: float | Array, convention: str = "scale") -> Array:
    """Classifier-free guidance of two predictions of ε, or of any other kind.

    "scale":  ε_u + s (ε_c − ε_u);  s = 0 is unconditional, s = 1 conditional
    "weight": (1 + w) ε_c − w ε_u;  w = −1 is unconditional, w = 0 conditional

    These are one with s = 1 + w. At the two values the result is that prediction to the bit.

    See "Classifier-Free Diffusion Guidance", Ho and Salimans, 2022 (arXiv:2207.12598), Eq. 6, for the second.

    Args:
      conditional: ε_c [...].
      unconditional: ε_u [...].
      strength: s or w, [] or to be broadcast to [...].
      convention: one of `CONVENTIONS`.

    Returns:
      [...].

    Raises:
      ValueError: where the convention is another one.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention='{convention}' is unknown; expected one of {CONVENTIONS}.")
    if convention == "scale":
        mixed = unconditional + strength * (conditional - unconditional)
        is_conditional, is_unconditional = jnp.equal(strength, 1), jnp.equal(strength, 0)
    else:
        mixed = (1 + strength) * conditional - strength * unconditional
        is_conditional, is_unconditional = jnp.equal(strength, 0), jnp.equal(strength, -1)
    return jnp.where(is_conditional, conditional, jnp.where(is_unconditional, unconditional, mixed))


def classifier_free(
    predict: Callable[[Array, Array, Array], Array],
    label: Array,
    null_label: int,
    strength: float,
    *,
    convention: str = "scale",
    learned_variance: bool = False,
) -> Callable[[Array, Array], Array]:
    """A network with labels as one without: guided, by two halves of one batch.

    Where the strength asks for one of the two alone, the network is called for that one only.

    See "Classifier-Free Diffusion Guidance", Ho and Salimans, 2022 (arXiv:2207.12598), Algorithm 2.

    Args:
      predict: `(x_t [B, ...], time [B], label [B]) -> output [B, ...]`, trained with `drop_labels`.
      label: [B] int, what is wanted.
      null_label: the label that stands for none.
      strength: as in `combine`, a Python number.
      convention: as in `combine`.
      learned_variance: whether the second half of the output's channels says a variance; it is the conditional one's.

    Returns:
      `(x_t [B, ...], time [B]) -> output [B, ...]`.

    Raises:
      ValueError: where the convention is another one.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention='{convention}' is unknown; expected one of {CONVENTIONS}.")
    label = jnp.asarray(label, jnp.int32)
    null = jnp.full_like(label, null_label)
    scale = strength if convention == "scale" else 1 + strength

    def guided(x_t: Array, time: Array) -> Array:
        if scale == 1:
            return predict(x_t, time, label)
        if scale == 0:
            return predict(x_t, time, null)
        both = predict(*(jnp.concatenate(pair) for pair in ((x_t, x_t), (time, time), (label, null))))
        conditional, unconditional = jnp.split(both, 2)
        if not learned_variance:
            return combine(conditional, unconditional, strength, convention)
        (mean, v), (null_mean, _) = (jnp.split(half, 2, axis=-1) for half in (conditional, unconditional))
        return jnp.concatenate([combine(mean, null_mean, strength, convention), v], axis=-1)

    return guided


def drop_labels(key: Key, label: Array, null_label: int, rate: float) -> Array:
    """The label of one example, or now and then none, so that one network learns both laws.

    See "Classifier-Free Diffusion Guidance", Ho and Salimans, 2022 (arXiv:2207.12598), Algorithm 1; rates of 0.1
    and 0.2 do better there than 0.5.

    Args:
      key: this example's key at this step.
      label: [] int.
      null_label: the label that stands for none.
      rate: the probability of none, in [0, 1].

    Returns:
      [] int.
    """
    return jnp.where(jax.random.bernoulli(key, rate), null_label, label)


def check_labels(labels: list[int] | tuple[int, ...], num_classes: int) -> None:
    """Refuses labels that a model was not trained with.

    Args:
      labels: what a user asks for.
      num_classes: how many there are; 0 for an unconditional model.

    Raises:
      UserError: where the model has no labels, or one of these is not in 0 … num_classes − 1.
    """
    if labels and not num_classes:
        raise UserError("This model was trained without labels and cannot be asked for one; leave the label out.")
    strange = [label for label in labels if not 0 <= label < num_classes]
    if strange:
        raise UserError(f"There is no class {strange[0]}; the labels go from 0 to {num_classes - 1}.")
