"""A small classifier of images, by whose features the samples of other experiments can be judged.

Command: python -m experiments.classifier --workdir=runs/classifier
Expected: test accuracy 88.7 % of 1,000 images, 86.6 to 90.5 with 95 % confidence, after 20 epochs
Time: 30 s of training on two CPU cores

The weights of the default preset come with the package; `gen_jax.eval.features.load` reads those, or a workdir of this
experiment, and names them in every number.

Presets (--preset=...):
  default  three strided convolutions and 64 features, on the 10,000 + 1,000 images of Fashion-MNIST in the package
  full     all of Fashion-MNIST (apt install dataset-fashion-mnist, or files in --data_dir)
  mnist    MNIST (files in --data_dir)
  tiny     seconds; for tests
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _images
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Grid, Key, Picture, Scatter, Source
from gen_jax.eval import bootstrap
from gen_jax.eval import pca as pca_lib
from gen_jax.families.classifier import evaluation, objectives, pictures, sampling
from gen_jax.nn.small_classifier import SmallClassifier
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
    config = config_lib.base_config()
    config.experiment = "classifier"
    config.preset = preset
    config.data.name = "fashion_mnist_10k"

    config.model = ConfigDict()
    config.model.num_classes = 10
    config.model.channels = (16, 32, 64)  # Of each stage that halves the image.
    config.model.num_features = 64  # The width of the hidden layer, by which samples are judged.
    config.model.dropout = 0.4

    config.optim.name = "adamw"
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 1e-2
    config.optim.schedule = "cosine"
    config.train.duration = "20 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _full(config: ConfigDict) -> None:
    config.data.name = "fashion_mnist"
    config.model.dropout = 0.2
    config.train.duration = "10 epochs"


def _mnist(config: ConfigDict) -> None:
    _full(config)
    config.data.name = "mnist"


def _tiny(config: ConfigDict) -> None:
    config.model.channels = (4, 8)
    config.model.num_features = 16
    config.model.dropout = 0.1
    config.optim.name = "adam"
    config.optim.learning_rate = 5e-3
    config.optim.weight_decay = 0.0
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.train.ema_decay = 0.9
    config.eval.sample_chunk = 16


_PRESETS = {"default": lambda config: None, "full": _full, "mnist": _mnist, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = config_lib.base_rules() | {
        "model.num_classes": config_lib.at_least(2),
        "model.channels": config_lib.each(config_lib.at_least(1)),
        "model.num_features": config_lib.at_least(1),
        "model.dropout": config_lib.between(0.0, 1.0),
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
    train_source, test_source = _images.labelled_sources_of(config, sources)
    model = build_model(config)
    options = step_options(config, train_source.num_examples)
    image_shape = train_source.example_shape

    def init(key: Key) -> TrainState:
        params = model.init(rng.stream(key, "init"), jnp.zeros((1, *image_shape)))["params"]
        return init_state(params, options["tx"], key, ema=options["ema"] is not None)

    climb = functools.partial(sampling.random_class_images, model=model, image_shape=image_shape)
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(functools.partial(objectives.objective, model=model), **options),
        eval_step=make_eval_step(functools.partial(evaluation.class_values, model=model)),
        report=evaluation.report,
        assess=functools.partial(assess, model=model, test_source=test_source),
        sample=lambda state, keys: climb(state.eval_params, keys),
        pictures=functools.partial(draw, model=model, test_source=test_source),
        headline=("accuracy_percent", "accuracy_percent_low", "accuracy_percent_high", "cross_entropy_nats"),
        steps_per_call=config.train.steps_per_call,
    )


def build_model(config: ConfigDict) -> SmallClassifier:
    """The classifier of a config."""
    m = config.model
    return SmallClassifier(m.num_classes, tuple(m.channels), m.num_features, m.dropout)


def assess(state: TrainState, *, model: SmallClassifier, test_source: Source) -> dict[str, float]:
    """Where the accuracy would lie for other test sets of as many images: Wilson's interval of 95 %.

    Args:
      state: of the run.
      model: the classifier.
      test_source: of the test images.

    Returns:
      `accuracy_percent_low` and `accuracy_percent_high`.
    """
    found = evaluation.classify_all(state.eval_params, test_source, model=model)
    interval = bootstrap.share_interval(int((found.predicted == found.labels).sum()), len(found.labels))
    return {"accuracy_percent_low": 100 * interval.low, "accuracy_percent_high": 100 * interval.high}


def draw(state: TrainState, *, model: SmallClassifier, test_source: Source) -> dict[str, Picture]:
    """What the classifier takes test images for, where it is wrong, its features in the plane, and what it looks for.

    Args:
      state: of the run.
      model: the classifier.
      test_source: of the test images.

    Returns:
      `predictions`, `mistakes`, `confusion`, `class_images` and, of two images and two features or more, `features`.
    """
    params, columns = state.eval_params, 8
    found = evaluation.classify_all(params, test_source, model=model)
    labels = jnp.repeat(jnp.arange(model.num_classes), columns)
    keys = rng.numbered(state.key, "pictures", len(labels))
    image_shape = found.images.shape[1:]
    climbed = jax.jit(functools.partial(sampling.class_images, model=model, image_shape=image_shape))
    images = np.asarray(climbed(params, keys, labels)).reshape(-1, columns, *image_shape)
    drawn: dict[str, Picture] = {
        "predictions": pictures.predictions(found),
        "mistakes": pictures.mistakes(found),
        "confusion": pictures.confusion(found),
        "class_images": Grid(
            "Images climbed to from noise, for each class, by the gradient of its score",
            images,
            tuple(f"class {c}" for c in range(model.num_classes)),
        ),
    }
    if min(found.features.shape) >= 2:
        drawn["features"] = Scatter(
            "The features of the test set, their first two principal components, coloured by class",
            pca_lib.encode(pca_lib.fit_pca(found.features, 2), found.features),
            found.labels,
            ("first", "second"),
        )
    return drawn


if __name__ == "__main__":
    cli.main("classifier")
