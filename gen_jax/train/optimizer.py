"""Learning-rate schedules and optimisers by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax.train.step import Ema


def make_schedule(name: str, learning_rate: float, warmup_steps: int, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates made.

    Args:
      name: "constant", "cosine", "linear" or "exponential": how the rate goes on after the warm-up; cosine and linear
        end at 0, exponential at a tenth.
      learning_rate: the rate after the warm-up.
      warmup_steps: w; update t < w has (t + 1) / w times the rate, so that the first one is not lost.
      num_steps: of the whole run.

    Returns:
      `step -> rate`.

    Raises:
      ValueError: where the name is another one.
    """
    remaining = max(num_steps - warmup_steps, 1)
    if name == "constant":
        after = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, remaining)
    elif name == "linear":
        after = optax.linear_schedule(learning_rate, 0.0, remaining)
    elif name == "exponential":
        after = optax.exponential_decay(learning_rate, remaining, 0.1)
    else:
        raise ValueError(f"'{name}' is not a schedule; expected constant, cosine, linear or exponential.")
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> optax.GradientTransformation:
    """An optimiser.

    Args:
      name: "adam", "adamw", "adagrad" or "sgd".
      schedule: the learning rate.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: Adam's ε.
      eps_root: added to Adam's second moment under the root; with 1e-16 its updates can be differentiated at a gradient
        of 0, which an unrolled game does, and are else the same.
      weight_decay: of AdamW.
      momentum: of SGD; 0 for none.

    Returns:
      The transformation from gradients to updates.

    Raises:
      ValueError: where the name is another one.
    """
    if name == "adam":
        return optax.adam(schedule, b1, b2, eps, eps_root)
    if name == "adamw":
        return optax.adamw(schedule, b1, b2, eps, eps_root, weight_decay=weight_decay)
    if name == "adagrad":
        return optax.adagrad(schedule, initial_accumulator_value=0.0, eps=eps)
    if name == "sgd":
        return optax.sgd(schedule, momentum or None)
    raise ValueError(f"'{name}' is not an optimiser; expected adam, adamw, adagrad or sgd.")


def step_options(
    config: ConfigDict, num_examples: int, *, updates: int = 1, rate: float = 1.0, eps_root: float = 0.0
) -> dict[str, Any]:
    """What `make_train_step` takes besides the objective, as a config asks for it.

    Args:
      config: with the sections of `config.base_config`.
      num_examples: examples an epoch, for durations.
      updates: how many updates the optimiser makes in a step, for a player that has several in a round.
      rate: the learning rate by the config's.
      eps_root: as in `make_optimizer`.

    Returns:
      `tx`, `clip_norm`, `ema`, `compute_dtype` and `steps_per_call`.
    """
    optim, train = config.optim, config.train

    def steps(duration: str) -> int:
        return config_lib.steps_in(duration, train.batch_size, num_examples)

    num_updates = updates * config_lib.interval(train.duration, config, num_examples)
    schedule = make_schedule(optim.schedule, rate * optim.learning_rate, updates * steps(optim.warmup), num_updates)
    options = {key: optim[key] for key in ("b1", "b2", "eps", "weight_decay", "momentum")}
    ema = None
    if train.ema_half_life:
        ema = Ema(half_life=steps(train.ema_half_life), ramp_up=train.ema_ramp_up)
    elif train.ema_decay:
        ema = Ema(decay=train.ema_decay, ramp_up=train.ema_ramp_up)
    return {
        "tx": make_optimizer(optim.name, schedule, eps_root=eps_root, **options),
        "clip_norm": optim.clip_norm,
        "ema": ema,
        "compute_dtype": jnp.dtype(train.precision),
        "steps_per_call": train.steps_per_call,
    }
