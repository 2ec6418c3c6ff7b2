"""Sparse autoencoders: the k-sparse code of Makhzani and Frey (2013), and the KL and L1 penalties.

Command: python -m experiments.sparse_autoencoder --workdir=runs/sparse_autoencoder
Expected: test squared error 8.9 from 25 units; with --preset=mnist a probe errs on 2.5 % of codes, 7.4 % of pixels
Time: 30 s of training on two CPU cores, 65 s to the pictures

Presets (--preset=...):
  default  1000 units of which 25 are on, tied, on the Fashion-MNIST images that come with the package
  mnist    the same on MNIST (files in --data_dir)
  kl       sigmoid units whose mean activation is held to rho = 0.1
  l1       rectified units whose sum costs
  tiny     seconds; for tests
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _autoencoder, _images
from gen_jax import cli
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Experiment, Key, Picture, Source, UserError
from gen_jax.eval import pca as pca_lib
from gen_jax.eval.probe import probe_errors
from gen_jax.eval.sparsity import code_sparsity
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
    config = _autoencoder.base_config("sparse_autoencoder", preset)
    config.model.latent_dim = 1000  # Units; more than it takes, of which few are on.
    # Whether the decoder's weights are the encoder's, transposed. Where not, scale can dodge a penalty.
    config.model.tied = True

    config.model.init_std = 0.01  # Of the initial weights; with larger ones more units stay as they begin.

    config.objective.sparsity = "k_sparse"  # k_sparse (linear units) | kl (sigmoid units) | l1 (rectified units)
    config.objective.k = 25  # k_sparse: how many units are on.
    config.objective.k_start = 200  # k_sparse: how many at first, so that every unit learns.
    config.objective.anneal = "15 epochs"  # k_sparse: over how long the one becomes the other.
    config.objective.rho = 0.1  # kl: the mean activation that is wanted.
    config.objective.weight = 1.0  # kl, l1: of the penalty.

    config.eval.alpha = 1.0  # k_sparse: α k units are on when codes are judged.

    config.train.duration = "30 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.objective.anneal = "10 epochs"
    config.train.duration = "20 epochs"
    config.train.eval_every = config.train.checkpoint_every = "5 epochs"


def _kl(config: ConfigDict) -> None:
    config.objective.sparsity = "kl"


def _l1(config: ConfigDict) -> None:
    config.objective.sparsity = "l1"
    config.objective.weight = 0.1


def _tiny(config: ConfigDict) -> None:
    _autoencoder.make_tiny(config)
    config.model.latent_dim = 32
    config.objective.k, config.objective.k_start, config.objective.anneal = 4, 16, "20 steps"


_PRESETS = {"default": lambda config: None, "mnist": _mnist, "kl": _kl, "l1": _l1, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = _autoencoder.base_rules() | {
        "model.init_std": config_lib.positive,
        "objective.sparsity": config_lib.one_of(*objectives.SPARSITIES),
        "objective.k": config_lib.at_least(1),
        "objective.k_start": config_lib.at_least(1),
        "objective.anneal": config_lib.duration,
        "objective.rho": config_lib.inside(0.0, 1.0),
        "objective.weight": config_lib.at_least(0.0),
        "eval.alpha": config_lib.at_least(1.0),
    }
    config_lib.check(config, rules)
    config_lib.check_optimizer(config)
    size = config.model.latent_dim
    for key, value in (("objective.k", config.objective.k), ("objective.k_start", config.objective.k_start)):
        if config.objective.sparsity == "k_sparse" and value > size:
            raise UserError(
                f"config.{key}={value} is more than the code's {size} units; choose at most {size}, or a larger "
                "config.model.latent_dim."
            )
    if config.objective.sparsity == "k_sparse" and config.objective.k_start < config.objective.k:
        raise UserError(
            f"config.objective.k_start={config.objective.k_start} is less than config.objective.k="
            f"{config.objective.k}, to which it comes down; choose at least as many."
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
    train_source, test_source = _images.sources_of(config, sources)
    shape, o = train_source.example_shape, config.objective
    height, width, channels = shape
    model = build_model(config, (height, width, channels))
    k = min(round(config.eval.alpha * o.k), config.model.latent_dim) if o.sparsity == "k_sparse" else None
    anneal_steps = config_lib.steps_in(o.anneal, config.train.batch_size, train_source.num_examples)
    if o.sparsity == "k_sparse" and anneal_steps > config_lib.interval(
        config.train.duration, config, train_source.num_examples
    ):
        raise UserError(
            f"config.objective.anneal='{o.anneal}' is longer than config.train.duration='{config.train.duration}', so k"
            f" would never come down to {o.k}; shorten it, or train for longer."
        )
    sparse = functools.partial(
        objectives.sparse_objective,
        model=model,
        sparsity=o.sparsity,
        k=o.k,
        k_start=o.k_start,
        anneal_steps=anneal_steps,
        rho=o.rho,
        weight=o.weight,
    )
    plain = functools.partial(objectives.objective, model=model, error="squared_error")
    objective = objectives.remembering_images(objectives.beside_plain(sparse, plain, whole_batch=True))
    options = step_options(config, train_source.num_examples)

    def sample(state: TrainState, keys: Key) -> Array:
        noise = sampling.gaussian_images(keys, pixels.unit_levels(state.model_state["images"]))
        return jnp.clip(sampling.reconstruct(state.eval_params["model"], noise, model=model, k=k), 0.0, 1.0)

    values = functools.partial(evaluation.reconstruction_values, model=model)
    sets, principal = _autoencoder.judged_on(train_source, test_source)
    judged: dict[str, Any] = {"model": model, "sets": sets, "principal": principal, "k": k}
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
        eval_step=make_eval_step(evaluation.beside_plain_values(functools.partial(values, k=k), values)),
        report=functools.partial(evaluation.report, num_dims=int(np.prod(shape))),
        assess=functools.partial(assess, **judged, probe_examples=config.eval.probe_examples),
        sample=sample,
        pictures=functools.partial(draw, **judged),
        headline=("squared_error", "sparse_probe_error_percent", "plain_probe_error_percent", "dead_units"),
        steps_per_call=config.train.steps_per_call,
    )


def build_model(config: ConfigDict, image_shape: tuple[int, int, int]) -> models.MLPAutoencoder:
    """One layer of units of the kind that the sparsity is of; a linear output, as the papers'."""
    units = {"k_sparse": models.identity, "kl": nn.sigmoid, "l1": nn.relu}[config.objective.sparsity]
    return models.MLPAutoencoder(
        image_shape,
        (config.model.latent_dim,),
        code_activation=units,
        output="linear",
        tied=config.model.tied,
        init_std=config.model.init_std,
    )


def assess(
    state: TrainState,
    *,
    model: models.MLPAutoencoder,
    sets: Callable[[], _autoencoder.Sets],
    principal: Callable[[int], pca_lib.Pca],
    k: int | None,
    probe_examples: int,
) -> dict[str, float]:
    """What the sparse code is worth: linear probes of it, of the plain twin's and of the pixels; how sparse it is.

    Args:
      state: of the run.
      model: of the autoencoder and of its twin.
      sets: gives the data.
      principal: gives the principal components of a rank.
      k: how many units are on; None for all.
      probe_examples: how many training images the probes see at most; 0 for no probe.

    Returns:
      `active_units` (on average an image), `dead_units`, `mean_activation`, where they are defined `hoyer_sparseness`
      and `pca_squared_error` of k principal components, and the probes' errors.
    """
    data, params = sets(), state.eval_params
    representations = {
        "sparse": _autoencoder.codes_of(params["model"], data, model=model, k=k),
        "plain": _autoencoder.codes_of(params["plain"], data, model=model),
        "pixels": list(data.images),
    }
    # A sigmoid unit is never 0; it is on where it is more on than off.
    found = code_sparsity(representations["sparse"][1], 0.5 if model.code_activation is nn.sigmoid else 0.0)
    numbers = {
        "active_units": found.active_per_example,
        "dead_units": float(found.dead_units),
        "mean_activation": float(np.mean(found.mean_activation)),
        "hoyer_sparseness": found.hoyer,
    }
    if k is not None and k < min(data.train[0].size, len(data.train)):
        numbers["pca_squared_error"] = float(np.mean(pca_lib.reconstruction_error(principal(k), data.test)))
    # Of codes that are all 0, or have one number, the sparseness is not defined.
    numbers = {name: number for name, number in numbers.items() if np.isfinite(number)}
    return numbers | probe_errors(representations, data.labels, probe_examples)


def draw(
    state: TrainState,
    *,
    model: models.MLPAutoencoder,
    sets: Callable[[], _autoencoder.Sets],
    principal: Callable[[int], pca_lib.Pca],
    k: int | None,
) -> dict[str, Picture]:
    """Reconstructions beside those of principal components, and the filters beside the plain twin's.

    Args:
      state: of the run.
      model: of the autoencoder and of its twin.
      sets: gives the data.
      principal: gives the principal components of a rank.
      k: how many units are on; None for all.

    Returns:
      `reconstructions`, `filters` and `plain_filters`.
    """
    data, params = sets(), state.eval_params
    shown = data.test[data.shown_rows]
    reconstruct = jax.jit(functools.partial(sampling.reconstruct, model=model, k=k))
    rows = {
        "image": shown,
        "sparse": np.asarray(reconstruct(params["model"], shown)),
    }
    if k is not None and k < min(data.train[0].size, len(data.train)):
        rows[f"PCA, {k}"] = pca_lib.reconstruct(principal(k), shown)

    def filters(which: str, title: str) -> Picture:
        return pictures.filters(title, np.asarray(params[which]["encoder_0"]["kernel"]), model.image_shape)

    on = "" if k is None else f", {k} units of {model.latent_dim}"
    return {
        "reconstructions": pictures.compared(f"Test images and their reconstructions{on}", rows),
        "filters": filters("model", "Filters of the sparse code"),
        "plain_filters": filters("plain", "Filters of the plain twin, without the sparsity"),
    }


if __name__ == "__main__":
    cli.main("sparse_autoencoder")
