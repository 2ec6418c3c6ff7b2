"""What the experiments on images share: the images, and how samples are judged against them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

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
    if classes and labels is not None and not (labels.min() >= 0 and labels.max() == classes - 1):
        raise UserError(
            f"config.model.num_classes={classes} does not fit the labels of {config.data.name}, which go from "
            f"{labels.min()} to {labels.max()}; give one more than the largest, or 0 where images have no label (-1)."
        )
    if classes and tested is not None and not (tested.min() >= 0 and tested.max() < classes):
        raise UserError(
            f"The test images of {config.data.name} have labels from {tested.min()} to {tested.max()}, which "
            f"config.model.num_classes={classes} does not cover; give them those of the training images."
        )
    return found


def assessment(
    config: ConfigDict,
    load: Callable[[], features.FeatureExtractor | None],
    sample: Callable[[TrainState, Key], Array],
    sources: tuple[Source, Source],
) -> Callable[[TrainState], dict[str, float]] | None:
    """`assess` as an experiment has it; None where `config.eval.num_samples` is 0."""
    if not config.eval.num_samples:
        return None
    return functools.partial(assess, load=load, sample=sample, sources=sources, config=config)


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
    total = source.num_examples
    wanted = np.zeros(total, bool)
    wanted[np.random.default_rng(0).permutation(total)[:count]] = True
    found: list[np.ndarray] = []
    for batch in source.whole().evaluation():
        kept = batch["mask"] > 0
        found.append(batch["image"][kept][wanted[batch["row"][kept]]])
    return np.concatenate(found) / np.float32(255)
