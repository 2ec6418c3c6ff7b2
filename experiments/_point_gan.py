"""What the games on points in the plane share: two small networks, and who wins."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from experiments import _game, _points
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Field, Source
from gen_jax.families.gan import evaluation, models, objectives, pictures
from gen_jax.train.game import Player
from gen_jax.train.state import TrainState


def base_config(experiment: str, preset: str) -> ConfigDict:
    """The sections that the games on points share.

    Args:
      experiment: the module's name.
      preset: the preset's.

    Returns:
      The config, unlocked.
    """
    config = config_lib.base_config()
    config.experiment = experiment
    config.preset = preset
    _points.add_keys(config)

    config.model = ConfigDict()
    config.model.latent_dim = 256
    config.model.latent = "normal"  # normal | uniform
    config.model.generator_hidden = (128, 128)
    config.model.discriminator_hidden = (128,)
    config.model.activation = "relu"  # relu | tanh | leaky_relu
    config.model.maxout_pieces = 0  # Of the discriminator; 0 for the activation above.
    config.model.spectral = False  # Of the discriminator.
    config.model.orthogonal_gain = 0.8  # Of the initial weights.
    config.model.input_scale = 0.25  # The discriminator sees x times this.
    return config


def base_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `base_config` must satisfy."""
    at_least = config_lib.at_least
    return (
        config_lib.base_rules()
        | _points.rules()
        | {
            "model.latent_dim": at_least(1),
            "model.latent": config_lib.one_of(*objectives.LATENTS),
            "model.generator_hidden": config_lib.each(at_least(1)),
            "model.discriminator_hidden": config_lib.each(at_least(1)),
            "model.activation": config_lib.one_of("relu", "tanh", "leaky_relu"),
            "model.maxout_pieces": at_least(0),
            "model.orthogonal_gain": config_lib.positive,
            "model.input_scale": config_lib.positive,
        }
    )


def check(config: ConfigDict, rules: dict[str, config_lib.Rule]) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.
      rules: beyond those of `base_rules`.

    Raises:
      UserError: for the first value out of range, and for keys that do not go together.
    """
    config_lib.check(config, base_rules() | rules)
    config_lib.check_optimizer(config)
    _points.check(config)


def networks_of(config: ConfigDict) -> objectives.Networks:
    """The two fully connected networks of a config."""
    m = config.model
    activation = {"relu": nn.relu, "tanh": nn.tanh, "leaky_relu": models.leaky_relu}[m.activation]
    init = nn.initializers.orthogonal(m.orthogonal_gain)
    generator = models.MLPGenerator(
        (2,), m.latent_dim, tuple(m.generator_hidden), activation, output="linear", kernel_init=init
    )
    discriminator = models.MLPDiscriminator(
        tuple(m.discriminator_hidden),
        activation,
        maxout_pieces=m.maxout_pieces,
        input_scale=m.input_scale,
        spectral=m.spectral,
        kernel_init=init,
    )
    return objectives.Networks(generator, discriminator, m.latent)


def build(
    config: ConfigDict,
    players: Callable[[ConfigDict, objectives.Networks, int], list[Player]],
    sources: tuple[Source, Source] | None,
) -> Experiment:
    """Wires a game on points: source -> networks -> players -> step -> evaluation -> pictures.

    Args:
      config: the resolved config, checked.
      players: of the config, the networks and the number of examples an epoch: the players in the order of their turns.
      sources: the training and test sources; None to draw them by `config.data`.

    Returns:
      The experiment.
    """
    mixture = _points.mixture_of(config)
    train_source, test_source = _points.sources_of(config, sources)
    networks = networks_of(config)
    turns = players(config, networks, train_source.num_examples)
    loss, radius = config.objective.loss, config.eval.mode_radius * mixture.std

    sample = functools.partial(_game.sample, networks=networks)

    def field(state: TrainState) -> Field:
        return pictures.point_field(
            state.eval_params,
            state.model_state,
            state.key,
            state.params["discriminator"],
            networks=networks,
            centres=mixture.centres,
            std=mixture.std,
            probability=loss in objectives.CROSS_ENTROPIES,
        )

    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=functools.partial(
            _game.init_state, networks=networks, turns=turns, example_shape=(2,), ema=_game.has_ema(config)
        ),
        train_step=_game.train_step(config, turns, train_source.num_examples),
        eval_step=_game.eval_step(networks=networks, loss=loss, centres=mixture.centres, radius=radius),
        report=functools.partial(
            evaluation.report, num_examples=test_source.num_examples, min_count=config.eval.mode_count
        ),
        assess=functools.partial(_points.assess, sample=jax.jit(sample), config=config),
        sample=sample,
        pictures=lambda state: {"samples": field(state)},
        frame=field,
        warnings=objectives.warnings_of(loss),
        headline=("modes_covered", "high_quality", "reverse_kl_nats", "discriminator_loss"),
        steps_per_call=config.train.steps_per_call,
    )
