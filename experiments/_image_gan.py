"""What the experiments on images share: who is told which class, how samples are judged, and the pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _game
from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.contracts import Array, Experiment, Key, Picture, Source, UserError
from gen_jax.data import image_sources
from gen_jax.eval import features
from gen_jax.eval.parzen import parzen_log_likelihood
from gen_jax.families.gan import evaluation, models, objectives, pictures, sampling
from gen_jax.train import parallel
from gen_jax.train.state import TrainState
from gen_jax.train.step import masked_sums


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

    config.model = ConfigDict()
    config.model.latent_dim = 100
    config.model.latent = "normal"  # normal | uniform
    config.model.num_classes = 0  # Above 0 both players are told the label of each image.
    config.model.conditioning = "projection"  # projection | embedding: how the discriminator is told.
    config.game = _game.section()

    # A file of weights or the workdir of a classifier, by whose features samples are judged; "" for the classifier
    # of small grey images that comes with the package.
    config.eval.features = ""
    config.eval.num_samples = 10_000  # So many samples are compared with as many training images; 0 for none.
    config.eval.parzen = False  # Whether to measure the Parzen-window likelihood of the first papers as well.
    return config


def base_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `base_config` must satisfy."""
    return (
        config_lib.base_rules()
        | _game.rules()
        | {
            "model.latent_dim": config_lib.at_least(1),
            "model.latent": config_lib.one_of(*objectives.LATENTS),
            "model.num_classes": config_lib.at_least(0),
            "model.conditioning": config_lib.one_of(*models.CONDITIONINGS),
            "eval.num_samples": lambda value: None if value == 0 or value >= 20 else "0, or at least 20",
        }
    )


def check(config: ConfigDict, rules: dict[str, config_lib.Rule]) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.
      rules: beyond those of `base_rules`.

    Raises:
      UserError: for the first value out of range, and for keys that do not go together.
    """
    config_lib.check(config, base_rules() | rules)
    config_lib.check_optimizer(config)
    _game.check(config)


def sources_of(config: ConfigDict, sources: tuple[Source, Source] | None) -> tuple[Source, Source]:
    """The training and the test images, with labels where the players are told them.

    Args:
      config: the resolved config.
      sources: given ones, or None to find them.

    Returns:
      Both sources.

    Raises:
      UserError: where the set is not found, or has other classes than `config.model.num_classes`.
    """
    found = sources or image_sources(config.data.name, config.data.dir or None, **parallel.stream_options(config))
    labels = getattr(found[0], "labels", None)  # Data that are gone have none, and need none to sample.
    classes = config.model.num_classes
    if classes and labels is not None and not (labels.min() >= 0 and labels.max() == classes - 1):
        raise UserError(
            f"config.model.num_classes={classes} does not fit the labels of {config.data.name}, which go from "
            f"{labels.min()} to {labels.max()}; give one more than the largest, or 0 where images have no label (-1)."
        )
    return found


def build(
    config: ConfigDict,
    build_networks: Callable[[ConfigDict, tuple[int, ...]], objectives.Networks],
    sources: tuple[Source, Source] | None,
) -> Experiment:
    """Wires an experiment on images: source -> networks -> players -> step -> evaluation -> pictures.

    Args:
      config: the resolved config, checked.
      build_networks: of the config and the shape of an image (H, W, C).
      sources: the training and test sources; None to find them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the networks, the penalty and the data do not go together, or the network by whose features
        samples are to be judged cannot be read.
    """
    train_source, test_source = sources_of(config, sources)
    loss, shape = config.game.loss, train_source.example_shape
    networks = build_networks(config, shape)
    players = _game.players(config, networks, train_source.num_examples)
    load = functools.cache(functools.partial(features.load, config.eval.features, shape))
    # Before training rather than after it; but a run whose files are gone still samples.
    known = load() if sources is None and config.eval.num_samples else None

    def eval_step(state: TrainState, batch: Any, *, axis_name: str | None = None) -> Any:
        values = evaluation.game_values(state.params, state.model_state, state.key, batch, networks=networks, loss=loss)
        return masked_sums(values, batch["mask"], axis_name)

    sample = functools.partial(_game.sample, networks=networks)

    def draw(state: TrainState) -> dict[str, Picture]:
        return pictures.image_pictures(state, images_of(train_source), networks=networks)

    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=functools.partial(
            _game.init_state, networks=networks, turns=players, example_shape=shape, ema=_game.has_ema(config)
        ),
        train_step=_game.train_step(config, players, train_source.num_examples),
        eval_step=eval_step,
        report=evaluation.report,
        assess=functools.partial(assess, load=load, sample=sample, sources=(train_source, test_source), config=config)
        if config.eval.num_samples
        else None,
        sample=sample,
        pictures=draw,
        settle=functools.partial(sampling.settle, networks=networks),
        frame=functools.partial(pictures.image_frame, networks=networks),
        warnings=objectives.warnings_of(loss),
        headline=((f"frechet_distance_{known.name}",) if known else ()) + ("parzen_nats", "discriminator_loss"),
        steps_per_call=config.train.steps_per_call,
    )


def assess(
    state: TrainState,
    *,
    load: Callable[[], features.FeatureExtractor | None],
    sample: Callable[[TrainState, Key], Array],
    sources: tuple[Source, Source],
    config: ConfigDict,
) -> dict[str, float]:
    """How far samples are from the training images, by the features of a network.

    Args:
      state: of the run, settled.
      load: gives the extractor of the features; None where there is none for such images.
      sample: draws from the state.
      sources: of the training and the test images.
      config: of the run.

    Returns:
      The numbers of `eval.features.judge`, each with the extractor's name in it; where `config.eval.parzen` asks for
      it `parzen_nats`, the log-likelihood of the test images under a Parzen window of the samples, with its interval.
    """
    extractor, count = load(), config.eval.num_samples
    draw, key, chunk = jax.jit(sample), rng.stream(state.key, "assess"), 500
    chunks = [np.asarray(draw(state, rng.per_example(key, s + jnp.arange(chunk)))) for s in range(0, count, chunk)]
    fake = np.concatenate(chunks)[:count]
    numbers: dict[str, float] = {}
    if extractor is None:
        _say("Samples are not judged: the package's classifier is of grey 28x28 images; give --config.eval.features.")
    else:
        numbers = features.judge(extractor, images_of(sources[0], count), fake, seed=config.seed)
        if numbers[f"too_few_examples_{extractor.name}"]:
            _say(
                f"The distances are of fewer than 10,000 examples a side ({count} samples): their size depends on that "
                "number; compare them with none of another."
            )
    return numbers | (_parzen(fake, *sources, seed=config.seed) if config.eval.parzen else {})


def _parzen(fake: np.ndarray, train_source: Source, test_source: Source, *, seed: int) -> dict[str, float]:
    """The log-likelihood of the test images, the width chosen by a thousand training images."""
    samples, validation, test = (
        x.reshape(len(x), -1) for x in (fake, images_of(train_source, 1000), images_of(test_source))
    )
    found = parzen_log_likelihood(samples, validation, test, np.geomspace(0.05, 0.5, 11).tolist(), seed=seed)
    ends = {"parzen_nats": found.log_likelihood, "parzen_nats_low": found.low, "parzen_nats_high": found.high}
    return ends | {"parzen_sigma": found.sigma}


def _say(sentence: str) -> None:
    if jax.process_index() == 0:
        print(sentence, flush=True)


def images_of(source: Source, count: int | None = None) -> np.ndarray:
    """Images of a set, drawn at random but always the same: a set may be ordered by class.

    Args:
      source: of the images.
      count: at most so many; None for all, in order.

    Returns:
      [N, H, W, C] in [0, 1].
    """
    total = source.num_examples
    wanted = np.zeros(total, bool)
    wanted[np.random.default_rng(0).permutation(total)[:count]] = True
    found: list[np.ndarray] = []
    for batch in source.whole().evaluation():
        kept = batch["mask"] > 0
        found.append(batch["image"][kept][wanted[batch["row"][kept]]])
    return np.concatenate(found) / np.float32(255)
