"""Train steps: pure functions `(state, batch) -> (state, metrics)` that know neither devices nor files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gen_jax import rng
from gen_jax.collectives import mean_over_devices, sum_over_devices
from gen_jax.contracts import Array, Batch, Key, ModelState, Objective, Params, Terms, UserError, Values
from gen_jax.train.state import TrainState

TrainStep = Callable[..., tuple[TrainState, Terms]]


@dataclasses.dataclass(frozen=True)
class Ema:
    """How fast the moving average of the parameters forgets. Give `decay` or `half_life`, not both.

    Attributes:
      decay: the weight of the old average at each step, in [0, 1).
      half_life: in steps, after how many of them a parameter's weight in the average has halved.
      ramp_up: the average at step t forgets at least as fast as a half-life of `ramp_up · t` would, so that the first
        steps, and the initial parameters with them, do not weigh on it; 0 for none.
    """

    decay: float | None = None
    half_life: float | None = None
    ramp_up: float = 0.0

    def __post_init__(self) -> None:
        """Checks that exactly one speed is given."""
        if (self.decay is None) == (self.half_life is None):
            raise ValueError("Give Ema either decay or half_life.")

    def rate_at(self, step: Array) -> Array:
        """How much of the way to the new parameters the average moves in the update that makes step `step`.

        Args:
          step: [] 1 for the first update.

        Returns:
          [] 1 − d, where d is the decay, in (0, 1].
        """
        # In float64, as 1 − d in float32 loses the digits that matter where d is near 1.
        half_life = self.half_life or (
            0.0 if self.decay == 0.0 else -math.log(2.0) / math.log(float(self.decay or 0.0))
        )
        if not self.ramp_up:
            return jnp.float32(1.0 if half_life == 0.0 else -math.expm1(-math.log(2.0) / half_life))
        shortest = jnp.minimum(jnp.float32(half_life), self.ramp_up * step)
        return -jnp.expm1(-math.log(2.0) / shortest)  # 1 where the half-life is 0.


def update_ema(ema_params: Params, params: Params, rate: Array) -> Params:
    """Moves the average towards the new parameters: θ̄ ← d θ̄ + (1 − d) θ, computed as θ̄ + (1 − d) (θ − θ̄).

    See "Adam: A Method for Stochastic Optimization", Kingma and Ba, 2015 (arXiv:1412.6980), Section 7.2, and for the
    plain average "Acceleration of Stochastic Approximation by Averaging", Polyak and Juditsky, 1992 (SIAM Journal on
    Control and Optimization 30), pages 838 to 855.

    Args:
      ema_params: θ̄.
      params: θ, after the update.
      rate: [] 1 − d.

    Returns:
      The new θ̄. Where θ̄ equals θ it is returned to the bit.
    """
    return jax.tree.map(lambda average, new: average + rate * (new - average), ema_params, params)


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    clip_norm: float = 0.0,
    ema: Ema | None = None,
    compute_dtype: Any = jnp.float32,
    steps_per_call: int = 1,
    whole_batch: bool = False,
    accumulate: int = 1,
) -> TrainStep:
    """Builds the train step of one objective and one optimiser.

    Args:
      objective: what is minimised.
      tx: the optimiser.
      clip_norm: the largest global norm a gradient may have; longer ones are scaled down to it; 0 for no limit.
      ema: the moving average; None for none (then `TrainState.ema_params` is None).
      compute_dtype: the type in which the objective sees the parameters, scalars excepted. Parameters, gradients,
        optimiser and average stay as they are; with bfloat16 this is mixed precision.
      steps_per_call: k, how many steps one call makes, in one dispatch.
      whole_batch: whether the objective takes `axis_name`, for statistics of the batch of all devices.
      accumulate: how many equal parts a batch is taken in, one after another, whose gradients are averaged. What is
        held for the gradient is that of one part; for a loss that is a mean over examples the step is the same.

    Returns:
      `step(state, batch, *, axis_name=None) -> (state, metrics)`. `axis_name` names the mapped axis of devices, where
      there is one; each device then passes its own part of the batch and gets the same result. Metrics: `loss`, the
      objective's terms, and the global norms `grad_norm` (before clipping) and `param_norm` (after the update).
      For k > 1 the batch's arrays and the metrics have a leading axis [k].
    """

    def loss_fn(params: Params, model_state: Any, key: Any, batch: Batch, axis: dict[str, str | None]) -> Any:
        return objective(cast_params(params, compute_dtype), model_state, key, batch, **axis)

    def step(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> tuple[TrainState, Terms]:
        key = rng.at_step(state.key, state.step)
        axis = {"axis_name": axis_name} if whole_batch else {}

        def gradients(model_state: ModelState, part: Batch) -> tuple[ModelState, Any]:
            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            part = dict(part) | {"step": state.step}
            (loss, (model_state, terms)), grads = grad_fn(state.params, model_state, key, part, axis)
            return model_state, (loss, terms, grads)

        model_state, (loss, terms, grads) = mean_of_parts(gradients, state.model_state, batch, accumulate)
        # The mean over devices comes after the gradient: the gradient of a pmean-ed loss is wrong under pmap.
        loss, model_state, terms, grads = mean_over_devices((loss, model_state, terms, grads), axis_name)

        grads, grad_norm = clip_gradients(grads, clip_norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema is not None:
            ema_params = update_ema(ema_params, params, ema.rate_at(state.step + 1))
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema_params=ema_params,
        )
        norms = {"grad_norm": grad_norm, "param_norm": optax.tree.norm(params)}
        return new_state, {"loss": loss} | dict(terms) | norms

    return step if steps_per_call == 1 else scan_steps(step)


def mean_of_parts(
    function: Callable[[ModelState, Batch], tuple[ModelState, Any]], model_state: ModelState, batch: Batch, parts: int
) -> tuple[ModelState, Any]:
    """The mean of a function over equal parts of a batch, taken one after another.

    Args:
      function: `(model_state, part) -> (model_state, results)`, results a pytree of arrays.
      model_state: for the first part; each next part gets what the one before made of it.
      batch: arrays [B, ...].
      parts: how many.

    Returns:
      The last part's model state, and the mean of the results.

    Raises:
      UserError: where the batch has no such equal parts.
    """
    if parts == 1:
        return function(model_state, batch)
    size = len(next(iter(batch.values())))
    if size % parts:
        raise UserError(
            f"A batch of {size} examples cannot be taken in {parts} equal parts; give another config.train.batch_size, "
            "or fewer parts with config.train.accumulate."
        )

    def add(carry: tuple[ModelState, Any], part: Batch) -> tuple[tuple[ModelState, Any], None]:
        model_state, results = function(carry[0], part)
        return (model_state, jax.tree.map(lambda total, new: total + new / parts, carry[1], results)), None

    # Every so many-th example, such that where devices hold neighbouring ones each has its share of every part.
    split = {
        name: array.reshape(size // parts, parts, *array.shape[1:]).swapaxes(0, 1) for name, array in batch.items()
    }
    first = {name: array[0] for name, array in split.items()}
    shapes = jax.eval_shape(function, model_state, first)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(leaf.dtype, jnp.float32)), shapes)
    return jax.lax.scan(add, (model_state, zeros), split)[0]


def cast_params(params: Params, dtype: Any) -> Params:
    """The parameters as an objective sees them in mixed precision.

    Args:
      params: a pytree of float32 arrays.
      dtype: of the computation.

    Returns:
      The parameters in that type, scalars excepted.
    """

    def cast(leaf: Array) -> Array:
        # A scalar costs nothing to keep whole, and as a variance or a temperature it must be.
        return leaf.astype(dtype) if leaf.ndim and dtype != jnp.float32 else leaf

    return jax.tree.map(cast, params)


def clip_gradients(grads: Params, clip_norm: float) -> tuple[Params, Array]:
    """Scales gradients down to a largest global norm.

    Args:
      grads: a pytree of arrays.
      clip_norm: the limit; 0 for none.

    Returns:
      The gradients, and their norm [] before.
    """
    grad_norm = optax.tree.norm(grads)
    if clip_norm:
        # A gradient that is not finite stays so: the loop must see it.
        grads = jax.tree.map(lambda g: g * (clip_norm / jnp.maximum(grad_norm, clip_norm)), grads)
    return grads, grad_norm


def scan_steps(step: TrainStep) -> TrainStep:
    """Makes one call of many: the batch's and the metrics' arrays get a leading axis.

    Args:
      step: `(state, batch, *, axis_name=None) -> (state, metrics)`.

    Returns:
      The same of batches [k, ...], with metrics [k].
    """

    def steps(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> tuple[TrainState, Terms]:
        return jax.lax.scan(lambda state, batch: step(state, batch, axis_name=axis_name), state, dict(batch))

    return steps


def make_eval_step(values: Callable[[Params, Key, Batch], Values]) -> Callable[..., dict[str, tuple[Array, Array]]]:
    """Builds an evaluation step of a function that gives each example's values.

    Args:
      values: `(params, key, batch) -> {name: [B, ...]}`, given the state's `eval_params` and root key.

    Returns:
      `step(state, batch, *, axis_name=None) -> {name: (sum, count)}`, over all devices, padding left out.
    """

    def step(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> dict[str, tuple[Array, Array]]:
        return masked_sums(values(state.eval_params, state.key, batch), batch["mask"], axis_name)

    return step


def masked_sums(values: Values, mask: Array, axis_name: str | None) -> dict[str, tuple[Array, Array]]:
    """Per-example values as (sum, count) pairs, which add up exactly over devices and ragged batches.

    Args:
      values: arrays [B, ...].
      mask: [B] 1 for an example, 0 for padding.
      axis_name: the mapped axis of devices, or None.

    Returns:
      For each name the sum [...] over the examples and the count [] of them, over all devices.
    """

    def pair(value: Array) -> tuple[Array, Array]:
        weight = mask.reshape(mask.shape + (1,) * (value.ndim - 1))
        # `where`, not a product: padding may hold anything, and 0 · ∞ is NaN.
        return jnp.sum(jnp.where(weight > 0, value, 0.0), axis=0), jnp.sum(mask)

    return sum_over_devices({name: pair(value) for name, value in values.items()}, axis_name)
