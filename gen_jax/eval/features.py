"""Judging samples by the features of a network: which network, and every distance of samples from data by it.

A distance of features means something only beside the name of the network they come from, so the name of a
`FeatureExtractor` ends the name of every number that `judge` gives: `frechet_distance_inception_2015` is the FID of the
papers, `frechet_distance_fashion_mnist_10k_classifier` is of our own small classifier and can be compared with none of
theirs.

Example:
  extractor = features.embedded_classifier()
  numbers = features.judge(extractor, images, samples, seed=0)  # Both [N, 28, 28, 1] in [0, 1].
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.checkpoint import Checkpoints, to_arrays
from gen_jax.contracts import Array, Params, UserError
from gen_jax.eval import bootstrap, coverage, distances
from gen_jax.files import BROKEN_NPZ, absolute
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.nn.small_classifier import SmallClassifier

EMBEDDED = "fashion_mnist_10k_classifier"
EMBEDDED_FILE = pathlib.Path(__file__).parent / "embedded" / EMBEDDED / "weights.npz"
EMBEDDED_SHAPE = (28, 28, 1)
BATCH_SIZE = 250  # Images that the classifier sees at a time.
INCEPTION_BATCH_SIZE = 50
MIN_EXAMPLES = 10_000  # Below which a Fréchet distance says as much of their number as of the samples.
NUM_RESAMPLES = 50  # Halves of an interval,
FEW_RESAMPLES = 10  # and of that of a Fréchet distance of more numbers than
MANY_FEATURES = 512  # these.

ImageShape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A network by whose features images are compared.

    Attributes:
      name: which network and weights these are, as a part of a metric's name: letters, digits and underscores.
      extract: images [N, H, W, C] in [0, 1] to their features [N, d] float32 and class probabilities [N, K] float32,
        or None for the latter where the network has none.
    """

    name: str
    extract: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def load(path: str, image_shape: ImageShape) -> FeatureExtractor | None:
    """The extractor that a path names, for images of a shape.

    Args:
      path: "" for the classifier that comes with the package; a workdir of `experiments.classifier`; or a file with
        Inception's weights, as `inception.load_fid_weights` reads it.
      image_shape: (H, W, C) of the images to be judged.

    Returns:
      The extractor; None where `path` is "" and the images are not those of the classifier's kind, 28x28 and grey.

    Raises:
      UserError: nothing usable is there, or it is of images of another shape.
    """
    shape = tuple(image_shape)
    if not path:
        return embedded_classifier() if shape == EMBEDDED_SHAPE else None
    place = absolute(path)
    if place.is_dir():
        return classifier_of_run(place, shape)
    if not place.is_file():
        raise UserError(f"There is no {place}; give a workdir of experiments.classifier, or a file of Inception's.")
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise UserError(f"Inception takes grey and RGB images, not those of the shape {shape}; give a classifier.")
    return inception_features(place)


def embedded_classifier() -> FeatureExtractor:
    """The classifier of `fashion_mnist_10k` that comes with the package, for grey images of 28x28.

    Returns:
      The extractor.

    Raises:
      UserError: its file cannot be read.
    """
    params, model = read_classifier(EMBEDDED_FILE)
    return classifier_features(EMBEDDED, params, model=model, image_shape=EMBEDDED_SHAPE)


def classifier_of_run(workdir: pathlib.Path, image_shape: ImageShape) -> FeatureExtractor:
    """The classifier of a run, by the name `classifier_<data>_<first 8 digits of its weights' SHA-256>`.

    Args:
      workdir: of a run of `experiments.classifier`; its newest whole checkpoint is read.
      image_shape: (H, W, C) of the images to be judged.

    Returns:
      The extractor.

    Raises:
      UserError: it is no such workdir, has no checkpoint, or learned from images of another shape.
    """
    params, model, facts = read_run(workdir)
    if facts["image_shape"] != tuple(image_shape):
        raise UserError(
            f"The classifier in {workdir} takes images of the shape {facts['image_shape']}, not {tuple(image_shape)};"
            " train one on such images."
        )
    data = re.sub(r"\W", "_", facts["data"].lower())
    name = f"classifier_{data}_{digest(params)[:8]}"
    return classifier_features(name, params, model=model, image_shape=image_shape)


def inception_features(path: str | pathlib.Path) -> FeatureExtractor:
    """The network of the papers, by the name `inception_2015`.

    Args:
      path: of its weights, as `inception.load_fid_weights` reads them.

    Returns:
      The extractor, for grey and RGB images of any size.

    Raises:
      UserError: the file cannot be used.
    """
    from gen_jax.eval import inception

    variables = jax.device_put(inception.load_fid_weights(path))
    apply = jax.jit(inception.features_and_probs)
    return FeatureExtractor(
        inception.NAME, lambda images: in_batches(functools.partial(apply, variables), images, INCEPTION_BATCH_SIZE)
    )


def classifier_features(
    name: str, params: Params, *, model: SmallClassifier, image_shape: ImageShape
) -> FeatureExtractor:
    """The extractor of a classifier's hidden layer.

    Args:
      name: of the extractor.
      params: of the classifier.
      model: the classifier.
      image_shape: (H, W, C) of the images that it takes.

    Returns:
      The extractor, which refuses other images with a `UserError`.
    """
    expected = tuple(image_shape)

    @jax.jit
    def apply(params: Params, x: Array) -> tuple[Array, Array]:
        features, logits = apply_in_param_dtype(model, params, x, method="classify")
        return features, jax.nn.softmax(logits)

    def extract(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = np.shape(images)[1:]
        if shape != expected:
            raise UserError(f"{name} takes images of the shape {expected}, not {shape}; choose another extractor.")
        return in_batches(functools.partial(apply, params), images, BATCH_SIZE)

    return FeatureExtractor(name, extract)


def in_batches(
    apply: Callable[[Array], tuple[Array, Array]], images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Applies a compiled network to a set of images, in batches of one size and with products of full precision.

    Args:
      apply: [B, H, W, C] to two arrays [B, ...].
      images: [N, H, W, C] in [0, 1], N ≥ 1.
      batch_size: B, or N where that is less; the last batch is filled up with black images, which are left out of the
        result.

    Returns:
      Two arrays [N, ...] float32.

    Raises:
      UserError: the images are not such.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images) or not np.issubdtype(images.dtype, np.floating):
        raise UserError(
            f"Images cannot be of the shape {images.shape} and type {images.dtype}; give [N, H, W, C] in [0, 1]."
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise UserError(
            f"The images lie between {images.min():.3g} and {images.max():.3g}; give finite numbers in [0, 1]."
        )
    parts, batch_size = [], min(batch_size, len(images))
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], np.float32)
        filled = np.pad(batch, ((0, batch_size - len(batch)), *[(0, 0)] * 3))
        # By itself a device may multiply with fewer digits, and the features would then depend on the device.
        with jax.default_matmul_precision("highest"):
            outputs = apply(jnp.asarray(filled))
        parts.append([np.asarray(output, np.float32)[: len(batch)] for output in outputs])
    features, probs = (np.concatenate(part) for part in zip(*parts, strict=True))
    return features, probs


def read_classifier(file: pathlib.Path) -> tuple[Params, SmallClassifier]:
    """A classifier from a file that `embedded.build` wrote: arrays by their path, from which the model follows.

    Args:
      file: .npz.

    Returns:
      The parameters and the model.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        stages = sum(re.fullmatch(r"stages_\d+/kernel", name) is not None for name in arrays)
        channels = tuple(arrays[f"stages_{i}/kernel"].shape[-1] for i in range(stages))
        num_features, num_classes = arrays["logits/kernel"].shape
    except BROKEN_NPZ as error:
        raise UserError(f"{file} cannot be read as a classifier's weights; install the package anew.") from error
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, _, kind = name.partition("/")
        params.setdefault(layer, {})[kind] = array
    return params, SmallClassifier(num_classes, channels, num_features)


def read_run(workdir: pathlib.Path) -> tuple[Params, SmallClassifier, dict[str, Any]]:
    """The classifier that a workdir holds.

    Args:
      workdir: of a run of `experiments.classifier`.

    Returns:
      The parameters to evaluate with, on the host; the model; and `data`, the name of its data, `image_shape` and
      `step`.

    Raises:
      UserError: it is no such workdir, or has no checkpoint.
    """
    try:
        config = json.loads((workdir / "config.json").read_text())
        data = json.loads((workdir / "provenance.json").read_text())["data"]["train"]
        if config["experiment"] != "classifier":
            raise UserError(f"{workdir} holds a run of '{config['experiment']}'; give one of experiments.classifier.")
        m, train = config["model"], config["train"]
        model = SmallClassifier(m["num_classes"], tuple(m["channels"]), m["num_features"])
        facts = {"data": str(config["data"]["name"]), "image_shape": tuple(data["example_shape"])}
        average = bool(train["ema_decay"] or train["ema_half_life"])
        params = model.init(rng.root(0), jnp.zeros((1, *facts["image_shape"])))["params"]
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{workdir} is not the workdir of a run; give one of experiments.classifier.") from error
    which = "ema_params" if average else "params"
    restored = Checkpoints(workdir / "checkpoints").restore_latest({which: params}, partial=True)
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet; train it first.")
    return restored[0][which], model, facts | {"step": restored[1]}


def digest(params: Params) -> str:
    """SHA-256 in hexadecimal, over the path, shape, type and bytes of every parameter."""
    found = hashlib.sha256()
    for path, array in sorted(to_arrays(params).items()):
        found.update(f"{path} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def judge(
    extractor: FeatureExtractor,
    real: np.ndarray,
    fake: np.ndarray,
    *,
    seed: int,
    max_neighbour_examples: int = 2000,
    num_resamples: int | None = None,
    level: float = 0.95,
) -> dict[str, float]:
    """Every distance of samples from data, with intervals.

    See `judge_features`.

    Args:
      extractor: the network.
      real: [N, H, W, C] in [0, 1], data.
      fake: [M, H, W, C] in [0, 1], samples.
      seed: of the halves that the intervals come from, and of the examples whose neighbours are looked for.
      max_neighbour_examples: as in `judge_features`.
      num_resamples: as there.
      level: as there.

    Returns:
      Numbers by name.

    Raises:
      UserError: the images do not suit the network, or are too few.
    """
    real_features, _ = extractor.extract(real)
    fake_features, fake_probs = extractor.extract(fake)
    return judge_features(
        extractor.name,
        real_features,
        fake_features,
        fake_probs,
        seed=seed,
        max_neighbour_examples=max_neighbour_examples,
        num_resamples=num_resamples,
        level=level,
    )


def judge_features(
    name: str,
    real: np.ndarray,
    fake: np.ndarray,
    fake_probs: np.ndarray | None = None,
    *,
    seed: int,
    max_neighbour_examples: int = 2000,
    num_resamples: int | None = None,
    level: float = 0.95,
) -> dict[str, float]:
    """Every distance of the features of samples from those of data, with intervals.

    The intervals are those of `bootstrap.half_sample_interval`: over other data and other samples of as many examples,
    not over other runs. That of the Fréchet distance does not go below 0. A Fréchet distance of 2048 numbers takes
    about 25 s on two CPU cores, and its interval `num_resamples` times that; so it is of fewer halves by default.

    Args:
      name: of the extractor.
      real: [N, d], the features of data, finite, N ≥ 20.
      fake: [M, d], those of samples, finite, M ≥ 20.
      fake_probs: [M, K], the samples' class probabilities, for the inception score; None for no such score.
      seed: of the halves, and of the examples whose neighbours are looked for.
      max_neighbour_examples: of how many of each set, drawn at random, precision, recall, density and coverage are.
      num_resamples: of how many halves an interval comes; None for 50, but 10 for the Fréchet distance of more than 512
        numbers, whose interval is then wider by an eighth or so.
      level: of the intervals, in (0, 1).

    Returns:
      `<metric>_<name>`, `<metric>_<name>_low` and `<metric>_<name>_high` of the metrics `frechet_distance`,
      `kernel_distance`, `precision`, `recall`, `density`, `coverage` and, where there are probabilities,
      `inception_score`; `num_real_<name>` N and `num_fake_<name>` M; `num_neighbour_examples_<name>`, of how many of
        each set (or of all, where there are fewer) precision, recall, density and coverage are; and
        `too_few_examples_<name>`, 1.0 where N or M is below 10,000 and 0.0 elsewhere.

    Raises:
      UserError: the features are not as above.
    """
    if min(len(real), len(fake)) < 20:
        raise UserError(
            f"There are {len(real)} real examples and {len(fake)} samples to compare; give at least 20 of each, and"
            f" {MIN_EXAMPLES} for a Fréchet distance that means something."
        )
    halves = NUM_RESAMPLES if num_resamples is None else num_resamples
    options: dict[str, Any] = {"seed": seed, "num_resamples": halves, "level": level}
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    slow = num_resamples is None and real.shape[-1] > MANY_FEATURES
    of_frechet = options | {"num_resamples": FEW_RESAMPLES} if slow else options
    frechet = bootstrap.half_sample_interval(distances.frechet_distance_of_features, real, fake, **of_frechet)
    found = {
        "frechet_distance": bootstrap.from_zero(frechet),
        "kernel_distance": distances.kernel_distance_interval(real, fake, **options),
    }
    if fake_probs is not None:
        found["inception_score"] = _score_interval(fake_probs, **options)
    random = np.random.default_rng(seed)
    some = [x[random.permutation(len(x))[:max_neighbour_examples]] for x in (real, fake)]
    found |= coverage.neighbour_intervals(*some, **options)
    few = min(len(real), len(fake)) < MIN_EXAMPLES
    counts = {
        "num_real": len(real),
        "num_fake": len(fake),
        "num_neighbour_examples": max(map(len, some)),
        "too_few_examples": few,
    }
    return _named(name, found) | {f"{fact}_{name}": float(count) for fact, count in counts.items()}


def _score_interval(probs: np.ndarray, *, seed: int, **options: Any) -> bootstrap.Interval:
    """The inception score of class probabilities, with an interval."""
    shuffled = np.random.default_rng(seed).permutation(probs)  # A split must know nothing of the order.
    return bootstrap.half_sample_interval(
        lambda probs: distances.inception_score(probs).value, shuffled, seed=seed, **options
    )


def _named(name: str, intervals: dict[str, bootstrap.Interval]) -> dict[str, float]:
    """Each interval as three numbers, whose names end with the extractor's and with which of the three it is."""
    return {
        f"{metric}_{name}{end}": value
        for metric, interval in intervals.items()
        for end, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high))
    }
