"""What a classifier looks for: images that a class's score is great for."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Key, Params
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.nn.small_classifier import SmallClassifier


def random_class_images(params: Params, keys: Key, *, model: SmallClassifier, image_shape: tuple[int, ...]) -> Array:
    """`class_images` of a class that each key draws.

    Args:
      params: of the model.
      keys: [n].
      model: the classifier.
      image_shape: (H, W, C).

    Returns:
      [n, H, W, C] in [0, 1]; image i depends on key i alone.
    """
    labels = jax.vmap(lambda key: jax.random.randint(rng.stream(key, "class"), (), 0, model.num_classes))(keys)
    return class_images(params, keys, labels, model=model, image_shape=image_shape)


def class_images(
    params: Params,
    keys: Key,
    labels: Array,
    *,
    model: SmallClassifier,
    image_shape: tuple[int, ...],
    weight: float = 0.003,
    num_steps: int = 30,
    step_size: float = 0.05,
) -> Array:
    """Images that are climbed to from noise, along the gradient of a class's score: argmax_x S_c(x) − λ‖x‖².

    x ← clip(x + η √D g/‖g‖, 0, 1),  g = K ∇_x (S_c(x) − λ‖x‖²),  from x = K u/2 with u uniform in [0, 1]^D,
    where K smooths: without it the climb ends in noise that means the class to the classifier alone. The images show
    what the classifier looks for, and are no samples of the data's distribution.

    See "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps", Simonyan et
    al., 2014 (arXiv:1312.6034), Section 2: the score is the logit and not its softmax, which other classes can raise.

    Args:
      params: of the model.
      keys: [n], of the noise.
      labels: [n] c.
      model: the classifier.
      image_shape: (H, W, C).
      weight: λ ≥ 0, per pixel value of D.
      num_steps: how often x moves.
      step_size: η > 0, the root mean square of a move before it is clipped.

    Returns:
      [n, H, W, C] in [0, 1]; image i depends on key i and label i alone.
    """

    def score(x: Array) -> Array:
        _, logits = apply_in_param_dtype(model, params, x, method="classify")
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)
        return jnp.sum(chosen) - weight * jnp.sum(x * x)

    def climb(x: Array, _: None) -> tuple[Array, None]:
        gradient = _smooth(jax.grad(score)(x))  # Of a sum of which each image has its own term.
        size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
        return jnp.clip(x + step_size * gradient / jnp.maximum(size, 1e-12), 0.0, 1.0), None

    noise = jax.vmap(lambda key: jax.random.uniform(rng.stream(key, "noise"), image_shape))(keys)
    x, _ = jax.lax.scan(climb, 0.5 * _smooth(noise), None, num_steps)
    return x


def _smooth(images: Array) -> Array:
    """Images [n, H, W, C] times the binomial weights (1, 4, 6, 4, 1)/16 along both axes, black beyond the edge."""
    for axis in (1, 2):
        size = images.shape[axis]
        padded = jnp.pad(images, [(2, 2) if i == axis else (0, 0) for i in range(4)])
        parts = jnp.stack([jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(5)])
        images = jnp.tensordot(jnp.array([1, 4, 6, 4, 1]) / 16, parts, axes=1)
    return images
