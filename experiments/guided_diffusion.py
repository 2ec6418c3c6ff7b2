r"""Guided diffusion: ADM's network, guided by itself or by a classifier (Dhariwal and Nichol, 2021).

Command: python -m experiments.guided_diffusion --workdir=runs/guided_diffusion
Expected: Fréchet distance 1.0 by the package's classifier (2,000 samples of all classes), 3.9 bits/dim
Time: 19 min of training on one CPU core beside another run, and 2 min for the samples

Presets (--preset=...):
  default     told the class, but for one image in ten; guided by itself, s = 1.5; 20 steps of DPM-Solver++
  imagenet64  the paper's network and recipe at 64 pixels, on --config.data.name=NAME of --data_dir with 1000 classes
  tiny        seconds; for tests

One checkpoint samples with any guidance, of one class (--config.guidance.label=7) or of all:
  --mode=sample --config.guidance.scale=3                                  by itself (Ho and Salimans, 2022)
  --mode=sample --config.guidance.name=classifier --config.guidance.scale=2 \
    --config.guidance.classifier=runs/noisy_classifier                     by `experiments.noisy_classifier`
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
    config = _image_diffusion.base_config("guided_diffusion", preset)
    _image_diffusion.use_adm(config)
    config.model.num_classes = 10
    config.objective.label_dropout = 0.1
    config.guidance.name = "classifier_free"
    config.guidance.scale = 1.5
    _image_diffusion.small_run(config)
    config.train.duration = "8 epochs"
    config.eval.num_samples = 2000
    return config_lib.apply_preset(config, _PRESETS)


def _imagenet64(config: ConfigDict) -> None:
    config.data.name = "images"
    config.process.schedule = "cosine"
    config.model.num_classes = 1000
    config.model.channels = 192
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.num_blocks = 3
    config.model.attention_at = (32, 16, 8)
    config.model.head_channels = 64
    config.model.variance = "learned"
    config.objective.loss = "hybrid"
    config.model.dropout = 0.1
    config.objective.flip = True
    config.objective.label_dropout = 0.0
    config.guidance.name, config.guidance.scale = "none", 1.0  # A classifier guides, once there is one.
    _image_diffusion.long_run(config)
    config.sampler.num_steps = 250
    config.sampler.spacing = "even"
    config.optim.name = "adamw"
    config.optim.learning_rate = 3e-4
    config.optim.warmup = "0 steps"
    config.optim.clip_norm = 0.0
    config.train.batch_size = 2048
    config.train.duration = "540000 steps"


def _tiny(config: ConfigDict) -> None:
    _image_diffusion.tiny_run(config)
    config.model.head_channels = 4
    config.model.remat = True


_PRESETS = {"default": lambda config: None, "imagenet64": _imagenet64, "tiny": _tiny}


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
    cli.main("guided_diffusion")
