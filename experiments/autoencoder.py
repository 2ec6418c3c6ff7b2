"""The deep autoencoder of Hinton and Salakhutdinov (2006) on images, against principal components.

Command: python -m experiments.autoencoder --workdir=runs/autoencoder
Expected: test squared error 7.7 an image with a code of 30 numbers, where 30 principal components have 12.4
Time: 50 s of training on two CPU cores, 70 s to the pictures

Presets (--preset=...):
  default  784-1000-500-250-30 and back, on the 10,000 + 1,000 images of Fashion-MNIST that come with the package
  mnist    the same on MNIST (files in --data_dir): 2.80, where the paper has 3.00 and 30 components 13.87
  two_d    784-1000-500-250-2: the paper's figure of the encoded test set
  conv     convolutional encoder and decoder
  linear   one linear layer of 30, tied: principal components by gradient descent
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
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Key, Picture, Source, UserError
from gen_jax.eval import pca as pca_lib
from gen_jax.eval.probe import probe_errors
from gen_jax.families.autoencoder import evaluation, losses, models, objectives, pictures, sampling
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
    config = _autoencoder.base_config("autoencoder", preset)
    config.model.network = "mlp"  # mlp | conv
    config.model.latent_dim = 30
    config.model.hidden = (1000, 500, 250)  # mlp: the width of each hidden layer, from the image inwards.
    config.model.channels = (32, 64)  # conv: of each stage that halves the image.
    config.model.activation = "gelu"  # gelu | relu | tanh | sigmoid; the paper's is sigmoid.
    config.model.tied = False  # Whether the decoder's weights are the encoder's, transposed.
    config.model.output = "sigmoid"  # sigmoid | linear

    config.objective.error = "cross_entropy"  # cross_entropy | squared_error
    config.objective.l2 = 0.0  # The weight of the sum of squared weights.

    config.optim.learning_rate = 5e-4
    config.train.duration = "60 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.train.eval_every = config.train.checkpoint_every = "5 epochs"


def _two_d(config: ConfigDict) -> None:
    config.model.latent_dim = 2


def _conv(config: ConfigDict) -> None:
    config.model.network = "conv"
    config.train.steps_per_call = 1  # XLA's CPU backend runs convolutions inside a scan on one core, many times slower.
    config.train.duration = "20 epochs"
    config.train.eval_every = config.train.checkpoint_every = "5 epochs"


def _linear(config: ConfigDict) -> None:
    config.model.hidden = ()
    config.model.tied = True
    config.model.output = "linear"
    config.objective.error = "squared_error"
    config.train.duration = "30 epochs"


def _tiny(config: ConfigDict) -> None:
    _autoencoder.make_tiny(config)
    config.model.hidden = (32,)
    config.model.latent_dim = 2


_PRESETS = {
    "default": lambda config: None,
    "mnist": _mnist,
    "two_d": _two_d,
    "conv": _conv,
    "linear": _linear,
    "tiny": _tiny,
}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = _autoencoder.base_rules() | {
        "model.network": config_lib.one_of("mlp", "conv"),
        "model.hidden": config_lib.each(config_lib.at_least(1)),
        "model.channels": config_lib.each(config_lib.at_least(1)),
        "model.activation": config_lib.one_of(*_autoencoder.ACTIVATIONS),
        "model.output": config_lib.one_of(*models.OUTPUTS),
        "objective.error": config_lib.one_of(*losses.ERRORS),
        "objective.l2": config_lib.at_least(0.0),
    }
    config_lib.check(config, rules)
    config_lib.check_optimizer(config)
    if config.objective.error == "cross_entropy" and config.model.output != "sigmoid":
        raise UserError(
            f"config.objective.error=cross_entropy needs probabilities, which config.model.output={config.model.output}"
            " does not give; use sigmoid, or squared_error."
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
    model = build_model(config, train_source.example_shape)
    errs = {"error": config.objective.error, "l2": config.objective.l2}
    objective = functools.partial(objectives.objective, model=model, **errs)
    options = step_options(config, train_source.num_examples)

    def init(key: Key) -> TrainState:
        params = model.init(rng.stream(key, "init"), jnp.zeros((1, *train_source.example_shape)))["params"]
        moments = objectives.code_moments(model.latent_dim)
        return init_state(params, options["tx"], key, model_state=moments, ema=options["ema"] is not None)

    sets, principal = _autoencoder.judged_on(train_source, test_source)
    judged: dict[str, Any] = {"model": model, "sets": sets, "principal": principal}
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(objective, **options),
        eval_step=make_eval_step(functools.partial(evaluation.reconstruction_values, model=model)),
        report=functools.partial(evaluation.report, num_dims=int(np.prod(train_source.example_shape))),
        assess=functools.partial(assess, **judged, probe_examples=config.eval.probe_examples),
        sample=lambda state, keys: sampling.sample_gaussian_codes(
            state.eval_params, state.model_state, keys, model=model
        ),
        pictures=functools.partial(draw, **judged),
        headline=("squared_error", "pca_squared_error", "psnr", "code_probe_error_percent"),
        steps_per_call=config.train.steps_per_call,
    )


def build_model(config: ConfigDict, image_shape: tuple[int, ...]) -> nn.Module:
    """The autoencoder of a config for images of a shape (H, W, C).

    Raises:
      UserError: where the network cannot take images of that size.
    """
    height, width, channels = image_shape
    m = config.model
    options: dict[str, Any] = {
        "activation": _autoencoder.ACTIVATIONS[m.activation],
        "output": m.output,
        "tied": m.tied,
    }
    if m.network == "mlp":
        return models.MLPAutoencoder((height, width, channels), (*m.hidden, m.latent_dim), **options)
    _images.check_stages(config, image_shape, "autoencoder")
    return models.ConvAutoencoder((height, width, channels), tuple(m.channels), m.latent_dim, **options)


def assess(
    state: TrainState,
    *,
    model: nn.Module,
    sets: Callable[[], _autoencoder.Sets],
    principal: Callable[[int], pca_lib.Pca],
    probe_examples: int,
) -> dict[str, float]:
    """What the code is worth: its error beside that of as many principal components, and linear probes of both.

    Args:
      state: of the run.
      model: the autoencoder.
      sets: gives the data.
      principal: gives the principal components of a rank.
      probe_examples: how many training images the probes see at most; 0 for no probe.

    Returns:
      `pca_squared_error` and the probes' errors.
    """
    data = sets()
    linear = principal(min(model.latent_dim, data.train[0].size, len(data.train)))
    representations = {
        "code": _autoencoder.codes_of(state.eval_params, data, model=model),
        "pca": [pca_lib.encode(linear, x) for x in data.images],
        "pixels": list(data.images),
    }
    error = float(np.mean(pca_lib.reconstruction_error(linear, data.test)))
    return {"pca_squared_error": error} | probe_errors(representations, data.labels, probe_examples)


def draw(
    state: TrainState,
    *,
    model: nn.Module,
    sets: Callable[[], _autoencoder.Sets],
    principal: Callable[[int], pca_lib.Pca],
) -> dict[str, Picture]:
    """Reconstructions beside those of principal components, the first layer's filters, and the codes in the plane.

    Args:
      state: of the run.
      model: the autoencoder.
      sets: gives the data.
      principal: gives the principal components of a rank.

    Returns:
      `reconstructions`, `codes`, and for a fully connected network `filters`.
    """
    data, params, size = sets(), state.eval_params, model.latent_dim
    rank = min(size, data.train[0].size, len(data.train))
    shown = data.test[data.shown_rows]
    codes, test_codes = _autoencoder.codes_of(params, data, model=model)
    plane = test_codes if size == 2 else pca_lib.encode(pca_lib.fit_pca(codes, min(2, size)), test_codes)
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))  # A code of one number lies on a line.
    found: dict[str, Picture] = {
        "reconstructions": pictures.compared(
            f"Test images, reconstructed from a code of {size}",
            {
                "image": shown,
                "autoencoder": np.asarray(jax.jit(functools.partial(sampling.reconstruct, model=model))(params, shown)),
                f"PCA, {rank}": pca_lib.reconstruct(principal(rank), shown),
            },
        ),
        "codes": pictures.codes_beside(
            "The code" if size == 2 else f"The code's {size} numbers, their first two principal components",
            "The pixels' first two principal components",
            plane,
            pca_lib.encode(principal(max(2, rank)), data.test)[:, :2],
            data.test_labels,
        ),
    }
    if isinstance(model, models.MLPAutoencoder):
        kernel = np.asarray(params["encoder_0"]["kernel"])
        found["filters"] = pictures.filters("Filters of the first layer", kernel, model.image_shape)
    return found


if __name__ == "__main__":
    cli.main("autoencoder")
