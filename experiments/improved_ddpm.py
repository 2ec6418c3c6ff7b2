"""Improved diffusion: the cosine schedule, the hybrid loss and a learned variance (Nichol and Dhariwal, 2021).

Command: python -m experiments.improved_ddpm --workdir=runs/improved_ddpm
Expected: Fréchet distance 2.3 by the package's classifier (2,000 samples), 3.5 bits/dim
Time: 16 min of training on one CPU core beside another run, and 5 min for the samples

Presets (--preset=...):
  default  cosine schedule, L_hybrid, on the Fashion-MNIST images that come with the package; 50 ancestral steps
  vlb      L_vlb alone, its steps drawn by importance
  cifar10  the paper's network and recipe on CIFAR-10 (files in --data_dir): 4000 steps, sampled by 250
  tiny     seconds; for tests
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import _image_diffusion
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
    config = _image_diffusion.base_config("improved_ddpm", preset)
    _image_diffusion.use_adm(config)
    config.model.big_gan_resampling = False
    config.process.schedule = "cosine"
    config.model.variance = "learned"
    config.objective.loss = "hybrid"
    config.sampler.name = "ancestral"
    config.sampler.num_steps = 50
    config.sampler.spacing = "even"
    _image_diffusion.small_run(config)
    config.train.duration = "8 epochs"
    config.eval.num_samples = 2000
    return config_lib.apply_preset(config, _PRESETS)


def _vlb(config: ConfigDict) -> None:
    config.objective.loss = "vlb"
    config.objective.steps = "importance"


def _cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.process.num_steps = 4000
    config.process.rescale_timesteps = True
    config.model.channels = 128
    config.model.channel_mult = (1, 2, 2, 2)
    config.model.num_blocks = 3
    config.model.attention_at = (16, 8)
    config.model.head_channels = 64
    config.model.dropout = 0.3
    _image_diffusion.long_run(config)
    config.sampler.num_steps = 250
    config.sampler.spacing = "even"
    config.optim.learning_rate = 1e-4
    config.optim.warmup = "0 steps"
    config.optim.clip_norm = 0.0
    config.train.duration = "500000 steps"


def _tiny(config: ConfigDict) -> None:
    _image_diffusion.tiny_run(config)
    config.model.head_channels = 4
    config.model.attention_at = (14,)
    config.objective.steps = "importance"
    config.objective.flip = True


_PRESETS = {"default": lambda config: None, "vlb": _vlb, "cifar10": _cifar10, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    _image_diffusion.check(config, _image_diffusion.adm_rules())


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
    return _image_diffusion.build(config, _image_diffusion.build_adm, sources)


if __name__ == "__main__":
    cli.main("improved_ddpm")
