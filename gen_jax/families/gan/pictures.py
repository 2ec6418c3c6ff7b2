"""The pictures of a game: samples, walks and classes of images; points over their density and the discriminator."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Field, Film, Grid, Key, ModelState, Params, Picture
from gen_jax.families.gan import sampling
from gen_jax.families.gan.models import apply_network
from gen_jax.families.gan.objectives import Networks
from gen_jax.ops.distributions import mixture_log_density

# Compiled once for all frames of a run.
_sample = jax.jit(sampling.sample, static_argnames="networks")
_log_density = jax.jit(jax.vmap(mixture_log_density, in_axes=(0, None, None)), static_argnums=2)
_interpolate = jax.jit(sampling.interpolate, static_argnames=("num_points", "networks"))


def image_pictures(
    params: Params, model_state: ModelState, key: Key, train_images: np.ndarray, *, networks: Networks
) -> dict[str, Picture]:
    """Draws what a person wants to see of a generator of images.

    Args:
      params: of both players.
      model_state: of both players, settled.
      key: the root key.
      train_images: [N, H, W, C] in [0, 1], among which each sample's nearest is looked for.
      networks: the networks.

    Returns:
      `samples`, `interpolation`, `neighbours` (samples above the training images nearest to them, by which one sees
      whether the generator has merely kept some), `walk`, and for a conditional generator `classes`.
    """
    images = np.asarray(_samples(params, model_state, key, 100, networks))
    walks = np.asarray(_interpolate(params, model_state, rng.numbered(key, "walks", 11), 10, networks=networks))
    rows = np.stack([images[:20], train_images[_nearest(images[:20], train_images)]])  # [2, 20, H, W, C]
    found: dict[str, Picture] = {
        "samples": Grid("Samples", images.reshape(10, 10, *images.shape[1:])),
        "interpolation": Grid("Between two z in each row", walks),
        "neighbours": Grid(
            "Samples, and the training image nearest to each",
            np.concatenate([rows[:, :10], rows[:, 10:]]),
            ("sample", "nearest") * 2,
        ),
        "walk": _walk(params, model_state, key, networks),
    }
    if networks.conditional:
        keys = rng.numbered(key, "classes", 10)
        of_classes = jax.jit(sampling.sample_classes, static_argnames="networks")
        classes = of_classes(params, model_state, keys, networks=networks)
        labels = tuple(str(c) for c in range(len(classes)))
        found["classes"] = Grid("A class in each row, the same z in each column", np.asarray(classes), labels)
    return found


def image_frame(params: Params, model_state: ModelState, key: Key, *, networks: Networks) -> Grid:
    """The samples of the same 64 z, to be seen change over training.

    Args:
      params: of both players.
      model_state: of both players, settled.
      key: the root key.
      networks: the networks.

    Returns:
      A grid.
    """
    images = np.asarray(_samples(params, model_state, key, 64, networks))
    return Grid("Samples of the same z", images.reshape(8, 8, *images.shape[1:]))


def point_field(
    params: Params,
    model_state: ModelState,
    key: Key,
    d_params: Params,
    *,
    networks: Networks,
    centres: np.ndarray,
    std: float,
    probability: bool,
) -> Field:
    """Samples in the plane over the density of the data, with what the discriminator says behind them.

    Args:
      params: of both players; samples are the generator's.
      model_state: of both players, settled.
      key: the root key.
      d_params: the discriminator's parameters as it plays: an average of them has no opponent.
      networks: the networks.
      centres: [K, 2] of the data's mixture.
      std: of each of its modes.
      probability: whether the discriminator's logit stands for the probability D = σ(logit), which is then drawn.

    Returns:
      The picture of 1000 samples.
    """
    reach = 1.35 * np.abs(centres).max() + 4 * std
    axis = np.linspace(-reach, reach, 150)
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    # A mode narrower than the grid would vanish between its points.
    shown_std = max(std, 0.75 * (axis[1] - axis[0]))
    log_density = _log_density(x, centres, shown_std)
    judged = _judge(d_params, model_state["discriminator"], x, networks=networks, probability=probability)
    values = np.asarray(judged).reshape(150, 150)
    # A critic is known up to a constant; its range is its own.
    largest = max(float(np.abs(values).max()), 1e-6)
    return Field(
        "Samples over the data's density",
        values,
        (-reach, reach, -reach, reach),
        np.asarray(_samples(params, model_state, key, 1000, networks)),
        density=np.exp(np.asarray(log_density)).reshape(150, 150),
        value_name="D(x), the probability of real" if probability else "D(x), centred",
        value_range=(0.0, 1.0) if probability else (-largest, largest),
    )


@functools.partial(jax.jit, static_argnames=("networks", "probability"))
def _judge(d_params: Params, d_state: ModelState, x: Array, *, networks: Networks, probability: bool) -> Array:
    """[N] what the discriminator says of points [N, 2]: the probability, or the logit less its mean."""
    logit, _ = apply_network(networks.discriminator, d_params, d_state, x)
    return jax.nn.sigmoid(logit) if probability else logit - jnp.mean(logit)


def _samples(params: Params, model_state: ModelState, key: Key, count: int, networks: Networks) -> Array:
    return _sample(params, model_state, rng.numbered(key, "pictures", count), networks=networks)


def _walk(params: Params, model_state: ModelState, key: Key, networks: Networks) -> Film:
    """Sixteen samples that each walk through four z and back to the first."""
    closed = [rng.per_example(rng.stream(key, f"walk_{i}"), jnp.array([0, 1, 2, 3, 0])) for i in range(16)]
    images = np.stack([np.asarray(_interpolate(params, model_state, k, 13, networks=networks)) for k in closed])
    images = images[:, :, :-1]  # [16, 4, 12, H, W, C]: where one walk ends the next begins.
    frames = images.reshape(4, 4, 48, *images.shape[3:])
    title = "Each a walk through four z"
    return Film(title, tuple(Grid(title, frames[:, :, i]) for i in range(48)), 12)


def _nearest(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n] which of the others [N, ...] is nearest to each image [n, ...]."""
    flat, other = images.reshape(len(images), -1), others.reshape(len(others), -1)
    return np.argmin((other**2).sum(axis=1) - 2.0 * flat @ other.T, axis=1)
