"""DCGAN: convolutional networks with batch normalisation (Radford et al., 2016).

Command: python -m experiments.dcgan --workdir=runs/dcgan
Expected: Fréchet distance 2.8 by the features of the package's classifier, from 10,000 samples (Fashion-MNIST 10k)
Time: 4 min of training on two CPU cores

Presets (--preset=...):
  default      on the Fashion-MNIST images that come with the package, with narrow networks
  conditional  both players are told the class: conditional batch norm, projection (Miyato and Koyama, 2018)
  hinge        hinge losses and a discriminator of spectral norm 1 instead of batch norm (Miyato et al., 2018)
  cifar10      the paper's widths, uniform z and batches of 128 at 32 pixels (files in --data_dir)
  images64     the same at 64 pixels, on --config.data.name=NAME of --data_dir
  tiny         seconds; for tests

Kernels are 4x4 as in the authors' code (5x5 in the paper: --config.model.kernel_size=5), and samples are of a moving
average of the generator. Colour images are judged by Inception's weights alone: --config.eval.features=FILE.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import _image_gan
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Source
from gen_jax.families.gan import dcgan, objectives


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _image_gan.base_config("dcgan", preset)
    config.model.channels = 32  # Of the layer nearest the image, in both networks.
    config.model.kernel_size = 4
    config.model.discriminator_norm = "batch"  # batch | layer | none
    config.model.spectral = False  # Of the discriminator.

    config.optim.learning_rate = 2e-4
    config.optim.b1 = 0.5
    config.train.batch_size = 64
    config.train.duration = "40 epochs"
    config.train.ema_half_life = "1000 steps"
    config.train.ema_ramp_up = 0.1
    config.train.eval_every = config.train.checkpoint_every = "2 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _conditional(config: ConfigDict) -> None:
    config.model.num_classes = 10


def _hinge(config: ConfigDict) -> None:
    config.objective.loss = "hinge"
    config.model.discriminator_norm, config.model.spectral = "none", True


def _cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.channels = 128
    config.model.latent = "uniform"
    config.train.batch_size = 128
    config.train.duration = "100 epochs"


def _images64(config: ConfigDict) -> None:
    _cifar10(config)
    config.data.name = "images"


def _tiny(config: ConfigDict) -> None:
    config.optim.learning_rate = 1e-3
    config.model.latent_dim = 8
    config.model.channels = 4
    config.train.batch_size = 64
    config.train.duration = "8 steps"
    config.train.log_every = "2 steps"
    config.train.eval_every = config.train.checkpoint_every = "4 steps"
    config.train.ema_half_life = "4 steps"
    config.eval.sample_chunk = 16
    config.eval.num_samples = 0


_PRESETS = {
    "default": lambda config: None,
    "conditional": _conditional,
    "hinge": _hinge,
    "cifar10": _cifar10,
    "images64": _images64,
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
        "model.channels": config_lib.at_least(1),
        "model.kernel_size": config_lib.at_least(2),
        "model.discriminator_norm": config_lib.one_of("batch", "layer", "none"),
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
    generator = dcgan.DCGANGenerator(
        (height, width, channels), m.latent_dim, m.channels, m.kernel_size, num_classes=m.num_classes
    )
    discriminator = dcgan.DCGANDiscriminator(
        m.channels,
        m.kernel_size,
        m.discriminator_norm,
        spectral=m.spectral,
        num_classes=m.num_classes,
        conditioning=m.conditioning,
    )
    return objectives.Networks(generator, discriminator, m.latent)


if __name__ == "__main__":
    cli.main("dcgan")
