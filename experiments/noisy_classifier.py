"""A classifier of noisy images, whose gradient guides diffusion (Dhariwal and Nichol, 2021).

Command: python -m experiments.noisy_classifier --workdir=runs/noisy_classifier
Expected: 81.5 % of 1,000 test images right without noise, 73 % at step 333 of 1,000, 28 % at step 666
Time: 7 min of training on one CPU core beside another run

`experiments.ddpm`, `improved_ddpm` and `guided_diffusion` take its workdir as --config.guidance.classifier, with
--config.guidance.name=classifier; it must know their process (--config.process.schedule=cosine for improved_ddpm).

Presets (--preset=...):
  default     on the Fashion-MNIST images that come with the package
  imagenet64  the network of the published 64-pixel classifier, on --config.data.name=NAME of --data_dir with 1000
              classes; without the paper's random crops and mirror images
  tiny        seconds; for tests
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _diffusion, _guidance, _images
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Curves, Experiment, Grid, Key, Picture, Source, Terms
from gen_jax.families.diffusion import classifier
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
    config.experiment = "noisy_classifier"
    config.preset = preset
    config.data.name = "fashion_mnist_10k"
    config.process = _diffusion.process_section()

    config.model = ConfigDict()
    config.model.num_classes = 10
    _diffusion.add_network_keys(config)
    config.model.head_channels = 16  # Of each head of attention.
    config.model.dropout = 0.1

    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.05
    config.optim.schedule = "cosine"
    config.train.batch_size = 64
    config.train.duration = "10 epochs"
    config.train.eval_every = config.train.checkpoint_every = "2 epochs"
    config.eval.batch_size = 128
    config.eval.num_levels = 10  # At so many steps of the process each test image is classified.
    return config_lib.apply_preset(config, _PRESETS)


def _imagenet64(config: ConfigDict) -> None:
    config.data.name = "images"
    config.process.schedule = "cosine"
    config.model.num_classes = 1000
    config.model.channels = 128
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.num_blocks = 4
    config.model.attention_at = (32, 16, 8)
    config.model.head_channels = 64
    config.model.dropout = 0.0
    config.optim.learning_rate = 3e-4
    config.optim.schedule = "linear"
    config.train.batch_size = 256
    config.train.duration = "300000 steps"
    config.train.eval_every = config.train.checkpoint_every = "10000 steps"


def _tiny(config: ConfigDict) -> None:
    config.process.num_steps = 20
    config.process.schedule = "cosine"
    config.model.channels = 4
    config.model.channel_mult = (1, 2)
    config.model.attention_at = ()
    config.model.head_channels = 4
    config.model.dropout = 0.0  # Slow to compile.
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-2
    config.optim.weight_decay = 0.0
    config.optim.schedule = "constant"
    config.train.duration = "8 steps"
    config.train.log_every = "2 steps"
    config.train.eval_every = config.train.checkpoint_every = "4 steps"
    config.train.ema_half_life = "4 steps"
    config.eval.batch_size = 40
    config.eval.num_levels = 2
    config.eval.sample_chunk = 16


_PRESETS = {"default": lambda config: None, "imagenet64": _imagenet64, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    at_least = config_lib.at_least
    rules = (
        config_lib.base_rules()
        | _diffusion.process_rules()
        | _diffusion.network_rules()
        | {
            "model.num_classes": at_least(2),
            "model.head_channels": at_least(1),
            "eval.num_levels": at_least(1),
        }
    )
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
    shape = train_source.example_shape
    model = _guidance.build_classifier(config, shape)
    process = _diffusion.make_process(config)
    options = step_options(config, train_source.num_examples)
    steps = np.unique(np.linspace(0, process.num_steps - 1, config.eval.num_levels).round().astype(int))

    def init(key: Key) -> TrainState:
        params = model.init(rng.stream(key, "init"), jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32))["params"]
        return init_state(params, options["tx"], key, ema=options["ema"] is not None)

    evaluated = functools.partial(
        classifier.classifier_values, model=model, process=process, steps=tuple(steps.tolist())
    )
    climbed = functools.partial(classifier.class_images, model=model, process=process, shape=shape)

    def sample(state: TrainState, keys: Key) -> Array:
        label = jax.vmap(lambda key: jax.random.randint(rng.stream(key, "label"), (), 0, model.num_classes))(keys)
        return climbed(state.eval_params, keys, label)

    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(
            functools.partial(classifier.classifier_objective, model=model, process=process), **options
        ),
        eval_step=make_eval_step(evaluated),
        report=functools.partial(classifier.classifier_report, steps=steps),
        sample=sample,
        pictures=functools.partial(
            draw,
            compiled=jax.jit(climbed),
            values=jax.jit(evaluated),
            test_source=test_source,
            steps=steps,
            num_classes=model.num_classes,
        ),
        headline=("accuracy_percent", "accuracy_percent_clean", "cross_entropy_nats"),
        steps_per_call=config.train.steps_per_call,
    )


def draw(
    state: TrainState,
    *,
    compiled: Callable[..., Array],
    values: Callable[..., Terms],
    test_source: Source,
    steps: np.ndarray,
    num_classes: int,
) -> dict[str, Picture]:
    """How well noisy images are classified by how noisy they are, and what the classifier makes of noise.

    Args:
      state: of the run.
      compiled: `classifier.class_images` of `(params, keys, label)`.
      values: of `(params, key, batch)`, as `classifier.classifier_values`.
      test_source: of the test images.
      steps: [S] at which they are classified.
      num_classes: K.

    Returns:
      `accuracy_by_step` and `class_images`.
    """
    batch = next(iter(test_source.whole().evaluation()))
    found, kept = values(state.eval_params, state.key, batch), batch["mask"] > 0
    accuracy = 100 * np.asarray(found["correct_by_step"])[kept].mean(axis=0)
    columns = 8
    label = jnp.repeat(jnp.arange(min(num_classes, 10)), columns)
    images = np.asarray(compiled(state.eval_params, rng.numbered(state.key, "pictures", len(label)), label))
    return {
        "accuracy_by_step": Curves(
            "Accuracy of test images by how noisy they are", {"accuracy": (steps, accuracy)}, ("t", "percent")
        ),
        "class_images": Grid(
            "Noise and the classifier's gradient alone, for each class",
            images.reshape(-1, columns, *images.shape[1:]),
            tuple(f"class {c}" for c in range(min(num_classes, 10))),
        ),
    }


if __name__ == "__main__":
    cli.main("noisy_classifier")
