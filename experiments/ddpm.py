"""Denoising diffusion probabilistic models on images (Ho et al., 2020).

Command: python -m experiments.ddpm --workdir=runs/ddpm
Expected: Fréchet distance 1.6 by the package's classifier, from 10,000 samples, and 3.9 bits/dim (Fashion-MNIST 10k)
Time: 20 min of training on one CPU core, or on two beside other jobs, and 5 to 11 to judge the samples

Presets (--preset=...):
  default  a small U-Net that predicts v, on the Fashion-MNIST images that come with the package
  epsilon  the same network predicts ε, as the paper's does
  cifar10  the paper's network and recipe on CIFAR-10 (files in --data_dir); sampled by all 1000 steps
  tiny     seconds; for tests

One checkpoint samples by any sampler: --mode=sample with --config.sampler.name=ddim --config.sampler.num_steps=50, or
--config.sampler.name=ancestral --config.sampler.num_steps=0 for all steps.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import _image_diffusion
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Source, UserError
from gen_jax.families.diffusion import unet


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _image_diffusion.base_config("ddpm", preset)
    _image_diffusion.small_run(config)
    return config_lib.apply_preset(config, _PRESETS)


def _epsilon(config: ConfigDict) -> None:
    config.model.prediction = "epsilon"


def _cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.channels = 128
    config.model.channel_mult = (1, 2, 2, 2)
    config.model.num_blocks = 2
    config.model.dropout = 0.1
    config.model.attention_at = (16,)
    config.objective.flip = True
    _image_diffusion.long_run(config)


def _tiny(config: ConfigDict) -> None:
    _image_diffusion.tiny_run(config)
    config.model.dropout = 0.1


_PRESETS = {"default": lambda config: None, "epsilon": _epsilon, "cifar10": _cifar10, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    _image_diffusion.check(config)
    if config.model.num_classes:
        raise UserError(
            f"config.model.num_classes={config.model.num_classes} cannot be: DDPM's U-Net takes no labels; use "
            "experiments.guided_diffusion."
        )


def build(config: ConfigDict, sources: tuple[Source, Source] | None = None) -> Experiment:
    """Wires the experiment: source -> model -> objective -> step -> evaluation -> pictures.

    Args:
      config: the resolved config.
      sources: the training and test sources; None to find them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the config or the data cannot be used.
    """
    validate(config)
    return _image_diffusion.build(config, build_model, sources)


def build_model(config: ConfigDict, image_shape: tuple[int, ...]) -> unet.UNet:
    """The U-Net of a config for images of a shape (H, W, C).

    Raises:
      UserError: where its depth or its attention does not fit the images.
    """
    m = config.model
    unet.check_sizes(image_shape, tuple(m.channel_mult), tuple(m.attention_at))
    return unet.UNet(
        image_shape[-1] * (2 if m.variance == "learned" else 1),
        m.channels,
        tuple(m.channel_mult),
        m.num_blocks,
        tuple(m.attention_at),
        m.dropout,
        m.remat,
    )


if __name__ == "__main__":
    cli.main("ddpm")
