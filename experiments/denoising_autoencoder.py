"""The denoising autoencoder of Vincent et al. (2008): denoised and inpainted images, and filters.

Command: python -m experiments.denoising_autoencoder --workdir=runs/denoising_autoencoder
Expected: test squared error 10.3 an image from noise of 196, where the best linear denoiser has 15.1
Time: 50 s of training on two CPU cores, 70 s to the pictures

Presets (--preset=...):
  default          Gaussian noise of half the grey scale, on the Fashion-MNIST images that come with the package
  masking          half of the pixels black
  salt_and_pepper  a third of the pixels black or white
  mnist            the default on MNIST (files in --data_dir)
  tiny             seconds; for tests
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _autoencoder, _images
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Experiment, Key, Picture, Source
from gen_jax.eval import pca as pca_lib
from gen_jax.eval.probe import probe_errors
from gen_jax.families.autoencoder import evaluation, losses, models, objectives, pictures, sampling
from gen_jax.families.autoencoder.corruption import CORRUPTIONS, conditional_moments
from gen_jax.train.optimizer import step_options
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import make_eval_step, make_train_step


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _autoencoder.base_config("denoising_autoencoder", preset)
    config.model.hidden = (1000,)  # The width of each hidden layer before the code.
    config.model.latent_dim = 500
    config.model.activation = "gelu"  # gelu | relu | tanh | sigmoid; of the code as well.
    config.model.tied = False  # Whether the decoder's weights are the encoder's, transposed.

    config.objective.corruption = "gaussian"  # gaussian | masking | salt_and_pepper
    config.objective.level = 0.5  # σ of the Gaussian, in units of the grey scale; of the others, the share of pixels.
    config.objective.error = "cross_entropy"  # cross_entropy | squared_error

    config.eval.inpaint_steps = 30  # Reconstructions by which a hole is filled.
    config.eval.sample_steps = 30  # Of the chain that samples are drawn by.

    config.train.duration = "60 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _masking(config: ConfigDict) -> None:
    config.objective.corruption = "masking"


def _salt_and_pepper(config: ConfigDict) -> None:
    config.objective.corruption = "salt_and_pepper"
    config.objective.level = 0.33


def _mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.train.duration = "20 epochs"
    config.train.eval_every = config.train.checkpoint_every = "5 epochs"


def _tiny(config: ConfigDict) -> None:
    _autoencoder.make_tiny(config)
    config.model.hidden = (32,)
    config.model.latent_dim = 16
    config.train.ema_decay = 0.9
    config.eval.sample_steps = 3
    config.eval.inpaint_steps = 3


_PRESETS = {
    "default": lambda config: None,
    "masking": _masking,
    "salt_and_pepper": _salt_and_pepper,
    "mnist": _mnist,
    "tiny": _tiny,
}


def validate(config: ConfigDict) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = _autoencoder.base_rules() | {
        "model.hidden": config_lib.each(config_lib.at_least(1)),
        "model.activation": config_lib.one_of(*_autoencoder.ACTIVATIONS),
        "objective.corruption": config_lib.one_of(*CORRUPTIONS),
        "objective.error": config_lib.one_of(*losses.ERRORS),
        "eval.inpaint_steps": config_lib.at_least(1),
        "eval.sample_steps": config_lib.at_least(1),
    }
    config_lib.check(config, rules)
    # Of masked pixels some must be left; of noise a hundred times the grey scale nothing can be learned either.
    most = 100.0 if config.objective.corruption == "gaussian" else 1.0
    config_lib.check(config, {"objective.level": config_lib.between(0.0, most)})
    config_lib.check_optimizer(config)


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
    train_source, test_source = _images.sources_of(config, sources)
    shape = train_source.example_shape
    model = build_model(config, shape)
    noise: dict[str, Any] = {"corruption": config.objective.corruption, "level": config.objective.level}
    objective = functools.partial(objectives.denoising_objective, model=model, error=config.objective.error, **noise)
    options = step_options(config, train_source.num_examples)

    def init(key: Key) -> TrainState:
        params = model.init(rng.stream(key, "init"), jnp.zeros((1, *shape)))["params"]
        return init_state(params, options["tx"], key, ema=options["ema"] is not None)

    def sample(state: TrainState, keys: Key) -> Array:
        reconstruct = functools.partial(sampling.reconstruct, state.eval_params, model=model)
        return sampling.denoising_chain(reconstruct, keys, shape, **noise, num_steps=config.eval.sample_steps)

    sets, _ = _autoencoder.judged_on(train_source, test_source)
    linear = functools.cache(lambda: best_linear(sets().train, noise))
    judged: dict[str, Any] = {"model": model, "sets": sets, "linear": linear, "noise": noise}
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(objective, **options),
        eval_step=make_eval_step(functools.partial(evaluation.denoising_values, model=model, **noise)),
        report=functools.partial(evaluation.report, num_dims=int(np.prod(shape))),
        assess=functools.partial(assess, **judged, probe_examples=config.eval.probe_examples),
        sample=sample,
        pictures=functools.partial(draw, **judged, inpaint_steps=config.eval.inpaint_steps),
        headline=("squared_error", "linear_squared_error", "corrupted_squared_error", "psnr"),
        steps_per_call=config.train.steps_per_call,
    )


def build_model(config: ConfigDict, image_shape: tuple[int, ...]) -> models.MLPAutoencoder:
    """The autoencoder of a config for images of a shape (H, W, C); its code has the activation of the hidden layers."""
    height, width, channels = image_shape
    m = config.model
    activation = _autoencoder.ACTIVATIONS[m.activation]
    widths = (*m.hidden, m.latent_dim)
    return models.MLPAutoencoder((height, width, channels), widths, activation, activation, tied=m.tied)


def assess(
    state: TrainState,
    *,
    model: models.MLPAutoencoder,
    sets: Callable[[], _autoencoder.Sets],
    linear: Callable[[], pca_lib.LinearDenoiser],
    noise: dict[str, Any],
    probe_examples: int,
) -> dict[str, float]:
    """How much better than the best linear denoiser it denoises, and linear probes of its code and of the pixels.

    Args:
      state: of the run.
      model: the autoencoder.
      sets: gives the data.
      linear: gives the best linear denoiser of the training images.
      noise: the `corruption` and its `level`.
      probe_examples: how many training images the probes see at most; 0 for no probe.

    Returns:
      `linear_squared_error` and the probes' errors.
    """
    data = sets()
    index = jnp.arange(len(data.test))
    noisy = evaluation.corrupted_like_the_test_set(state.key, jnp.asarray(data.test), index, **noise)
    denoised = pca_lib.denoise(linear(), np.asarray(noisy))
    errors = np.sum((denoised - data.test) ** 2, axis=(1, 2, 3))
    codes = _autoencoder.codes_of(state.eval_params, data, model=model)
    representations = {"code": codes, "pixels": list(data.images)}
    numbers = probe_errors(representations, data.labels, probe_examples)
    return {"linear_squared_error": float(np.mean(errors))} | numbers


def best_linear(images: np.ndarray, noise: dict[str, Any]) -> pca_lib.LinearDenoiser:
    """The best linear denoiser of images, by the moments of the corruption."""
    gain, offset, variance = conditional_moments(jnp.asarray(images), noise["corruption"], noise["level"])
    return pca_lib.linear_denoiser(images, gain, offset, np.mean(variance, axis=0))


def draw(
    state: TrainState,
    *,
    model: models.MLPAutoencoder,
    sets: Callable[[], _autoencoder.Sets],
    linear: Callable[[], pca_lib.LinearDenoiser],
    noise: dict[str, Any],
    inpaint_steps: int,
) -> dict[str, Picture]:
    """Images denoised beside the linear denoiser's, holes filled in, and the first layer's filters.

    Args:
      state: of the run.
      model: the autoencoder.
      sets: gives the data.
      linear: gives the best linear denoiser of the training images.
      noise: the `corruption` and its `level`.
      inpaint_steps: reconstructions by which a hole is filled.

    Returns:
      `denoised`, `inpainted` and `filters`.
    """
    data, params = sets(), state.eval_params
    shown, index = data.test[data.shown_rows], jnp.asarray(data.shown_rows)
    noisy = np.asarray(evaluation.corrupted_like_the_test_set(state.key, jnp.asarray(shown), index, **noise))
    reconstruct = jax.jit(functools.partial(sampling.reconstruct, params, model=model))
    mask = np.ones_like(shown)
    height, width = shown.shape[1:3]
    mask[:, height // 3 : height - height // 3, width // 3 : width - width // 3] = 0  # A hole in the middle,
    mask[10:, :, :] = 1
    mask[10:, height // 2 :] = 0  # and for the second ten the lower half.
    filled = jax.jit(functools.partial(sampling.inpaint, reconstruct, num_steps=inpaint_steps))(shown, mask)
    denoised = {
        "image": shown,
        "corrupted": noisy,
        "denoised": np.asarray(reconstruct(noisy)),
        "linear": pca_lib.denoise(linear(), noisy),
    }
    filled_in = {"image": shown, "hole": shown * mask, "filled in": np.asarray(filled)}
    kernel = np.asarray(params["encoder_0"]["kernel"])
    return {
        "denoised": pictures.compared("Test images, corrupted and denoised", denoised),
        "inpainted": pictures.compared("Test images with a hole, filled in by the autoencoder", filled_in),
        "filters": pictures.filters("Filters of the first layer", kernel, model.image_shape),
    }


if __name__ == "__main__":
    cli.main("denoising_autoencoder")
