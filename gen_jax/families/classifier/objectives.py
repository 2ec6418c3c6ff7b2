"""What the train step minimises: the cross-entropy of a batch of images."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Terms
from gen_jax.families.classifier.losses import cross_entropy
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.nn.small_classifier import SmallClassifier
from gen_jax.ops import pixels
from gen_jax.ops.distributions import is_most_probable


def objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    model: SmallClassifier,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The mean cross-entropy over a batch, and what a train step logs.

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 4.3.4, Eq. 4.108.

    Args:
      params: of the model.
      model_state: {}.
      key: of this step.
      batch: `image` [B, H, W, C] uint8, `label` [B] and `index` [B].
      model: the classifier.

    Returns:
      The loss [] in nats, and (model_state, terms): {}, and `accuracy`, the fraction of the batch classified correctly.
    """
    keys = rng.per_example(rng.stream(key, "dropout"), batch["index"])
    x = pixels.unit_levels(batch["image"])
    _, logits = apply_in_param_dtype(model, params, x, keys, method="classify")
    loss = jnp.mean(jax.vmap(cross_entropy)(logits, batch["label"]))
    accuracy = jnp.mean(jax.vmap(is_most_probable)(logits, batch["label"]))
    return loss, (model_state, {"accuracy": accuracy})
