"""Wasserstein GAN with gradient penalty (Gulrajani et al., 2017).

Command: python -m experiments.wgan_gp --workdir=runs/wgan_gp
Expected: Fréchet distance 2.4 by the features of the package's classifier, from 10,000 samples (Fashion-MNIST 10k)
Time: 4 to 8 min of training on two CPU cores

Presets (--preset=...):
  default      on the Fashion-MNIST images that come with the package, with narrow convolutional networks
  resnet       the same with the paper's residual networks
  conditional  both players are told the class
  cifar10      the paper's residual networks and learning rate at 32 pixels (files in --data_dir)
  tiny         seconds; for tests

Unlike the paper's, the generator's batch is the critic's, not twice as large, and samples are of a moving average.
"""

from __future__ import annotations

import flax.linen as nn
from ml_collections import ConfigDict

from experiments import _image_gan
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Source
from gen_jax.families.gan import dcgan, objectives, resnet


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _image_gan.base_config("wgan_gp", preset)
    config.model.network = "dcgan"  # dcgan | resnet
    config.model.latent_dim = 128
    config.model.channels = 32  # dcgan: of the layer nearest the image; resnet: of every block.
    config.model.discriminator_norm = "none"  # none | layer | batch, which does not go with the penalty.
    config.objective.loss = "wasserstein"
    config.objective.penalty, config.objective.penalty_weight = "gradient", 10.0
    config.game.discriminator_updates = 5

    config.optim.learning_rate = 1e-3  # Above the paper's 1e-4 and 2e-4, for a short run.
    config.optim.b1, config.optim.b2 = 0.5, 0.9
    config.optim.schedule = "linear"
    config.train.batch_size = 5 * 64  # 64 for each update of the critic, and for the generator's.
    config.train.duration = "80 epochs"
    config.train.ema_half_life = "500 steps"
    config.train.ema_ramp_up = 0.1
    config.train.eval_every = config.train.checkpoint_every = "5 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _resnet(config: ConfigDict) -> None:
    config.model.network = "resnet"


def _conditional(config: ConfigDict) -> None:
    config.model.num_classes = 10


def _cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.network = "resnet"
    config.model.channels = 128
    config.optim.learning_rate, config.optim.b1 = 2e-4, 0.0
    config.train.duration = "100000 steps"
    config.train.eval_every = config.train.checkpoint_every = "2000 steps"


def _tiny(config: ConfigDict) -> None:
    config.optim.learning_rate = 1e-3
    config.model.latent_dim = 8
    config.model.channels = 4
    config.game.discriminator_updates = 2
    config.train.batch_size = 64
    config.train.duration = "8 steps"
    config.train.log_every = "2 steps"
    config.train.eval_every = config.train.checkpoint_every = "4 steps"
    config.train.ema_half_life = "4 steps"
    config.eval.sample_chunk = 16
    config.eval.num_samples = 0


_PRESETS = {
    "default": lambda config: None,
    "resnet": _resnet,
    "conditional": _conditional,
    "cifar10": _cifar10,
    "tiny": _tiny,
}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = {
        "model.network": config_lib.one_of("dcgan", "resnet"),
        "model.channels": config_lib.at_least(1),
        "model.discriminator_norm": config_lib.one_of("none", "layer", "batch"),
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
    height, width, channels = image_shape
    shape, classes = (height, width, channels), {"num_classes": m.num_classes}
    critic = {"norm": m.discriminator_norm, "conditioning": m.conditioning} | classes
    if m.network == "resnet":
        generator: nn.Module = resnet.ResNetGenerator(shape, m.latent_dim, m.channels, **classes)
        return objectives.Networks(generator, resnet.ResNetDiscriminator(m.channels, **critic), m.latent)
    generator = dcgan.DCGANGenerator(shape, m.latent_dim, m.channels, **classes)
    return objectives.Networks(generator, dcgan.DCGANDiscriminator(m.channels, **critic), m.latent)


if __name__ == "__main__":
    cli.main("wgan_gp")
