"""What the experiments on autoencoders share: their images and the codes of these, and the start of a model's twin."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _images
from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.contracts import Key, Params, Source
from gen_jax.eval import pca as pca_lib
from gen_jax.families.autoencoder import objectives, sampling
from gen_jax.train.state import TrainState, init_state

ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}


def base_config(experiment: str, preset: str) -> ConfigDict:
    """The sections that the experiments share, with what is the same in all of them.

    Args:
      experiment: the module's name.
      preset: the preset's.

    Returns:
      The config, unlocked, with empty sections `model` and `objective`.
    """
    config = config_lib.base_config()
    config.experiment = experiment
    config.preset = preset
    config.data.name = "fashion_mnist_10k"
    config.model = ConfigDict()
    config.objective = ConfigDict()
    config.eval.probe_examples = 10_000  # How many training images the linear probe sees at most; 0 for no probe.

    config.optim.schedule = "cosine"
    config.train.steps_per_call = 10
    config.train.eval_every = config.train.checkpoint_every = "10 epochs"
    return config


def make_tiny(config: ConfigDict) -> None:
    """What is the same in the presets `tiny`."""
    config.optim.learning_rate = 5e-3
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.eval.sample_chunk = 16
    config.eval.probe_examples = 200


def base_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `base_config`, and the size of the code, must satisfy."""
    return config_lib.base_rules() | {
        "model.latent_dim": config_lib.at_least(1),
        "eval.probe_examples": config_lib.at_least(0),
    }


class Sets(NamedTuple):
    """Whole data sets in memory.

    Attributes:
      train: [N, H, W, C] float32 in [0, 1].
      train_labels: [N] int32.
      test: [M, H, W, C] float32 in [0, 1].
      test_labels: [M] int32.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """The training and the test images."""
        return self.train, self.test

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The training and the test labels."""
        return self.train_labels, self.test_labels

    @property
    def shown_rows(self) -> np.ndarray:
        """[20] which of the test images are drawn: the first, over again where there are fewer."""
        return np.arange(20) % len(self.test)


def load_sets(train_source: Source, test_source: Source) -> Sets:
    """All images and labels of a run's data.

    Args:
      train_source: of the training images.
      test_source: of the test images.

    Returns:
      The sets.
    """
    (train, train_labels), (test, test_labels) = (_images.whole_set(source) for source in (train_source, test_source))
    return Sets(train / np.float32(255), train_labels, test / np.float32(255), test_labels)


def judged_on(train_source: Source, test_source: Source) -> tuple[Callable[[], Sets], Callable[[int], pca_lib.Pca]]:
    """What a run is judged on and drawn beside at its end, each made when it is first asked for and then kept.

    Args:
      train_source: of the training images.
      test_source: of the test images.

    Returns:
      A function that gives the data, and one that gives the training images' principal components of a rank.
    """
    sets = functools.cache(functools.partial(load_sets, train_source, test_source))
    return sets, functools.cache(lambda rank: pca_lib.fit_pca(sets().train, rank))


def codes_of(params: Params, data: Sets, *, model: nn.Module, k: int | None = None) -> list[np.ndarray]:
    """The codes of the training and of the test images.

    Args:
      params: of the model.
      data: the images.
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.
      k: how many of a code's activations are kept; None for all.

    Returns:
      [N, d] and [M, d].
    """
    encode = functools.partial(sampling.encode, params, model=model, k=k)
    return [_images.in_batches(encode, images) for images in data.images]


def init_twins(
    key: Key, *, model: nn.Module, example_shape: tuple[int, ...], batch_size: int, options: dict[str, Any]
) -> TrainState:
    """The state before the first step of a model and its plain twin, which remembers the images of the last batch.

    Args:
      key: the run's root key.
      model: of both.
      example_shape: (H, W, C).
      batch_size: of training, over all devices.
      options: as `train.optimizer.step_options` gives them.

    Returns:
      The state, with `params["model"]` and `params["plain"]`, and `model_state["images"]`.
    """
    params = objectives.twins(model.init(rng.stream(key, "init"), jnp.zeros((1, *example_shape)))["params"])
    images = objectives.any_images(rng.stream(key, "images"), (batch_size, *example_shape))
    return init_state(params, options["tx"], key, model_state=images, ema=options["ema"] is not None)
