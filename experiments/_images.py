"""What the experiments on images share: the images, whole sets of them, and how samples are judged against them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.contracts import Array, Key, Source, UserError
from gen_jax.data import image_sources
from gen_jax.eval import features
from gen_jax.eval.parzen import parzen_log_likelihood
from gen_jax.train import parallel
from gen_jax.train.state import TrainState


def sources_of(config: ConfigDict, sources: tuple[Source, Source] | None) -> tuple[Source, Source]:
    """The training and the test images.

    Args:
      config: the resolved config.
      sources: given ones, or None to find them.

    Returns:
      Both sources.

    Raises:
      UserError: where the set is not found.
    """
    return sources or image_sources(config.data.name, config.data.dir or None, **parallel.stream_options(config))


def labelled_sources_of(config: ConfigDict, sources: tuple[Source, Source] | None) -> tuple[Source, Source]:
    """The training and the test images, with labels where a model is told them.

    Args:
      config: the resolved config.
      sources: given ones, or None to find them.

    Returns:
      Both sources.

    Raises:
      UserError: where the set is not found, or has other classes than `config.model.num_classes`.
    """
    found = sources_of(config, sources)
    classes = config.model.num_classes
    # Data that are gone have no labels, and need none to sample.
    labels, tested = (getattr(source, "labels", None) for source in found)
    if classes and labels is not None and labels.min() < 0:
        raise UserError(
            f"config.model.num_classes={classes} wants a label of every image, and some of {config.data.name} have "
            "none; put each class in a folder of its own, or take an experiment that needs no labels, and its "
            "config.model.num_classes=0."
        )
    if classes and labels is not None and labels.max() != classes - 1:
        raise UserError(
            f"config.model.num_classes={classes} does not fit the labels of {config.data.name}, which go from "
            f"{labels.min()} to {labels.max()}; give one more than the largest."
        )
    if classes and tested is not None and not (tested.min() >= 0 and tested.max() < classes):
        raise UserError(
            f"The test images of {config.data.name} have labels from {tested.min()} to {tested.max()}, which "
            f"config.model.num_classes={classes} does not cover; give them those of the training images."
        )
    return found


def check_stages(config: ConfigDict, image_shape: tuple[int, ...], network: str) -> None:
    """Refuses a convolutional network whose stages, of `config.model.channels`, do not halve the images evenly.

    Args:
      config: the resolved config.
      image_shape: (H, W, C).
      network: what it is, for the message.

    Raises:
      UserError: with the size that is wanted.
    """
    stages, (height, width, _) = len(config.model.channels), image_shape
    if height % 2**stages or width % 2**stages or not stages:
        raise UserError(
            f"The convolutional {network} of {stages} stages takes images whose sides divide by {2**stages}, not "
            f"{height}x{width}; change config.model.channels, or use config.model.network=mlp."
        )


def add_judge_keys(config: ConfigDict) -> None:
    """Adds what says how samples are judged to the section `eval`."""
    # A file of weights or the workdir of a classifier, by whose features samples are judged; "" for the classifier
    # of small grey images that comes with the package.
    config.eval.features = ""
    config.eval.num_samples = 10_000  # So many samples are compared with as many training images; 0 for none.


def judge_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `add_judge_keys` must satisfy."""
    return {"eval.num_samples": lambda value: None if value == 0 or value >= 20 else "0, or at least 20"}


class Judge(NamedTuple):
    """How an experiment's samples are judged.

    Attributes:
      assess: as an `Experiment` has it; None where `config.eval.num_samples` is 0.
      headline: the name of the distance that comes first, where the network that it is by is known.
    """

    assess: Callable[[TrainState], dict[str, float]] | None
    headline: tuple[str, ...]


def judge_of(
    config: ConfigDict, sample: Callable[[TrainState, Key], Array], sources: tuple[Source, Source], *, fresh: bool
) -> Judge:
    """The judge of a config, whose network is read before training rather than after it.

    Args:
      config: the resolved config.
      sample: draws from the state.
      sources: of the training and the test images.
      fresh: whether the images are there; if not, the network may be gone as well, and the run still samples.

    Returns:
      The judge.

    Raises:
      UserError: where the network by whose features samples are to be judged cannot be read.
    """
    if not config.eval.num_samples:
        return Judge(None, ())
    load = functools.cache(functools.partial(features.load, config.eval.features, sources[0].example_shape))
    known = load() if fresh else None
    return Judge(
        functools.partial(assess, load=load, sample=sample, sources=sources, config=config),
        (f"frechet_distance_{known.name}",) if known else (),
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
    if extractor is None:
        _say("Samples are not judged: the package's classifier is of grey 28x28 images; give --config.eval.features.")
        if not config.eval.get("parzen"):
            return {}
    # Not `eval.sample_chunk` at a time: a sample's last bit, and with it these numbers, may depend on how many it is.
    compiled, key, chunk = jax.jit(sample), rng.stream(state.key, "assess"), 500
    chunks = [np.asarray(compiled(state, rng.per_example(key, s + jnp.arange(chunk)))) for s in range(0, count, chunk)]
    fake = np.concatenate(chunks)[:count]
    numbers: dict[str, float] = {}
    if extractor is not None:
        numbers = features.judge(extractor, images_of(sources[0], count), fake, seed=config.seed)
        if numbers[f"too_few_examples_{extractor.name}"]:
            _say(
                f"The distances are of fewer than 10,000 examples a side ({count} samples): their size depends on that "
                "number; compare them with none of another."
            )
    return numbers | (_parzen(fake, *sources, seed=config.seed) if config.eval.get("parzen") else {})


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
    images, _ = whole_set(source)
    wanted = np.zeros(len(images), bool)
    wanted[np.random.default_rng(0).permutation(len(images))[:count]] = True
    return images[wanted] / np.float32(255)


def whole_set(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a set, though this process may be given only a part of every batch.

    Args:
      source: of the images.

    Returns:
      [N, H, W, C] uint8 and [N] int32, in the source's order.
    """
    batches = [(b["image"][b["mask"] > 0], b["label"][b["mask"] > 0]) for b in source.whole().evaluation()]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    return images, labels


def in_batches(function: Callable[[Array], Array], x: np.ndarray, batch_size: int = 1000) -> np.ndarray:
    """Applies a function of a batch to a set that may be larger than memory allows at once.

    Args:
      function: `[B, ...] -> [B, ...]`, to be compiled.
      x: [N, ...].
      batch_size: B.

    Returns:
      [N, ...].
    """
    compiled = jax.jit(function)
    return np.concatenate([np.asarray(compiled(x[i : i + batch_size])) for i in range(0, len(x), batch_size)])
