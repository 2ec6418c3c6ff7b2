"""LPIPS, the distance of images by the features of AlexNet or VGG-16, with weights from a local file.

The file is an .npz of the state dict of the PyTorch package lpips, made by
  numpy.savez("lpips_alex.npz", **{k: v.numpy() for k, v in lpips.LPIPS(net="alex").state_dict().items()})
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, UserError
from gen_jax.files import BROKEN_NPZ, absolute

# Of the images that the networks were trained on, in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_STAGES = 5
LEAST_SIDE = 32  # Of an image in pixels, which the networks halve so often.


class Weights(NamedTuple):
    """The network and the weights of its channels.

    Attributes:
      stages: for each stage its convolutions, a kernel [h, w, C, C'] and a bias [C'] each.
      channels: for each stage the weights [C'] of its channels, ≥ 0.
    """

    stages: tuple[tuple[tuple[Array, Array], ...], ...]
    channels: tuple[Array, ...]


def load(path: str | os.PathLike[str]) -> Weights:
    """Reads weights.

    Args:
      path: an .npz as the module's docstring makes it, of net="alex" or "vgg".

    Returns:
      The weights.

    Raises:
      UserError: where the file cannot be read or is of something else.
    """
    file = absolute(path)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return weights_of(dict(arrays), str(file))
    except BROKEN_NPZ as error:
        raise UserError(
            f"{file} cannot be read as weights of LPIPS ({error}); make it as gen_jax.eval.lpips says."
        ) from error


def weights_of(state: Mapping[str, np.ndarray], where: str = "The state dict") -> Weights:
    """Weights from a state dict.

    Args:
      state: arrays by their names in the package lpips.
      where: it is from, for messages.

    Returns:
      The weights.

    Raises:
      UserError: where a stage is missing.
    """
    stages, channels = [], []
    for stage in range(1, _STAGES + 1):
        pattern = re.compile(rf"net\.slice{stage}\.(\d+)\.weight")
        layers = sorted(int(match[1]) for match in map(pattern.fullmatch, state) if match)
        if not layers or f"lin{stage - 1}.model.1.weight" not in state:
            raise UserError(f"{where} has no stage {stage} of LPIPS; expected the state dict of lpips.LPIPS.")
        stages.append(
            tuple(
                (
                    jnp.asarray(state[f"net.slice{stage}.{layer}.weight"].transpose(2, 3, 1, 0)),
                    jnp.asarray(state[f"net.slice{stage}.{layer}.bias"]),
                )
                for layer in layers
            )
        )
        channels.append(jnp.asarray(state[f"lin{stage - 1}.model.1.weight"].reshape(-1)))
    return Weights(tuple(stages), tuple(channels))


def features(weights: Weights, image: Array) -> list[Array]:
    """The activations of every stage.

    Args:
      weights: of `load`.
      image: [H, W, 3] in [0, 1].

    Returns:
      [H', W', C'] each.
    """
    x = ((2.0 * image - 1.0) - jnp.array(_SHIFT)[None, None]) / jnp.array(_SCALE)[None, None]
    is_alex = weights.stages[0][0][0].shape[0] == 11
    window, pooled = (3, (1, 2)) if is_alex else (2, (1, 2, 3, 4))
    found = []
    for stage, layers in enumerate(weights.stages):
        if stage in pooled:
            x = nn.max_pool(x[None], (window, window), (2, 2))[0]
        for kernel, bias in layers:
            size = kernel.shape[0]
            stride, padding = (4, 2) if size == 11 else (1, size // 2)
            y = jax.lax.conv_general_dilated(
                x[None], kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )[0]
            x = nn.relu(y + bias[None, None])
        found.append(x)
    return found


def lpips(weights: Weights, image: Array, truth: Array) -> Array:
    """The perceptual distance of two images: Σ_l mean over places of Σ_c w_lc (ŷ_lc − ŷ'_lc)², ŷ of length 1.

    See "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", Zhang et al., 2018 (arXiv:1801.03924),
    Eq. 1, whose w is squared with the difference; the weights of its code, which are read here, are not.

    Args:
      weights: of `load`.
      image: [H, W, 3] in [0, 1]; the network shrinks it, so each side has 32 pixels or more.
      truth: [H, W, 3] in [0, 1].

    Returns:
      [] at least 0, which equal images have.
    """

    def unit(x: Array) -> Array:
        return x / (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) + 1e-10)

    pairs = zip(features(weights, image), features(weights, truth), weights.channels, strict=True)
    return sum((jnp.mean((unit(a) - unit(b)) ** 2 @ channel) for a, b, channel in pairs), jnp.zeros(()))
