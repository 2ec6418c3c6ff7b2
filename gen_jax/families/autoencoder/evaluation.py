"""What a test set says of an autoencoder: values for each image, and the spectrum of the encoder's Jacobian."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, Params, Values
from gen_jax.families.autoencoder import losses, objectives, sampling
from gen_jax.families.autoencoder.corruption import corrupt
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import pixels


def reconstruction_values(
    params: Params, key: Key, batch: Batch, *, model: nn.Module, k: int | None = None, contraction: bool = False
) -> Values:
    """The errors of the reconstruction of each test image.

    Args:
      params: of the model.
      key: the root key; unused.
      batch: `image` [B, H, W, C] uint8.
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.
      k: how many activations are kept; None for all.
      contraction: whether to measure the encoder's Jacobian, in the closed form of one sigmoid layer.

    Returns:
      `squared_error`, for a sigmoid output `cross_entropy`, and where it is asked for `contraction`, each [B].

    Raises:
      ValueError: where k is larger than the code, or the contraction has no closed form for the model.
    """
    x = pixels.unit_levels(batch["image"])
    z = sampling.encode(params, x, model=model, k=k)
    values = _errors(x, apply_in_param_dtype(model, params, z, method="decode"), model)
    if contraction:
        values["contraction"] = objectives.closed_form_contractions(params, z, model)
    return values


def denoising_values(
    params: Params, key: Key, batch: Batch, *, model: nn.Module, corruption: str, level: float
) -> Values:
    """The errors of each test image when it is reconstructed from its corruption, the same at every evaluation.

    Args:
      params: of the model.
      key: the root key.
      batch: `image` [B, H, W, C] uint8 and `index` [B].
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.
      corruption: as in `corruption.corrupt`.
      level: its σ or ν.

    Returns:
      `squared_error` and for a sigmoid output `cross_entropy`; `corrupted_squared_error`, of x̃ itself; each [B].

    Raises:
      ValueError: where the corruption is another one.
    """
    x = pixels.unit_levels(batch["image"])
    corrupted = corrupted_like_the_test_set(key, x, batch["index"], corruption=corruption, level=level)
    z = sampling.encode(params, corrupted, model=model)
    values = _errors(x, apply_in_param_dtype(model, params, z, method="decode"), model)
    return values | {"corrupted_squared_error": jax.vmap(losses.reconstruction_error)(x, corrupted)}


def corrupted_like_the_test_set(key: Key, x: Array, index: Array, *, corruption: str, level: float) -> Array:
    """The corruption of test images, which is the same at every evaluation of a run.

    Args:
      key: the root key.
      x: [B, H, W, C] in [0, 1].
      index: [B] the number of each image in the set.
      corruption: as in `corruption.corrupt`.
      level: its σ or ν.

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: where the corruption is another one.
    """
    keys = rng.in_evaluation(key, "corruption", index)
    return jax.vmap(lambda k, a: corrupt(k, a, corruption, level))(keys, x)


def beside_plain_values(trained: Callable[..., Values], plain: Callable[..., Values]) -> Callable[..., Values]:
    """The values of a model and of its plain twin.

    Args:
      trained: `(params["model"], key, batch) -> values`.
      plain: `(params["plain"], key, batch) -> values`.

    Returns:
      `(params, key, batch) -> values`, the twin's under names that begin with `plain_`.
    """

    def both(params: Params, key: Key, batch: Batch) -> Values:
        values = plain(params["plain"], key, batch)
        return trained(params["model"], key, batch) | {f"plain_{name}": value for name, value in values.items()}

    return both


def report(means: dict[str, np.ndarray], *, num_dims: int) -> dict[str, float]:
    """The numbers people read: every mean an image, and the error as a signal-to-noise ratio.

    Args:
      means: over the test set.
      num_dims: D, channels counted.

    Returns:
      The means by name, the cross-entropies in nats and named so, and `psnr` = −10 log₁₀(squared_error / D) in dB, of
      the mean error and not the mean of the images' own ratios.
    """
    names = {name: f"{name}_nats" if name.endswith("cross_entropy") else name for name in means}
    numbers = {names[name]: float(mean) for name, mean in means.items()}
    return numbers | {"psnr": float(-10 * np.log10(means["squared_error"] / num_dims))}


def jacobian_spectrum(params: Params, x: np.ndarray, *, model: nn.Module) -> np.ndarray:
    """The singular values of the encoder's Jacobian, in falling order, on average over images.

    See "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction", Rifai et al., 2011 (ICML),
    Sections 5.2 and 5.3, on the singular values.

    Args:
      params: of the model.
      x: [N, H, W, C] in [0, 1].
      model: an `MLPAutoencoder` or a `ConvAutoencoder`.

    Returns:
      [min(d, D)].
    """
    jacobian = jax.jit(jax.jacfwd(lambda image: sampling.encode(params, image[None], model=model)[0]))
    flat = (np.asarray(jacobian(jnp.asarray(image)), np.float64).reshape(-1, image.size) for image in x)
    return np.mean([np.linalg.svd(j, compute_uv=False) for j in flat], axis=0)


def _errors(x: Array, raw: Array, model: nn.Module) -> Values:
    of = functools.partial(objectives.errors_of, x, raw, model.output)
    values = {"squared_error": of("squared_error")}
    return values | {"cross_entropy": of("cross_entropy")} if model.output == "sigmoid" else values
