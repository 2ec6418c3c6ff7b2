"""What a test set says of a classifier: values for each image, and the numbers that people read of their means."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np

from gen_jax.contracts import Batch, Key, Params, Source, Values
from gen_jax.families.classifier import losses
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.nn.small_classifier import SmallClassifier
from gen_jax.ops import pixels
from gen_jax.ops.distributions import is_most_probable


def class_values(params: Params, key: Key, batch: Batch, *, model: SmallClassifier) -> Values:
    """Whether each test image is classified correctly, and the cross-entropy of its class.

    Args:
      params: of the model.
      key: the root key; unused.
      batch: `image` [B, H, W, C] uint8 and `label` [B].
      model: the classifier.

    Returns:
      `correct`, 0 or 1, and `cross_entropy` in nats, each [B].
    """
    _, logits = apply_in_param_dtype(model, params, pixels.unit_levels(batch["image"]), method="classify")
    return {
        "correct": jax.vmap(is_most_probable)(logits, batch["label"]),
        "cross_entropy": jax.vmap(losses.cross_entropy)(logits, batch["label"]),
    }


def report(means: dict[str, np.ndarray]) -> dict[str, float]:
    """The numbers people read.

    Args:
      means: over the test set, as `class_values` names them.

    Returns:
      `accuracy_percent` and `cross_entropy_nats`.
    """
    return {
        "accuracy_percent": float(100 * means["correct"]),
        "cross_entropy_nats": float(means["cross_entropy"]),
    }


class Classified(NamedTuple):
    """A whole set and what the classifier makes of it.

    Attributes:
      images: [N, H, W, C] float32 in [0, 1].
      labels: [N] int32.
      features: [N, d] float32 of the hidden layer.
      probs: [N, K] float32, p(c|x).
    """

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    probs: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """[N] the most probable class of each."""
        return self.probs.argmax(axis=1)


def classify_all(params: Params, source: Source, *, model: SmallClassifier) -> Classified:
    """Classifies every image of a source.

    Args:
      params: of the model.
      source: of the images.
      model: the classifier.

    Returns:
      The images in the source's order and what became of them.
    """
    classify = jax.jit(functools.partial(apply_in_param_dtype, model, method="classify"))
    parts = []
    for batch in source.whole().evaluation():
        x, kept = np.asarray(batch["image"], np.float32) / 255, batch["mask"] > 0
        features, logits = classify(params, x)
        found = (x, batch["label"], np.asarray(features), np.asarray(jax.nn.softmax(logits)))
        parts.append([array[kept] for array in found])
    return Classified(*(np.concatenate(part) for part in zip(*parts, strict=True)))
