"""What the experiments on diffusion share of guidance: labels, the network's own and a classifier's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng, run
from gen_jax.contracts import Array, Key, Params, UserError
from gen_jax.families import diffusion as family
from gen_jax.families.diffusion import adm, guidance, objectives, unet
from gen_jax.families.diffusion.classifier import NoisyClassifier, log_prob
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.files import absolute
from gen_jax.train import workdir

NAMES = ("none", "classifier_free", "classifier")

# From a model, its parameters and the keys [B] of some samples to a network to draw them with and a guide of it.
Guided = Callable[[Diffusion, Params, Key], tuple[family.samplers.Predict, family.Guide | None]]


def section() -> ConfigDict:
    """The keys of guidance, which may be other ones at every `--mode=sample` and `--mode=eval` of a run."""
    found = ConfigDict()
    found.name = "none"  # none | classifier_free | classifier
    found.label = -1  # The class that is asked for; -1 for one drawn for each sample.
    found.scale = 1.0  # s, or w where the convention is weight.
    found.convention = "scale"  # scale | weight: of classifier_free, s = 1 + w.
    found.classifier = ""  # The workdir of a noisy_classifier.
    found.at_point = "x_t"  # x_t | mean: of classifier, where its gradient is taken: as published, or as derived.
    return found


def rules() -> dict[str, config_lib.Rule]:
    """What the keys of `section` must satisfy."""
    return {
        "guidance.name": config_lib.one_of(*NAMES),
        "guidance.label": config_lib.at_least(-1),
        "guidance.scale": lambda value: None if abs(value) < float("inf") else "a finite number",
        "guidance.convention": config_lib.one_of(*guidance.CONVENTIONS),
        "guidance.at_point": config_lib.one_of(*guidance.GRADIENT_POINTS),
    }


def check(config: ConfigDict) -> None:
    """Refuses guidance that a model cannot have, labels outside of its set, and keys without effect.

    Args:
      config: the resolved config.

    Raises:
      UserError: naming the keys.
    """
    g, classes = config.guidance, config.model.num_classes
    if g.label >= 0 and g.name != "classifier":  # A classifier has its own set.
        family.check_labels([g.label], classes)
    if g.name == "none" and g.scale != 1.0:
        other = "classifier_free or classifier" if classes else "classifier, since the model has no labels"
        raise UserError(
            f"config.guidance.scale={g.scale} has no effect with config.guidance.name=none; set that to {other}, or "
            "the scale to 1."
        )
    if g.name == "classifier_free" and not classes:
        raise UserError(
            "config.guidance.name=classifier_free needs a model with labels and this one has none "
            "(config.model.num_classes=0); use none, or classifier."
        )
    trained_without = classes and config.objective.label_dropout == 0
    if g.name == "classifier_free" and trained_without and g.scale != (1.0 if g.convention == "scale" else 0.0):
        raise UserError(
            "config.guidance.name=classifier_free needs a model that was trained without labels as well "
            "(config.objective.label_dropout above 0), and this one always saw them; use none, or classifier."
        )
    if g.convention != "scale" and g.name != "classifier_free":
        raise UserError(
            f"config.guidance.convention={g.convention} has no effect with config.guidance.name={g.name}; use "
            "classifier_free, or scale."
        )
    if g.name == "classifier" and not g.classifier:
        raise UserError(
            "config.guidance.name=classifier needs a trained one: give config.guidance.classifier=WORKDIR of "
            "experiments.noisy_classifier."
        )
    if g.name != "classifier" and (g.classifier or g.at_point != "x_t"):
        raise UserError(
            f"config.guidance.classifier and config.guidance.at_point have no effect with config.guidance.name="
            f"{g.name}; use classifier."
        )
    if g.at_point == "mean" and config.sampler.name != "ancestral":
        raise UserError(
            f"config.guidance.at_point=mean moves the mean of an ancestral step, and config.sampler.name="
            f"{config.sampler.name} has none; use ancestral, or x_t."
        )


class Classifier(NamedTuple):
    """A classifier of noisy images, as guidance takes it.

    Attributes:
      log_prob: `(x [B, ...], time [B], label [B]) -> [B]`, log p(y | x_t) in nats.
      num_classes: K.
    """

    log_prob: Callable[..., Array]
    num_classes: int


def labels_of(config: ConfigDict, num_classes: int, keys: Key) -> Array | None:
    """The labels that samples are asked for: the config's, or one that each key draws.

    Args:
      config: with the section `guidance`.
      num_classes: K; 0 where there are no labels.
      keys: [B].

    Returns:
      [B] int32, or None for a model without labels.
    """
    if not num_classes:
        return None
    if config.guidance.label >= 0:
        return jnp.full(keys.shape, config.guidance.label, jnp.int32)
    return jax.vmap(lambda key: jax.random.randint(rng.stream(key, "label"), (), 0, num_classes))(keys)


def build_classifier(config: ConfigDict, image_shape: tuple[int, ...]) -> NoisyClassifier:
    """The network of `experiments.noisy_classifier`.

    Args:
      config: of that experiment.
      image_shape: (H, W, C).

    Returns:
      The network.

    Raises:
      UserError: where its depth, its attention or its heads do not fit.
    """
    m = config.model
    unet.check_sizes(image_shape, tuple(m.channel_mult), tuple(m.attention_at))
    adm.check_heads(image_shape[0], m.channels, tuple(m.channel_mult), tuple(m.attention_at), m.head_channels)
    return NoisyClassifier(
        channels=m.channels,
        channel_mult=tuple(m.channel_mult),
        num_blocks=m.num_blocks,
        attention_at=tuple(m.attention_at),
        head_channels=m.head_channels,
        dropout=m.dropout,
        remat=m.remat,
        num_classes=m.num_classes,
    )


def load_classifier(config: ConfigDict, image_shape: tuple[int, ...]) -> Classifier:
    """The classifier that a config asks for.

    Args:
      config: whose `guidance.classifier` is the workdir of a run of `experiments.noisy_classifier`.
      image_shape: (H, W, C).

    Returns:
      The classifier.

    Raises:
      UserError: where the folder is not such a workdir, or its classifier is of another process, of images of another
        size or of other classes.
    """
    folder = absolute(config.guidance.classifier)
    text = workdir.read_config_text(folder)
    name = "noisy_classifier" if text is None else workdir.experiment_name(folder, text)
    if name != "noisy_classifier":
        raise UserError(
            f"{folder} is a run of experiments.{name}; config.guidance.classifier takes one of "
            "experiments.noisy_classifier."
        )
    loaded = run.load(folder)
    differing = config_lib.differences(loaded.config.process, config.process)
    if differing:
        raise UserError(
            f"The classifier in {loaded.workdir} was trained on another process: {', '.join(differing)}; train one on "
            "the model's own."
        )
    shape = loaded.experiment.train_source.example_shape
    if tuple(shape) != tuple(image_shape):
        raise UserError(
            f"The classifier in {loaded.workdir} is of images {tuple(shape)} and the model's are {tuple(image_shape)}; "
            "train one on the model's."
        )
    classes = loaded.config.model.num_classes
    if config.model.num_classes and config.model.num_classes != classes:
        raise UserError(
            f"The classifier in {loaded.workdir} has {classes} classes and the model {config.model.num_classes}; train "
            "one on the same data."
        )
    if config.guidance.label >= 0:
        family.check_labels([config.guidance.label], classes)
    model = build_classifier(loaded.config, shape)
    return Classifier(functools.partial(log_prob, loaded.state.eval_params, model=model), classes)


def guided_by_itself(
    diffusion: Diffusion, params: Params, label: Array, scale: float, convention: str = "scale"
) -> family.samplers.Predict:
    """The network of a model with labels under classifier-free guidance.

    Args:
      diffusion: the model.
      params: of its network.
      label: [B] int.
      scale: s, or w, by the convention.
      convention: as in `guidance.classifier_free`.

    Returns:
      `(x_t [B, ...], time [B]) -> output`.

    Raises:
      ValueError: where the convention is another one.
    """

    def labelled(x: Array, time: Array, label: Array) -> Array:
        return objectives.predictor(params, label, diffusion=diffusion)(x, time)

    learned, null = diffusion.variance == "learned", diffusion.num_classes
    return family.classifier_free(labelled, label, null, scale, convention=convention, learned_variance=learned)


def make_guided(config: ConfigDict, classifier: Classifier | None) -> Guided:
    """How the network of a config is told labels and guided.

    Args:
      config: the resolved config, checked.
      classifier: of `load_classifier`, where the config asks for one.

    Returns:
      The function.
    """
    g = config.guidance

    def guided(diffusion: Diffusion, params: Params, keys: Key) -> tuple[family.samplers.Predict, family.Guide | None]:
        if classifier is None:
            label = labels_of(config, diffusion.num_classes, keys)
            if label is not None and g.name == "classifier_free":
                return guided_by_itself(diffusion, params, label, g.scale, g.convention), None
            return objectives.predictor(params, label, diffusion=diffusion), None
        label = labels_of(config, classifier.num_classes, keys)
        predict = objectives.predictor(params, label if diffusion.num_classes else None, diffusion=diffusion)

        def chosen(x: Array, time: Array) -> Array:
            return classifier.log_prob(x, time, label)

        if config.sampler.name == "ancestral":
            return predict, family.shift_mean(chosen, g.scale, at_point=g.at_point)
        return predict, family.shift_epsilon(chosen, g.scale)

    return guided
