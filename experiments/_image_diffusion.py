"""What the experiments on diffusion of images share: configs and the wiring."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from experiments import _diffusion, _diffusion_pictures, _guidance, _images
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Source, UserError
from gen_jax.families.diffusion import adm, evaluation, objectives, parameterization, unet
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.train.optimizer import step_options
from gen_jax.train.step import make_eval_step, make_train_step


def base_config(experiment: str, preset: str) -> ConfigDict:
    """The sections that the experiments on images share.

    Args:
      experiment: the module's name.
      preset: the preset's.

    Returns:
      The config, unlocked.
    """
    config = config_lib.base_config()
    config.experiment = experiment
    config.preset = preset
    config.data.name = "fashion_mnist_10k"
    config.process = _diffusion.process_section()

    config.model = ConfigDict()
    _diffusion.add_network_keys(config)
    config.model.num_classes = 0
    config.model.prediction = "epsilon"  # epsilon | x0 | v | score
    config.model.variance = "fixed_large"  # fixed_large | fixed_small | beta | learned

    config.objective = ConfigDict()
    config.objective.loss = "simple"  # simple | hybrid | vlb
    config.objective.weighting = "none"  # none | epsilon | min_snr: of the simple loss.
    config.objective.min_snr_gamma = 5.0
    config.objective.vlb_weight = 0.001  # Of the bound in the hybrid loss.
    config.objective.steps = "uniform"  # uniform | antithetic | stratified | importance: how they are drawn.
    config.objective.label_dropout = 0.0  # How often an image's label is withheld.
    config.objective.flip = False  # Whether half of the images are mirrored.

    config.sampler = _diffusion.sampler_section()
    config.sampler.name = "dpm_solver"
    config.sampler.num_steps = 20
    config.guidance = _guidance.section()

    _images.add_judge_keys(config)
    config.eval.bound = "whole"  # --mode=eval: whole | estimate: the bound at all steps, or as at every evaluation.
    config.eval.bound_chunk = 1  # How many steps of the whole bound go through the network at once.
    config.eval.flow_steps = 0  # --mode=eval: steps of the probability-flow ODE's likelihood; 0 for none.
    return config


def small_run(config: ConfigDict) -> None:
    """Makes a run of minutes on two CPU cores of a config of `base_config`.

    The network predicts v: x_0 = (x_t − √(1 − ᾱ) ε) / √ᾱ makes of an error of ε one √(1 − ᾱ) / √ᾱ times as large, which
    at much noise is many times.
    """
    config.model.prediction = "v"
    config.objective.steps = "stratified"
    config.optim.learning_rate = 2e-3
    config.optim.warmup = "200 steps"
    config.optim.schedule = "cosine"
    config.optim.clip_norm = 1.0
    config.train.batch_size = 32
    config.train.duration = "12 epochs"
    config.train.ema_half_life = "300 steps"
    config.train.ema_ramp_up = 0.1
    config.train.eval_every = config.train.checkpoint_every = "2 epochs"


def long_run(config: ConfigDict) -> None:
    """Makes a run by DDPM's recipe for CIFAR-10 of a config of `base_config`."""
    config.model.prediction = "epsilon"
    config.objective.steps = "uniform"
    config.optim.learning_rate = 2e-4
    config.optim.warmup = "5000 steps"
    config.optim.schedule = "constant"
    config.optim.clip_norm = 1.0
    config.train.batch_size = 128
    config.train.duration = "800000 steps"
    config.train.ema_half_life = ""
    config.train.ema_decay = 0.9999
    config.train.ema_ramp_up = 0.0
    config.train.eval_every = config.train.checkpoint_every = "20000 steps"
    config.eval.num_samples = 50_000
    config.eval.batch_size = 32  # The network sees each image at every stratum of steps at once.
    config.sampler = _diffusion.sampler_section()


def tiny_run(config: ConfigDict) -> None:
    """Makes a run of seconds of a config of `base_config`."""
    config.process.num_steps = 20
    config.process.schedule = "cosine"
    config.model.channels = 4
    config.model.channel_mult = (1, 2)
    config.model.num_blocks = 1
    config.model.attention_at = ()
    config.model.dropout = 0.0  # Slow to compile; of these presets ddpm's has it.
    config.sampler.num_steps = 4
    config.optim.learning_rate = 5e-3
    config.optim.warmup = "0 steps"
    config.optim.schedule = "constant"
    config.train.batch_size = 32
    config.train.duration = "8 steps"
    config.train.log_every = "2 steps"
    config.train.eval_every = config.train.checkpoint_every = "4 steps"
    config.train.ema_half_life = "4 steps"
    config.eval.batch_size = 40
    config.eval.sample_chunk = 16
    config.eval.num_samples = 0


def use_adm(config: ConfigDict) -> None:
    """Adds the keys of ADM's U-Net to a config of `base_config`, of a size for two CPU cores."""
    config.model.head_channels = 32  # Of each head of attention.
    config.model.big_gan_resampling = True  # Whether residual blocks resample, or convolutions, as in DDPM.
    config.model.adaptive_norm = True  # Whether time and label scale and shift what is normalised.


def adm_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `use_adm` must satisfy."""
    return {"model.head_channels": config_lib.at_least(1)}


def build_adm(config: ConfigDict, image_shape: tuple[int, ...]) -> adm.ADMUNet:
    """ADM's U-Net of a config for images of a shape (H, W, C).

    Raises:
      UserError: where its depth, its attention or its heads do not fit.
    """
    m = config.model
    unet.check_sizes(image_shape, tuple(m.channel_mult), tuple(m.attention_at))
    adm.check_heads(image_shape[0], m.channels, tuple(m.channel_mult), tuple(m.attention_at), m.head_channels)
    return adm.ADMUNet(
        channels=m.channels,
        channel_mult=tuple(m.channel_mult),
        num_blocks=m.num_blocks,
        attention_at=tuple(m.attention_at),
        head_channels=m.head_channels,
        dropout=m.dropout,
        big_gan_resampling=m.big_gan_resampling,
        adaptive_norm=m.adaptive_norm,
        remat=m.remat,
        out_channels=image_shape[-1] * (2 if m.variance == "learned" else 1),
        num_classes=m.num_classes,
    )


def base_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `base_config` must satisfy."""
    at_least, one_of = config_lib.at_least, config_lib.one_of
    return (
        config_lib.base_rules()
        | _diffusion.process_rules()
        | _diffusion.sampler_rules()
        | _diffusion.network_rules()
        | _guidance.rules()
        | _images.judge_rules()
        | {
            "model.num_classes": at_least(0),
            "model.prediction": one_of(*parameterization.PREDICTIONS),
            "model.variance": one_of(*parameterization.VARIANCES),
            "objective.loss": one_of(*objectives.LOSSES),
            "objective.weighting": one_of(*objectives.WEIGHTINGS),
            "objective.min_snr_gamma": config_lib.positive,
            "objective.vlb_weight": at_least(0.0),
            "objective.steps": one_of(*objectives.STEPS),
            "objective.label_dropout": config_lib.share,
            "eval.bound": one_of("whole", "estimate"),
            "eval.bound_chunk": at_least(1),
            "eval.flow_steps": at_least(0),
        }
    )


def check(config: ConfigDict, rules: dict[str, config_lib.Rule] | None = None) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.
      rules: beyond those of `base_rules`.

    Raises:
      UserError: for the first value out of range, and for keys that do not go together.
    """
    config_lib.check(config, base_rules() | (rules or {}))
    config_lib.check_optimizer(config)
    _diffusion.check_sampler(config)
    objective, model = config.objective, config.model
    if objective.loss == "simple" and model.variance == "learned":
        raise UserError(
            "config.model.variance=learned is not trained by config.objective.loss=simple; use hybrid or vlb, or a "
            "fixed variance."
        )
    if objective.loss == "hybrid" and model.variance != "learned":
        raise UserError(
            f"config.objective.loss=hybrid trains a variance, and config.model.variance={model.variance} is fixed; use "
            "learned, or another loss."
        )
    for key, default, owner, used in (
        ("vlb_weight", 0.001, "objective.loss=hybrid", objective.loss == "hybrid"),
        ("min_snr_gamma", 5.0, "objective.weighting=min_snr", objective.weighting == "min_snr"),
    ):
        if objective[key] != default and not used:
            raise UserError(f"config.objective.{key}={objective[key]} has no effect; set config.{owner}, or leave it.")
    if config.eval.flow_steps >= config.process.num_steps:
        raise UserError(
            f"config.eval.flow_steps={config.eval.flow_steps} is out of range; the flow has at most one step between "
            f"the {config.process.num_steps} levels of the process."
        )
    if objective.loss != "simple" and objective.weighting != "none":
        raise UserError(
            f"config.objective.weighting={objective.weighting} has no effect with config.objective.loss="
            f"{objective.loss}; use the simple loss, or none."
        )
    if config.sampler.variance and model.variance == "learned":
        raise UserError(
            f"config.sampler.variance={config.sampler.variance} cannot be: this model has learned its variance "
            "(config.model.variance=learned); leave it out."
        )
    if objective.label_dropout and not model.num_classes:
        raise UserError(
            "config.objective.label_dropout has no effect on a model without labels; set config.model.num_classes."
        )
    _guidance.check(config)


def build(
    config: ConfigDict,
    build_model: Callable[[ConfigDict, tuple[int, ...]], nn.Module],
    sources: tuple[Source, Source] | None,
) -> Experiment:
    """Wires an experiment on images: source -> model -> objective -> step -> evaluation -> pictures.

    Args:
      config: the resolved config, checked.
      build_model: of the config and the shape of an image (H, W, C).
      sources: the training and test sources; None to find them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the network and the data do not go together, or the network by whose features samples are to be
        judged cannot be read.
    """
    train_source, test_source = _images.labelled_sources_of(config, sources)
    shape = train_source.example_shape
    m, objective = config.model, config.objective
    model = build_model(config, shape)
    diffusion = Diffusion(_diffusion.make_process(config), model, m.prediction, m.variance, m.num_classes)
    _diffusion.kept_steps(config, diffusion.process)  # Refuses what cannot be sampled by before it is trained.
    options = step_options(config, train_source.num_examples)
    loss = functools.partial(
        objectives.objective,
        diffusion=diffusion,
        batch_size=config.train.batch_size,
        **{key: objective[key] for key in ("loss", "weighting", "min_snr_gamma", "vlb_weight", "steps")},
        **{key: objective[key] for key in ("label_dropout", "flip")},
    )
    classifier = _guidance.load_classifier(config, shape) if config.guidance.classifier else None
    guided = _guidance.make_guided(config, classifier)
    sampled = {"config": config, "diffusion": diffusion, "shape": shape, "guided": guided}
    sample = functools.partial(_diffusion_pictures.sample, **sampled)
    compiled = jax.jit(sample)
    judge = _images.judge_of(config, sample, (train_source, test_source), fresh=sources is None)
    likelihood = {
        "diffusion": diffusion,
        "whole": config.eval.bound == "whole",
        "chunk_size": config.eval.bound_chunk,
        "flow_steps": config.eval.flow_steps,
    }
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=functools.partial(
            _diffusion.init, diffusion=diffusion, example_shape=shape, options=options, steps=objective.steps
        ),
        train_step=make_train_step(loss, whole_batch=True, **options),
        eval_step=make_eval_step(functools.partial(evaluation.image_values, diffusion=diffusion)),
        likelihood_step=make_eval_step(functools.partial(evaluation.likelihood_values, **likelihood)),
        report=evaluation.image_report,
        assess=judge.assess,
        sample=sample,
        pictures=_diffusion_pictures.compiled_draw(sample=compiled, test_source=test_source, **sampled),
        frame=functools.partial(_diffusion_pictures.draw_frame, sample=compiled),
        headline=(*judge.headline, "bits_per_dim", "l_simple"),
        steps_per_call=config.train.steps_per_call,
    )
