"""The unrolled GAN of Metz et al. (2017) on the ring of eight Gaussians where the plain game loses its modes.

Command: python -m experiments.unrolled_gan --workdir=runs/unrolled_gan
Expected: 8 of 8 modes after 10,000 rounds with K = 5; at most 2 with K = 0
Time: 3 min of training on two CPU cores

Presets (--preset=...):
  default  K = 5 updates ahead, 10,000 rounds
  plain    K = 0, the same else
  longer   K = 10, 25,000 rounds
  tiny     seconds; for tests
"""

from __future__ import annotations

import functools

import optax
from ml_collections import ConfigDict

from experiments import _point_gan
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Source, UserError
from gen_jax.families.gan import objectives
from gen_jax.train.game import Player
from gen_jax.train.optimizer import step_options


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _point_gan.base_config("unrolled_gan", preset)
    config.objective = ConfigDict()
    config.objective.loss = "minimax"  # minimax | non_saturating | hinge | least_squares

    config.game = ConfigDict()
    config.game.unrolled_steps = 5  # K
    config.game.discriminator_rate = 1.0  # The discriminator's learning rate, by optim.learning_rate.

    config.optim.learning_rate = 1e-4
    config.optim.b1 = 0.5
    config.train.batch_size = 512
    config.train.duration = "10000 steps"
    config.train.steps_per_call = 50
    config.train.log_every = "500 steps"
    config.train.eval_every = "500 steps"
    config.train.checkpoint_every = "2500 steps"
    config.eval.batch_size = 1000
    # At 10,000 rounds the samples are still spread about their modes; 0.2 from a centre is what counts here.
    config.eval.mode_radius = 10.0
    return config_lib.apply_preset(config, _PRESETS)


def _plain(config: ConfigDict) -> None:
    config.game.unrolled_steps = 0


def _longer(config: ConfigDict) -> None:
    config.game.unrolled_steps = 10
    config.train.duration = "25000 steps"


def _tiny(config: ConfigDict) -> None:
    config.game.unrolled_steps = 2
    config.optim.learning_rate = 2e-3
    config.model.latent_dim = 4
    config.model.generator_hidden = config.model.discriminator_hidden = (16,)
    config.data.num_test = 500
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.eval.batch_size = 64
    config.eval.sample_chunk = 16


_PRESETS = {"default": lambda config: None, "plain": _plain, "longer": _longer, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = {
        "game.unrolled_steps": config_lib.at_least(0),
        # Nothing here would hold the slope of a Wasserstein critic.
        "objective.loss": config_lib.one_of(*(loss for loss in objectives.LOSSES if loss != "wasserstein")),
        "game.discriminator_rate": config_lib.positive,
    }
    _point_gan.check(config, rules)
    if config.game.unrolled_steps and config.train.precision != "float32":
        raise UserError(
            f"config.train.precision={config.train.precision} rounds away the updates that an unrolled game looks "
            "ahead at; use float32, or config.game.unrolled_steps=0."
        )


def build(config: ConfigDict, sources: tuple[Source, Source] | None = None) -> Experiment:
    """Wires the experiment: source -> networks -> players -> step -> evaluation -> pictures.

    Args:
      config: the resolved config.
      sources: the training and test sources; None to draw them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the config cannot be used.
    """
    validate(config)
    return _point_gan.build(config, players, sources)


def players(config: ConfigDict, networks: objectives.Networks, num_examples: int) -> list[Player]:
    """The generator, which looks K updates ahead, and after it the discriminator, which moves by one.

    Args:
      config: the resolved config, checked.
      networks: the networks.
      num_examples: examples an epoch, for durations.

    Returns:
      The two players.
    """
    loss, game, clip_norm = config.objective.loss, config.game, config.optim.clip_norm
    # Differentiable where a gradient is 0, as the generator's gradient goes through it.
    opponent = step_options(config, num_examples, rate=game.discriminator_rate, eps_root=1e-16)["tx"]
    if clip_norm:  # Within the optimiser, so that the updates that are looked ahead at are clipped like the real ones.
        opponent = optax.chain(optax.clip_by_global_norm(clip_norm), opponent)
    generator = functools.partial(
        objectives.unrolled_generator_objective,
        tx=opponent,
        num_steps=game.unrolled_steps,
        networks=networks,
        loss=loss,
    )
    discriminator = functools.partial(objectives.discriminator_objective, networks=networks, loss=loss)
    return [
        Player(
            "generator", generator, step_options(config, num_examples)["tx"], clip_norm=clip_norm, takes_opt_state=True
        ),
        Player("discriminator", discriminator, opponent),
    ]


if __name__ == "__main__":
    cli.main("unrolled_gan")
