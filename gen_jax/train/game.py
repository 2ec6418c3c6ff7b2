"""The train step of a game: players take turns, each minimising its own objective in its own parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gen_jax import rng
from gen_jax.collectives import mean_over_devices
from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Terms, UserError
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import (
    Ema,
    TrainStep,
    cast_params,
    clip_gradients,
    scan_steps,
    update_ema,
)


@dataclasses.dataclass(frozen=True)
class Player:
    """One player of a game and what its turn is.

    Attributes:
      name: of its parameters in `TrainState.params`, of its optimiser's state in `TrainState.opt_state`, of its noise
        and of its metrics.
      objective: `(params, model_state, key, batch, *, axis_name) -> (loss, (model_state, terms))`, as
        `contracts.Objective`, with `params` and `model_state` the dicts of all players. It is differentiated in
        `params[name]` alone; it may change any of `model_state`. Pure.
      tx: its optimiser, which counts this player's updates, so that a schedule goes by them and not by rounds.
      updates: how many updates it makes when it is its turn.
      parts: into how many equal parts a round's batch is dealt, of which update u takes part u mod `parts`. By default
        as many as `updates`, so that every example is seen by one of them; with 1 all updates see the whole batch.
      clip_norm: the largest global norm its gradient may have; 0 for no limit.
      project: applied to its parameters after every update (the clipping of weights); None for nothing.
      takes_opt_state: whether the objective takes a keyword `opt_state`, the dict of all players' optimiser states as
        they are before the update: for a player that looks ahead at another's updates.
    """

    name: str
    objective: Callable[..., tuple[Array, tuple[ModelState, Terms]]]
    tx: optax.GradientTransformation
    updates: int = 1
    parts: int | None = None
    clip_norm: float = 0.0
    project: Callable[[Params], Params] | None = None
    takes_opt_state: bool = False

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.updates < 1 or (self.parts is not None and self.parts < 1):
            raise ValueError(
                f"updates={self.updates} and parts={self.parts} of the player '{self.name}': each must be at least 1."
            )


def init_game(
    params: Mapping[str, Params],
    players: Sequence[Player],
    key: Key,
    *,
    model_state: ModelState = None,
    ema: bool = False,
) -> TrainState:
    """The state before the first round.

    Args:
      params: the initial parameters by player.
      players: of the game.
      key: the run's root key.
      model_state: the initial model state, a dict by player; None for none.
      ema: whether the run keeps a moving average.

    Returns:
      A state whose `opt_state` is a dict by player, every leaf of it in its own buffer.
    """
    state = init_state(dict(params), optax.identity(), key, model_state=model_state, ema=ema)
    return dataclasses.replace(
        state, opt_state={player.name: player.tx.init(params[player.name]) for player in players}
    )


def make_alternating_step(
    players: Sequence[Player],
    *,
    ema: Ema | None = None,
    averaged: str = "generator",
    loss_of: str | None = None,
    compute_dtype: Any = jnp.float32,
    steps_per_call: int = 1,
) -> TrainStep:
    """Builds the train step of a game: one round, in which every player has its turn.

    In a turn all other players' parameters are held fixed, those of players before it as they have just become. What
    is random in update u of a player is keyed by root -> round -> the player's name -> u.

    Args:
      players: in the order of their turns.
      ema: the moving average, which counts rounds; None for none (then `TrainState.ema_params` is None).
      averaged: the player whose parameters are averaged. `ema_params` has the others' as they are, so that it can be
        evaluated like `params`.
      loss_of: the player whose loss is the metric `loss`; None for the first.
      compute_dtype: as in `make_train_step`, for all players' parameters.
      steps_per_call: k, how many rounds one call makes, in one dispatch.

    Returns:
      `step(state, batch, *, axis_name=None) -> (state, metrics)`, as `make_train_step` gives it; `state.step` counts
      rounds. Metrics: `loss`, and for each player `name/loss`, its terms as `name/term` and `name/grad_norm` (before
      clipping), means over its updates, and `name/param_norm` after the turn.

    Raises:
      ValueError: where there is no player, two have one name, or a name is given that none has.
    """
    names = [player.name for player in players]
    loss_of = names[0] if loss_of is None and names else loss_of
    _check_names(names, {"loss_of": loss_of} | ({"averaged": averaged} if ema is not None else {}))

    def play(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> tuple[TrainState, Terms]:
        metrics: Terms = {}
        for player in players:
            state, terms = _turn(player, state, batch, compute_dtype, axis_name)
            terms["param_norm"] = optax.tree.norm(state.params[player.name])
            metrics |= {f"{player.name}/{term}": value for term, value in terms.items()}
        ema_params: Any = state.ema_params
        if ema is not None:
            rate = ema.rate_at(state.step + 1)
            average = update_ema(ema_params[averaged], state.params[averaged], rate)
            ema_params = state.params | {averaged: average}
        state = dataclasses.replace(state, step=state.step + 1, ema_params=ema_params)
        return state, {"loss": metrics[f"{loss_of}/loss"]} | metrics

    return play if steps_per_call == 1 else scan_steps(play)


def _check_names(names: list[str], wanted: Mapping[str, str | None]) -> None:
    """Refuses names that are there twice, and wanted ones that are not there."""
    if not names:
        raise ValueError("A game needs at least one player.")
    if len(set(names)) < len(names):
        raise ValueError(f"Of the names {names} two players have the same.")
    for option, name in wanted.items():
        if name not in names:
            raise ValueError(f"{option}='{name}' is no player; expected one of {names}.")


def _turn(
    player: Player, state: TrainState, batch: Batch, compute_dtype: Any, axis_name: str | None
) -> tuple[TrainState, Terms]:
    """All of a player's updates in one round, and the means of their metrics."""
    parts = player.parts or player.updates
    dealt = _deal(player.name, batch, parts)

    def update(state: TrainState, number: Array) -> tuple[TrainState, Terms]:
        part = {name: array[:, number % parts] for name, array in dealt.items()}
        return _update(player, state, number, part, compute_dtype, axis_name)

    if player.updates == 1:
        return update(state, jnp.zeros((), jnp.int32))
    # Unrolled: on CPUs XLA runs a convolution in a loop on one core, which made a round some four times slower.
    state, metrics = jax.lax.scan(update, state, jnp.arange(player.updates, dtype=jnp.int32), unroll=True)
    return state, {name: jnp.mean(value, axis=0) for name, value in metrics.items()}


def _deal(name: str, batch: Batch, parts: int) -> dict[str, Array]:
    """Arrays [B, ...] as [B / parts, parts, ...]: like cards, example j goes to part j mod `parts`.

    So each device deals its own examples, and, where each has a multiple of `parts` of them, they fall to the same
    parts as if one device had dealt them all; blocks of neighbours would not.
    """
    dealt = {}
    for key, array in batch.items():
        size = array.shape[0]
        if size % parts:
            raise UserError(
                f"The {size} examples that a device has of a batch cannot be dealt out in {parts} equal parts to the "
                f"updates of the player '{name}'; make train.batch_size a multiple of {parts} times the devices."
            )
        dealt[key] = jnp.asarray(array).reshape(size // parts, parts, *array.shape[1:])
    return dealt


def _update(
    player: Player, state: TrainState, number: Array, batch: Batch, compute_dtype: Any, axis_name: str | None
) -> tuple[TrainState, Terms]:
    """One update of one player."""
    name = player.name
    key = jax.random.fold_in(rng.stream(rng.at_step(state.key, state.step), name), number)
    batch = dict(batch) | {"step": state.step}
    options = {"opt_state": state.opt_state} if player.takes_opt_state else {}

    def loss_fn(own: Params) -> tuple[Array, tuple[ModelState, Terms]]:
        params = cast_params(state.params | {name: own}, compute_dtype)
        return player.objective(params, state.model_state, key, batch, axis_name=axis_name, **options)

    (loss, (model_state, terms)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params[name])
    # The mean over devices comes after the gradient: the gradient of a pmean-ed loss is wrong under pmap.
    loss, model_state, terms, grads = mean_over_devices((loss, model_state, terms, grads), axis_name)

    grads, grad_norm = clip_gradients(grads, player.clip_norm)
    updates, opt_state = player.tx.update(grads, state.opt_state[name], state.params[name])
    own = optax.apply_updates(state.params[name], updates)
    if player.project is not None:
        own = player.project(own)
    new_state = dataclasses.replace(
        state,
        params=state.params | {name: own},
        model_state=model_state,
        opt_state=state.opt_state | {name: opt_state},
    )
    return new_state, {"loss": loss} | dict(terms) | {"grad_norm": grad_norm}
