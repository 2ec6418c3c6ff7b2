"""Weights of DDPM's U-Net as its public PyTorch port names them, and as ours does.

Names: `temb.dense.0`, `conv_in`, `down.1.block.0.conv1`, `down.1.attn.0.q`, `down.1.downsample.conv`, `mid.block_1`,
`mid.attn_1`, `up.1.block.2.nin_shortcut`, `up.1.upsample.conv`, `norm_out`, `conv_out` and so on, with level 0 at the
image on both ways. The port is of "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Params, UserError
from gen_jax.families.diffusion.unet import UNet
from gen_jax.nn.torch_names import without_prefix

_OUTER = {
    "time1": "temb.dense.0",
    "time2": "temb.dense.1",
    "in": "conv_in",
    "middle0": "mid.block_1",
    "middle_attention": "mid.attn_1",
    "middle1": "mid.block_2",
    "norm": "norm_out",
    "out": "conv_out",
}
_RESAMPLING = {"down": "downsample", "up": "upsample"}
_INNER = {"time": "temb_proj", "shortcut": "nin_shortcut", "out": "proj_out"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_AS_CONVOLUTIONS = ("nin_shortcut", "q", "k", "v", "proj_out")  # With windows of 1 × 1; ours are matrices.


def unet_of(state: Mapping[str, np.ndarray], height: int, num_groups: int | None = 32) -> UNet:
    """The U-Net that a state dict is of.

    Args:
      state: arrays by their names in PyTorch.
      height: of the images, which the state does not say.
      num_groups: of group normalisation, which it does not say either; the port has 32 whatever the channels.

    Returns:
      The network, with the dropout of our default.

    Raises:
      UserError: where a name is missing without which no network is known, or a level has channels that no network has.
    """
    state = without_prefix(state)
    for name in ("conv_in.weight", "conv_out.weight", "down.0.block.0.conv1.weight"):
        if name not in state:
            raise UserError(f"The weights have no '{name}', which every U-Net of DDPM has; give a state dict of one.")
    channels, widths = len(state["conv_in.weight"]), _widths(state)
    if any(width % channels for width in widths):
        raise UserError(
            f"The weights' levels have {', '.join(map(str, widths))} channels, which are no multiples of the "
            f"{channels} of 'conv_in.weight'; give a state dict of DDPM's U-Net."
        )
    return UNet(
        out_channels=len(state["conv_out.weight"]),
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_blocks=sum(re.fullmatch(r"down\.0\.block\.\d+\.conv1\.weight", name) is not None for name in state),
        attention_at=tuple(height // 2**i for i in range(len(widths)) if f"down.{i}.attn.0.q.weight" in state),
        num_groups=num_groups,
    )


def unet_params(state: Mapping[str, np.ndarray]) -> Params:
    """The parameters of `unet.UNet` from those of the port.

    Levels, blocks and attention are read off the names. The number of groups of group normalisation is not in there:
    the port has 32 everywhere, and so has the network of `unet_of`.

    Args:
      state: arrays by their names in PyTorch; a common prefix "module." is left out.

    Returns:
      The parameters in float32.

    Raises:
      UserError: where a name is missing, unknown, or has an array of the wrong shape.
    """
    state = without_prefix(state)
    shapes, structure = jax.tree_util.tree_flatten_with_path(_shapes(state))
    expected = {_torch_name(_names(path)): leaf.shape for path, leaf in shapes}
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing:
        raise UserError(f"The weights have no '{missing[0]}', which their U-Net needs; give a complete state dict.")
    if unknown:
        raise UserError(
            f"The weights have '{unknown[0]}', which their U-Net does not know; give those of DDPM's U-Net."
        )
    leaves = []
    for name, shape in expected.items():
        array, wanted = np.asarray(state[name], np.float32), _torch_shape(name, shape)
        if array.shape != wanted:
            raise UserError(
                f"The weights '{name}' have the shape {array.shape}, and {wanted} is expected of this U-Net."
            )
        leaves.append(jnp.asarray(np.moveaxis(array, (0, 1), (-1, -2)).reshape(shape) if len(wanted) > 1 else array))
    return jax.tree.unflatten(structure, leaves)


def _torch_name(path: tuple[str, ...]) -> str:
    """The port's name of one of our parameters: of ("down1_0", "conv1", "kernel") "down.1.block.0.conv1.weight"."""
    module, *inner, leaf = path
    place = re.fullmatch(r"(down|up)(\d+)(?:_(\d+)(_attention)?)?", module)
    if place is None:
        outer = _OUTER[module]
    elif place[3] is None:
        outer = f"{place[1]}.{place[2]}.{_RESAMPLING[place[1]]}.conv"
    else:
        outer = f"{place[1]}.{place[2]}.{'attn' if place[4] else 'block'}.{place[3]}"
    return ".".join([outer, *(_INNER.get(name, name) for name in inner), _LEAVES[leaf]])


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the port's array has, where ours has `shape`."""
    if len(shape) == 1:
        return shape
    windows = (1, 1) if name.split(".")[-2] in _AS_CONVOLUTIONS else shape[:-2]
    return (shape[-1], shape[-2], *windows)


def _widths(state: Mapping[str, np.ndarray]) -> list[int]:
    """The channels of each level."""
    widths: list[int] = []
    while f"down.{len(widths)}.block.0.conv1.weight" in state:
        widths.append(len(state[f"down.{len(widths)}.block.0.conv1.weight"]))
    return widths


def _shapes(state: Mapping[str, np.ndarray]) -> Params:
    """Our parameters' shapes in the network that a state dict is of; they do not depend on the images' size."""
    height = 2 ** len(_widths(state))
    model = unet_of(state, height, num_groups=1)  # The shapes are those of any number.
    colours = (*np.shape(state["conv_in.weight"]), 1, 1)[1]  # A wrong shape is refused by the caller.
    x = jnp.zeros((1, height, height, colours))
    return jax.eval_shape(model.init, jax.random.key(0), x, jnp.zeros(1))["params"]


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a path of dictionaries."""
    return tuple(entry.key for entry in path)
