"""What a test set says of a game: how well the discriminator tells fakes from it, and which modes the fakes reach."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Values
from gen_jax.families.gan.models import apply_network
from gen_jax.families.gan.objectives import CROSS_ENTROPIES, LOSSES, Networks, make_fakes
from gen_jax.ops import pixels


def game_values(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    networks: Networks,
    loss: str,
    centres: np.ndarray | None = None,
    radius: float = 0.0,
) -> Values:
    """What the discriminator says of each test example, and of one fake for each.

    Both players have the parameters of the last step and not their average. Batch normalisation is by its running
    averages, so that each example counts by itself: a discriminator that has it is then not quite the one that plays,
    whose losses are the metrics of training. Real labels are 1, softened or not.

    Args:
      params: of both players.
      model_state: of both players.
      key: the root key; the fakes' z are the same at every evaluation.
      batch: as `ops.pixels.examples_of` reads it, with `index` and `label`.
      networks: the networks.
      loss: one of `LOSSES`.
      centres: [K, 2] of a mixture whose modes are to be looked for among the fakes, or None.
      radius: of a mode.

    Returns:
      `real_logit`, `fake_logit`, `discriminator_loss` and `generator_loss`, each [B]; for cross-entropies `value`, the
      game's, and but for the Wasserstein game `accuracy`, with ½ for each example that is on its side; with `centres`
      `in_mode` [B, K], 1 for the fake's nearest centre where that is within the radius.
    """
    label = batch["label"] if networks.conditional else None
    fake, _ = make_fakes(params, model_state, key, batch, networks=networks, train=False)
    discriminator = networks.discriminator, params["discriminator"], model_state["discriminator"]
    real_logit, _ = apply_network(*discriminator, pixels.examples_of(batch), label)
    fake_logit, _ = apply_network(*discriminator, fake, label)
    discriminator_loss, generator_loss = LOSSES[loss]
    values = {
        "real_logit": real_logit,
        "fake_logit": fake_logit,
        "discriminator_loss": discriminator_loss(real_logit, fake_logit),
        "generator_loss": generator_loss(fake_logit),
    }
    if loss in CROSS_ENTROPIES:
        values["value"] = -values["discriminator_loss"]  # V(D, G), Eq. 1 of Goodfellow et al., 2014.
    if loss != "wasserstein":
        middle = 0.5 if loss == "least_squares" else 0.0
        values["accuracy"] = 0.5 * (real_logit > middle) + 0.5 * (fake_logit < middle)
    return values if centres is None else values | {"in_mode": in_mode(fake, centres, radius)}


def in_mode(points: Array, centres: np.ndarray, radius: float) -> Array:
    """Which mode of a mixture each point reaches.

    Args:
      points: [B, 2].
      centres: [K, 2].
      radius: of a mode.

    Returns:
      [B, K], 1 for the nearest centre where it is within the radius, 0 otherwise.
    """
    distances = jnp.linalg.norm(points[:, None] - jnp.asarray(centres, points.dtype)[None], axis=-1)
    nearest = jnp.argmin(distances, axis=1, keepdims=True) == jnp.arange(len(centres))[None]
    return (nearest & (distances <= radius)).astype(jnp.float32)


def report(means: dict[str, np.ndarray], *, num_examples: int = 0, min_count: int = 20) -> dict[str, float]:
    """The numbers that people read, from the means over the test set.

    Args:
      means: of the values that `game_values` gives.
      num_examples: how many examples they are the means of, where there are modes.
      min_count: how many fakes within the radius of a mode make it covered.

    Returns:
      The scalar means as they are; of the modes that the players' fakes reach `fake_modes_covered`, and
      `fake_high_quality`, the share of fakes within the radius. Samples of averaged parameters may reach others.
    """
    numbers = {name: float(value) for name, value in means.items() if np.ndim(value) == 0}
    if "in_mode" in means:
        counts = np.round(means["in_mode"] * num_examples)
        numbers["fake_modes_covered"] = float(np.count_nonzero(counts >= min_count))
        numbers["fake_high_quality"] = float(np.sum(means["in_mode"]))
    return numbers
