"""The state of a run: arrays only, so that a checkpoint holds no code."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gen_jax.contracts import Array, Key, ModelState, Params


@flax.struct.dataclass
class TrainState:
    """Everything that training changes, and the root key.

    Attributes:
      step: [] int32, the number of updates made; of rounds in a game of several players.
      params: what the objective is differentiated in. A game of several players keeps a dict of them here, and a dict
        of the same keys in `opt_state`.
      model_state: what the model changes as it runs (batch statistics), or {}.
      opt_state: of the optimiser or optimisers.
      ema_params: the moving average of `params`, or None where the run keeps none.
      key: the root key; it never changes.
    """

    step: Array
    params: Params
    model_state: ModelState
    opt_state: Any
    ema_params: Params | None
    key: Key

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate and sample with: the average where there is one."""
        return self.params if self.ema_params is None else self.ema_params


def init_state(
    params: Params, tx: optax.GradientTransformation, key: Key, *, model_state: ModelState = None, ema: bool = False
) -> TrainState:
    """The state before the first step.

    Args:
      params: the initial parameters.
      tx: the optimiser.
      key: the run's root key.
      model_state: the initial model state; None for none.
      ema: whether the run keeps a moving average.

    Returns:
      A state of which every leaf is its own buffer, so that all of them can be donated.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={} if model_state is None else model_state,
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        key=key,
    )
