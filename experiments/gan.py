"""Generative adversarial nets of fully connected layers on images (Goodfellow et al., 2014).

Command: python -m experiments.gan --workdir=runs/gan
Expected: Fréchet distance 1.9 by the features of the package's classifier, from 10,000 samples (Fashion-MNIST 10k)
Time: 2 to 4 min of training on two CPU cores

Presets (--preset=...):
  default      on the Fashion-MNIST images that come with the package, with Adam
  conditional  both players are told the class (Mirza and Osindero, 2014)
  maxout       networks after the paper's on MNIST (files in --data_dir): maxout, dropout, uniform z; with Adam
  tiny         seconds; for tests
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import _image_gan
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Source
from gen_jax.families.gan import models, objectives


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _image_gan.base_config("gan", preset)
    config.model.generator_hidden = (512, 512)
    config.model.discriminator_hidden = (512, 256)
    config.model.generator_norm = "batch"  # batch | none
    config.model.maxout_pieces = 0  # Of the discriminator; 0 for leaky ReLU.
    config.model.dropout = 0.3  # Of the discriminator's hidden layers.
    config.model.input_dropout = 0.0
    config.model.spectral = False  # Of the discriminator.

    config.eval.parzen = True
    config.optim.learning_rate = 2e-4
    config.optim.b1 = 0.5
    config.train.batch_size = 64
    config.train.duration = "100 epochs"
    config.train.steps_per_call = 10
    config.train.ema_half_life = "1000 steps"
    config.train.ema_ramp_up = 0.1
    config.train.eval_every = config.train.checkpoint_every = "5 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _conditional(config: ConfigDict) -> None:
    config.model.num_classes = 10
    config.model.conditioning = "embedding"


def _maxout(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.model.latent = "uniform"
    config.model.generator_hidden = (1200, 1200)
    config.model.generator_norm = "none"
    config.model.discriminator_hidden = (240, 240)
    config.model.maxout_pieces = 5
    config.model.dropout, config.model.input_dropout = 0.5, 0.2
    config.train.batch_size = 100


def _tiny(config: ConfigDict) -> None:
    config.optim.learning_rate = 1e-3
    config.model.latent_dim = 8
    config.model.generator_hidden = (32,)
    config.model.discriminator_hidden = (32,)
    config.model.num_classes = 10
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.train.ema_half_life = "10 steps"
    config.eval.sample_chunk = 16
    config.eval.num_samples = 200


_PRESETS = {"default": lambda config: None, "conditional": _conditional, "maxout": _maxout, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = {
        "model.generator_hidden": config_lib.each(config_lib.at_least(1)),
        "model.discriminator_hidden": config_lib.each(config_lib.at_least(1)),
        "model.generator_norm": config_lib.one_of("batch", "none"),
        "model.maxout_pieces": config_lib.at_least(0),
        "model.dropout": config_lib.between(0.0, 1.0),
        "model.input_dropout": config_lib.between(0.0, 1.0),
    }
    _image_gan.check(config, rules)


def build(config: ConfigDict, sources: tuple[Source, Source] | None = None) -> Experiment:
    """Wires the experiment: source -> networks -> players -> step -> evaluation -> pictures.

    Args:
      config: the resolved config.
      sources: the training and test sources; None to find them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the config or the data cannot be used.
    """
    validate(config)
    return _image_gan.build(config, build_networks, sources)


def build_networks(config: ConfigDict, image_shape: tuple[int, ...]) -> objectives.Networks:
    """The two networks of a config, for images of a shape (H, W, C)."""
    m = config.model
    generator = models.MLPGenerator(
        image_shape, m.latent_dim, tuple(m.generator_hidden), norm=m.generator_norm, num_classes=m.num_classes
    )
    discriminator = models.MLPDiscriminator(
        tuple(m.discriminator_hidden),
        maxout_pieces=m.maxout_pieces,
        input_dropout=m.input_dropout,
        dropout=m.dropout,
        spectral=m.spectral,
        num_classes=m.num_classes,
        conditioning=m.conditioning,
    )
    return objectives.Networks(generator, discriminator, m.latent)


if __name__ == "__main__":
    cli.main("gan")
