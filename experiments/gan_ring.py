"""Generative adversarial networks on points in the plane, where it can be seen what they do (Goodfellow et al., 2014).

Command: python -m experiments.gan_ring --workdir=runs/gan_ring
Expected: 8 of 8 modes, 0.80 of the samples within three standard deviations of one
Time: 70 to 90 s of training on two CPU cores

Presets (--preset=...):
  default  eight Gaussians on a ring; the non-saturating loss with the R1 penalty of Mescheder et al. (2018)
  grid     twenty-five Gaussians in a square
  wgan_gp  the ring by a critic with the gradient penalty of Gulrajani et al. (2017)
  wgan     the ring by a critic with clipped weights (Arjovsky et al., 2017; c = 0.1 and Adam, not 0.01 and RMSProp)
  hinge    the ring by the hinge losses and a discriminator of spectral norm 1 (Miyato et al., 2018)
  collapse the ring by the saturating loss of the first paper, without help: one mode or two
  tiny     seconds; for tests
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import _game, _point_gan
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Source


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _point_gan.base_config("gan_ring", preset)
    config.model.discriminator_hidden = (128, 128)
    _game.add_keys(config)
    config.objective.penalty, config.objective.penalty_weight = "r1", 0.1

    config.optim.learning_rate = 1e-3
    config.optim.b1 = 0.5
    config.optim.schedule = "linear"
    config.train.batch_size = 512
    config.train.duration = "10000 steps"
    config.train.steps_per_call = 50
    config.train.log_every = "500 steps"
    config.train.eval_every = "500 steps"
    config.train.checkpoint_every = "2500 steps"
    config.eval.batch_size = 1000
    return config_lib.apply_preset(config, _PRESETS)


def _grid(config: ConfigDict) -> None:
    config.data.name = "grid"
    config.data.std = 0.05
    config.train.duration = "20000 steps"


def _wgan_gp(config: ConfigDict) -> None:
    config.objective.loss = "wasserstein"
    config.objective.penalty, config.objective.penalty_weight = "gradient", 0.1
    config.game.discriminator_updates = 5
    config.train.batch_size = 5 * 256
    config.optim.b2 = 0.9


def _wgan(config: ConfigDict) -> None:
    config.objective.loss, config.objective.penalty = "wasserstein", "none"
    config.game.clip_weights = 0.1
    config.game.discriminator_updates = 5
    config.train.batch_size = 5 * 256
    config.optim.b1 = 0.0


def _hinge(config: ConfigDict) -> None:
    config.objective.loss, config.objective.penalty, config.model.spectral = "hinge", "none", True


def _collapse(config: ConfigDict) -> None:
    config.model.discriminator_hidden = (128,)
    config.objective.loss, config.objective.penalty = "minimax", "none"
    config.optim.learning_rate, config.optim.schedule = 1e-4, "constant"


def _tiny(config: ConfigDict) -> None:
    config.model.latent_dim = 4
    config.model.generator_hidden = config.model.discriminator_hidden = (16, 16)
    config.data.num_test = 500
    config.game.discriminator_updates = 2
    config.optim.schedule = "constant"
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.train.ema_decay = 0.9
    config.eval.batch_size = 64
    config.eval.sample_chunk = 16


_PRESETS = {
    "default": lambda config: None,
    "grid": _grid,
    "wgan_gp": _wgan_gp,
    "wgan": _wgan,
    "hinge": _hinge,
    "collapse": _collapse,
    "tiny": _tiny,
}


def validate(config: ConfigDict) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    _point_gan.check(config, _game.rules())
    _game.check(config)


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
    return _point_gan.build(config, _game.players, sources)


if __name__ == "__main__":
    cli.main("gan_ring")
