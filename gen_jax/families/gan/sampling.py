"""From a trained generator to examples: its samples, walks between them, and the batch statistics it needs for both."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Key, ModelState, Params
from gen_jax.families.gan.models import apply_network, has_batch_norm
from gen_jax.families.gan.objectives import Networks, draw_latent
from gen_jax.nn.normalization import MOMENTUM
from gen_jax.ops import pixels


def settle_statistics(
    params: Params, model_state: ModelState, key: Key, *, networks: Networks, num_examples: int = 1000
) -> ModelState:
    """The model state with the generator's batch statistics as they are for given parameters.

    The running averages that training carries belong to parameters of many past steps, and never to a moving average
    of parameters. What the generator is fed is known, so here its statistics are computed: those of one large batch.

    Args:
      params: of both players, averaged or not.
      model_state: of both players.
      key: the root key; the same z always.
      networks: the networks.
      num_examples: how many z the statistics are of.

    Returns:
      The model state; unchanged where the generator has no batch normalisation.
    """
    if not has_batch_norm(networks.generator):
        return model_state
    keys = rng.numbered(key, "settle", num_examples)
    z, label = _latents_and_labels(keys, networks)
    # From running averages of 0 an update leaves 1 − m of the batch's own.
    zeros = jax.tree.map(jnp.zeros_like, model_state["generator"])
    _, new = apply_network(networks.generator, params["generator"], zeros, z, label, train=True)
    return model_state | {"generator": jax.tree.map(lambda a: a / (1.0 - MOMENTUM), new)}


def generate(
    params: Params, model_state: ModelState, z: Array, label: Array | None = None, *, networks: Networks
) -> Array:
    """What the generator makes of given z, each by itself.

    Args:
      params: of both players.
      model_state: of both players, settled.
      z: [B, d].
      label: [B] classes, for a conditional generator.
      networks: the networks.

    Returns:
      [B, 2] points as they are, or [B, H, W, C] images in [0, 1].
    """
    x, _ = apply_network(networks.generator, params["generator"], model_state["generator"], z, label)
    return x if x.ndim == 2 else pixels.to_unit(x)


def sample(params: Params, model_state: ModelState, keys: Key, *, networks: Networks) -> Array:
    """Draws samples, number i from key i alone; a conditional generator makes every class alike often.

    Args:
      params: of both players.
      model_state: of both players, settled.
      keys: [n].
      networks: the networks.

    Returns:
      [n, 2], or [n, H, W, C] in [0, 1].
    """
    return generate(params, model_state, *_latents_and_labels(keys, networks), networks=networks)


def sample_classes(params: Params, model_state: ModelState, keys: Key, *, networks: Networks) -> Array:
    """The same z as every class.

    Args:
      params: of both players.
      model_state: of both players, settled.
      keys: [n].
      networks: the networks, conditional.

    Returns:
      [num_classes, n, H, W, C] in [0, 1].
    """
    num_classes = networks.generator.num_classes
    z, _ = _latents_and_labels(keys, networks)
    labels = jnp.repeat(jnp.arange(num_classes), len(z))
    images = generate(params, model_state, jnp.tile(z, (num_classes, 1)), labels, networks=networks)
    return images.reshape(num_classes, len(z), *images.shape[1:])


def interpolate(params: Params, model_state: ModelState, keys: Key, num_points: int, *, networks: Networks) -> Array:
    """Walks between pairs of z, in one class where there are classes.

    Uniform z in a straight line, normal z along the great circle: a straight line between them would go through
    lengths that no z has.

    slerp(z₁, z₂; w) = (sin((1 − w) Ω) z₁ + sin(w Ω) z₂) / sin Ω,  cos Ω = z₁·z₂ / ‖z₁‖‖z₂‖

    See "Sampling Generative Networks", White, 2016 (arXiv:1609.04468), Section 2.1.

    Args:
      params: of both players.
      model_state: of both players, settled.
      keys: [n + 1]; walk i leads from z_i to z_{i+1}.
      num_points: m ≥ 2, examples on each walk, both ends counted.
      networks: the networks.

    Returns:
      [n, m, ...] as `generate` makes them.
    """
    z, label = _latents_and_labels(keys, networks)
    weights = jnp.linspace(0.0, 1.0, num_points)
    path = _straight if networks.latent == "uniform" else _great_circle
    walks = jax.vmap(lambda start, end: jax.vmap(lambda w: path(start, end, w))(weights))(z[:-1], z[1:])  # [n, m, d]
    labels = None if label is None else jnp.repeat(label[:-1], num_points)
    x = generate(params, model_state, walks.reshape(-1, z.shape[-1]), labels, networks=networks)
    return x.reshape(*walks.shape[:2], *x.shape[1:])


def _straight(start: Array, end: Array, weight: Array) -> Array:
    return (1.0 - weight) * start + weight * end


def _great_circle(start: Array, end: Array, weight: Array) -> Array:
    cosine = jnp.vdot(start, end) / (jnp.linalg.norm(start) * jnp.linalg.norm(end))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    sine = jnp.sin(angle)
    near = jnp.abs(sine) < 1e-4  # Parallel, as far as float32 can tell.
    safe = jnp.where(near, 1.0, sine)
    arc = (jnp.sin((1.0 - weight) * angle) * start + jnp.sin(weight * angle) * end) / safe
    return jnp.where(near, _straight(start, end, weight), arc)


def _latents_and_labels(keys: Key, networks: Networks) -> tuple[Array, Array | None]:
    """Z [n, d] and, for a conditional generator, classes [n], each from its key."""

    def draw(key: Key) -> tuple[Array, Array]:
        z = draw_latent(rng.stream(key, "latent"), networks)
        return z, jax.random.randint(rng.stream(key, "class"), (), 0, max(networks.generator.num_classes, 1))

    z, label = jax.vmap(draw)(keys)
    return z, label if networks.conditional else None
