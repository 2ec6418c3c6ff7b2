"""The contractive autoencoder of Rifai et al. (2011), beside a plain twin.

Command: python -m experiments.contractive_autoencoder --workdir=runs/contractive_autoencoder
Expected: contraction 76, plain twin 148; with --preset=mnist a probe errs on 1.9 % of codes, 7.4 % of pixels
Time: 25 s of training on two CPU cores, 65 s to the pictures

Presets (--preset=...):
  default  1000 sigmoid units, tied, on the Fashion-MNIST images that come with the package
  mnist    the same on MNIST (files in --data_dir)
  tiny     seconds; for tests
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import _autoencoder, _images
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Experiment, Key, Picture, Source
from gen_jax.eval import pca as pca_lib
from gen_jax.eval.probe import probe_errors
from gen_jax.families.autoencoder import evaluation, models, objectives, pictures, sampling
from gen_jax.ops import pixels
from gen_jax.train.optimizer import step_options
from gen_jax.train.state import TrainState
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
    config = _autoencoder.base_config("contractive_autoencoder", preset)
    config.model.latent_dim = 1000  # Sigmoid units, in one layer.
    # Whether the decoder's weights are the encoder's, transposed. Where not, scale can dodge a penalty.
    config.model.tied = True

    config.objective.weight = 0.1  # λ
    config.objective.contraction = "closed_form"  # closed_form | jacobian (exact, dear) | hutchinson (estimated)
    config.objective.num_probes = 1  # hutchinson: backward passes an image.

    config.eval.spectrum_examples = 20  # Over how many test images the Jacobian's spectrum is averaged.
    config.eval.sample_steps = 10  # Of the walk from an image of the last batch that samples are drawn by.
    config.eval.sample_step_size = 0.5  # s of it.

    config.train.duration = "30 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.objective.weight = 0.5
    config.train.duration = "10 epochs"
    config.train.eval_every = config.train.checkpoint_every = "2 epochs"


def _tiny(config: ConfigDict) -> None:
    _autoencoder.make_tiny(config)
    config.model.latent_dim = 32
    config.eval.sample_steps = 3
    config.eval.spectrum_examples = 2


_PRESETS = {"default": lambda config: None, "mnist": _mnist, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = _autoencoder.base_rules() | {
        "objective.weight": config_lib.at_least(0.0),
        "objective.contraction": config_lib.one_of(*objectives.CONTRACTIONS),
        "objective.num_probes": config_lib.at_least(1),
        "eval.spectrum_examples": config_lib.at_least(1),
        "eval.sample_steps": config_lib.at_least(1),
        "eval.sample_step_size": config_lib.at_least(0.0),
    }
    config_lib.check(config, rules)
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
    height, width, channels = shape
    model = models.MLPAutoencoder(
        (height, width, channels), (config.model.latent_dim,), code_activation=nn.sigmoid, tied=config.model.tied
    )
    contractive = functools.partial(
        objectives.contractive_objective,
        model=model,
        weight=config.objective.weight,
        contraction=config.objective.contraction,
        num_probes=config.objective.num_probes,
    )
    plain = functools.partial(objectives.objective, model=model)
    objective = objectives.remembering_images(objectives.beside_plain(contractive, plain))
    options = step_options(config, train_source.num_examples)

    def sample(state: TrainState, keys: Key) -> Array:
        images = pixels.unit_levels(state.model_state["images"])
        walk = functools.partial(sampling.contractive_walk, state.eval_params["model"], keys, images, model=model)
        return walk(step_size=config.eval.sample_step_size, num_steps=config.eval.sample_steps)

    values = functools.partial(evaluation.reconstruction_values, model=model, contraction=True)
    sets, principal = _autoencoder.judged_on(train_source, test_source)
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=functools.partial(
            _autoencoder.init_twins,
            model=model,
            example_shape=shape,
            batch_size=config.train.batch_size,
            options=options,
        ),
        train_step=make_train_step(objective, **options, whole_batch=True),
        eval_step=make_eval_step(evaluation.beside_plain_values(values, values)),
        report=functools.partial(evaluation.report, num_dims=int(np.prod(shape))),
        assess=functools.partial(assess, model=model, sets=sets, probe_examples=config.eval.probe_examples),
        sample=sample,
        pictures=functools.partial(
            draw, model=model, sets=sets, principal=principal, spectrum_examples=config.eval.spectrum_examples
        ),
        headline=("contraction", "plain_contraction", "contractive_probe_error_percent", "plain_probe_error_percent"),
        steps_per_call=config.train.steps_per_call,
    )


def assess(
    state: TrainState, *, model: models.MLPAutoencoder, sets: Callable[[], _autoencoder.Sets], probe_examples: int
) -> dict[str, float]:
    """What the contractive code is worth: linear probes of it, of the plain twin's and of the pixels.

    Args:
      state: of the run.
      model: of the autoencoder and of its twin.
      sets: gives the data.
      probe_examples: how many training images the probes see at most; 0 for no probe.

    Returns:
      The probes' errors.
    """
    data, params = sets(), state.eval_params
    representations = {
        "contractive": _autoencoder.codes_of(params["model"], data, model=model),
        "plain": _autoencoder.codes_of(params["plain"], data, model=model),
        "pixels": list(data.images),
    }
    return probe_errors(representations, data.labels, probe_examples)


def draw(
    state: TrainState,
    *,
    model: models.MLPAutoencoder,
    sets: Callable[[], _autoencoder.Sets],
    principal: Callable[[int], pca_lib.Pca],
    spectrum_examples: int,
) -> dict[str, Picture]:
    """Reconstructions, filters and the Jacobian's spectrum, each beside the plain twin's.

    Args:
      state: of the run.
      model: of the autoencoder and of its twin.
      sets: gives the data.
      principal: gives the principal components of a rank.
      spectrum_examples: over how many test images the spectrum is averaged.

    Returns:
      `reconstructions`, `filters`, `plain_filters` and `spectrum`.
    """
    data, params = sets(), state.eval_params
    shown = data.test[data.shown_rows]
    reconstruct = jax.jit(functools.partial(sampling.reconstruct, model=model))
    rows = {
        "image": shown,
        "contractive": np.asarray(reconstruct(params["model"], shown)),
        "plain": np.asarray(reconstruct(params["plain"], shown)),
    }
    if model.latent_dim < min(data.train[0].size, len(data.train)):  # As many components as pixels are the pixels.
        rows[f"PCA, {model.latent_dim}"] = pca_lib.reconstruct(principal(model.latent_dim), shown)
    names = {"model": "contractive", "plain": "plain"}
    spectra = {
        name: evaluation.jacobian_spectrum(params[which], data.test[:spectrum_examples], model=model)
        for which, name in names.items()
    }
    kernels = {which: np.asarray(params[which]["encoder_0"]["kernel"]) for which in names}
    return {
        "reconstructions": pictures.compared("Test images and their reconstructions", rows),
        "filters": pictures.filters("Filters of the contractive code", kernels["model"], model.image_shape),
        "plain_filters": pictures.filters("Filters of the plain twin", kernels["plain"], model.image_shape),
        "spectrum": pictures.spectrum("Singular values of the encoder's Jacobian, mean over test images", spectra),
    }


if __name__ == "__main__":
    cli.main("contractive_autoencoder")
