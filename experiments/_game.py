"""What the experiments on adversarial games share: two sections of their configs, the players and their state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, UserError
from gen_jax.families.gan import evaluation, losses, models, objectives, sampling
from gen_jax.train.game import Player, init_game, make_alternating_step
from gen_jax.train.optimizer import step_options
from gen_jax.train.state import TrainState
from gen_jax.train.step import TrainStep, masked_sums


def add_keys(config: ConfigDict) -> None:
    """Adds the sections `objective`, what the players minimise, and `game`, how they take turns."""
    config.objective = ConfigDict()
    config.objective.loss = "non_saturating"  # minimax | non_saturating | wasserstein | hinge | least_squares
    config.objective.real_label = 1.0  # α; below 1 for one-sided label smoothing, of cross-entropies.
    config.objective.penalty = "none"  # none | gradient | r1
    config.objective.penalty_weight = 10.0  # λ of gradient, γ of r1.
    config.objective.penalty_every = 1  # In every n-th round only, n times as heavy then.

    config.game = ConfigDict()
    config.game.discriminator_updates = 1  # k, for one of the generator's; each update sees a k-th of the batch.
    config.game.discriminator_rate = 1.0  # The discriminator's learning rate, by optim.learning_rate.
    config.game.clip_weights = 0.0  # c, of the discriminator's weights after an update; 0 for no clipping.


def rules() -> dict[str, config_lib.Rule]:
    """What the keys of `add_keys` must satisfy."""
    return {
        "objective.loss": config_lib.one_of(*objectives.LOSSES),
        "objective.real_label": config_lib.inside(0.0, 1.0 + 1e-9),
        "objective.penalty": config_lib.one_of(*objectives.PENALTIES),
        "objective.penalty_weight": config_lib.at_least(0.0),
        "objective.penalty_every": config_lib.at_least(1),
        "game.discriminator_updates": config_lib.at_least(1),
        "game.discriminator_rate": config_lib.positive,
        "game.clip_weights": config_lib.at_least(0.0),
    }


def check(config: ConfigDict) -> None:
    """Refuses what has no effect, or a wrong one, in the sections of `add_keys`.

    Args:
      config: whose sections' values are in range.

    Raises:
      UserError: naming the keys that do not go together.
    """
    o, game = config.objective, config.game
    check_constraint(config)
    if o.real_label != 1.0 and o.loss not in objectives.CROSS_ENTROPIES:
        raise UserError(
            f"config.objective.real_label={o.real_label} has no effect with config.objective.loss={o.loss}; use "
            f"{' or '.join(objectives.CROSS_ENTROPIES)}."
        )
    if o.penalty_every != 1 and o.penalty == "none":
        raise UserError(
            f"config.objective.penalty_every={o.penalty_every} has no effect with config.objective.penalty=none; "
            "choose a penalty, or leave it 1."
        )
    if config.train.batch_size % game.discriminator_updates:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} cannot be dealt to "
            f"config.game.discriminator_updates={game.discriminator_updates} updates; make it a multiple."
        )


def check_constraint(config: ConfigDict) -> None:
    """Refuses a critic that nothing holds, and a clipping of weights in a game that is not made for it.

    Args:
      config: whose sections' values are in range.

    Raises:
      UserError: naming the keys that do not go together.
    """
    o, limit = config.objective, config.game.clip_weights
    held = o.penalty != "none" or limit > 0 or config.model.get("spectral", False)
    if o.loss == "wasserstein" and not held:
        raise UserError(
            "config.objective.loss=wasserstein has no least value where nothing bounds the critic's slope; set "
            "config.objective.penalty=gradient, or config.game.clip_weights above 0."
        )
    if limit and (o.loss != "wasserstein" or o.penalty != "none"):
        raise UserError(
            f"config.game.clip_weights={limit} is for config.objective.loss=wasserstein without a penalty; set it to 0."
        )


def players(config: ConfigDict, networks: objectives.Networks, num_examples: int) -> list[Player]:
    """The discriminator and, after it, the generator.

    Args:
      config: the resolved config, checked.
      networks: the networks.
      num_examples: examples an epoch, for durations.

    Returns:
      The two players.

    Raises:
      UserError: where the penalty does not go with the discriminator.
    """
    o, game = config.objective, config.game
    objectives.check_penalty(networks, o.penalty)
    updates = game.discriminator_updates
    options = step_options(config, num_examples)
    opponent = step_options(config, num_examples, updates=updates, rate=game.discriminator_rate)
    discriminator = functools.partial(
        objectives.discriminator_objective,
        networks=networks,
        loss=o.loss,
        real_label=o.real_label,
        penalty=o.penalty,
        penalty_weight=o.penalty_weight,
        penalty_every=o.penalty_every,
    )
    generator = functools.partial(objectives.generator_objective, networks=networks, loss=o.loss)
    clip = functools.partial(losses.clip_weights, limit=game.clip_weights) if game.clip_weights else None
    return [
        Player(
            "discriminator",
            discriminator,
            opponent["tx"],
            updates=updates,
            clip_norm=config.optim.clip_norm,
            project=clip,
        ),
        Player("generator", generator, options["tx"], parts=updates, clip_norm=config.optim.clip_norm),
    ]


def init_state(
    key: Key, networks: objectives.Networks, turns: Sequence[Player], example_shape: tuple[int, ...], *, ema: bool
) -> TrainState:
    """The state before the first round.

    Args:
      key: the run's root key.
      networks: the networks.
      turns: the players.
      example_shape: of what the discriminator sees.
      ema: whether the run keeps a moving average.

    Returns:
      The state, with `params`, `model_state` and `opt_state` by player.
    """
    label = (jnp.zeros(1, jnp.int32),) if networks.conditional else ()
    inputs = {
        "generator": jnp.zeros((1, networks.generator.latent_dim)),
        "discriminator": jnp.zeros((1, *example_shape)),
    }
    made = {
        name: models.init_network(getattr(networks, name), rng.stream(rng.stream(key, "init"), name), x, *label)
        for name, x in inputs.items()
    }
    params, state = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))
    return init_game(params, turns, key, model_state=state, ema=ema)


def has_ema(config: ConfigDict) -> bool:
    """Whether a config asks for a moving average of the generator."""
    return bool(config.train.ema_decay or config.train.ema_half_life)


def train_step(config: ConfigDict, turns: Sequence[Player], num_examples: int) -> TrainStep:
    """One round, or as many as a config wants in a call.

    Args:
      config: the resolved config.
      turns: the players.
      num_examples: examples an epoch, for durations.

    Returns:
      The step.
    """
    options = step_options(config, num_examples)
    shared = {key: options[key] for key in ("ema", "compute_dtype", "steps_per_call")}
    return make_alternating_step(turns, loss_of="discriminator", **shared)


def eval_step(**known: Any) -> Callable[..., dict[str, tuple[Array, Array]]]:
    """An evaluation step, of both players as they play, which is without their average.

    Args:
      **known: what `families.gan.evaluation.game_values` takes besides the state and a batch.

    Returns:
      The step, as an `Experiment` has it.
    """

    def step(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> dict[str, tuple[Array, Array]]:
        values = evaluation.game_values(state.params, state.model_state, state.key, batch, **known)
        return masked_sums(values, batch["mask"], axis_name)

    return step


def settle(state: TrainState, *, networks: objectives.Networks) -> TrainState:
    """A run's state with the batch statistics of the parameters that it is evaluated with.

    Args:
      state: of the run.
      networks: the networks.

    Returns:
      The state.
    """
    settled = sampling.settle_statistics(state.eval_params, state.model_state, state.key, networks=networks)
    return dataclasses.replace(state, model_state=settled)


def sample(state: TrainState, keys: Key, *, networks: objectives.Networks) -> Array:
    """Draws samples with the parameters that a run is evaluated with.

    Args:
      state: of the run, settled.
      keys: [n].
      networks: the networks.

    Returns:
      As `families.gan.sampling.sample`.
    """
    return sampling.sample(state.eval_params, state.model_state, keys, networks=networks)
