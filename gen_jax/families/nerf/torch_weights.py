"""Weights of a radiance field as PyTorch ports of NeRF name them, and as ours does.

Names: `pts_linears.0` …, `views_linears.0`, `feature_linear`, `alpha_linear`, `rgb_linear`, each with a `weight` [out,
in] and a `bias`; or `layer1`, `layers_xyz.0` …, `layers_dir.0`, `fc_feat`, `fc_alpha`, `fc_rgb`, of a field whose first
layer has no ReLU and whose feature vector has one. The ports are of "NeRF: Representing Scenes as Neural Radiance
Fields for View Synthesis", Mildenhall et al., 2020 (arXiv:2003.08934).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from gen_jax.contracts import Params, UserError
from gen_jax.families.nerf.models import RadianceField
from gen_jax.nn.torch_names import without_prefix

_NAMES = {"density": "alpha_linear", "feature": "feature_linear", "view": "views_linears.0", "color": "rgb_linear"}

# The other names, as those of the table above.
_OTHER = {"fc_alpha": "alpha_linear", "fc_feat": "feature_linear", "fc_rgb": "rgb_linear", "layer1": "pts_linears.0"}
_OTHER |= {"layers_dir.0": "views_linears.0"}


def field_of(state: Mapping[str, np.ndarray]) -> RadianceField:
    """The field that a state dict is of; depth, widths, the skip and the encodings' frequencies are read off it.

    Args:
      state: arrays by their names in PyTorch; a common prefix "module." is left out.

    Returns:
      The field.

    Raises:
      UserError: where a name is missing, or an input has a size that no encoding with the input itself has.
    """
    is_other = "layer1.weight" in without_prefix(state)
    state = _common(state)
    depth = sum(re.fullmatch(r"pts_linears\.\d+\.weight", name) is not None for name in state)
    for name in ("pts_linears.0", *(f"pts_linears.{i}" for i in range(depth)), *_NAMES.values()):
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" not in state:
                raise UserError(
                    f"The weights have no '{name}.{kind}', which every NeRF that sees directions has; give the state "
                    "dict of one network, not a whole checkpoint."
                )
    width, place = state["pts_linears.0.weight"].shape
    color_width, seen = state["views_linears.0.weight"].shape
    skips = [i - 1 for i in range(1, depth) if state[f"pts_linears.{i}.weight"].shape[1] == width + place]
    if state["alpha_linear.weight"].shape[1] == width + place:
        skips.append(depth - 1)
    if len(skips) > 1:
        raise UserError(f"The weights see the place again after layers {skips}; a field of ours has one such layer.")
    return RadianceField(
        depth=depth,
        width=width,
        skip=skips[0] if skips else None,
        color_width=color_width,
        position_frequencies=_frequencies(place),
        direction_frequencies=_frequencies(seen - width),
        first_relu=not is_other,
        feature_relu=is_other,
    )


def field_params(state: Mapping[str, np.ndarray]) -> Params:
    """The parameters of `models.RadianceField` from those of a port.

    Args:
      state: as in `field_of`.

    Returns:
      The parameters.

    Raises:
      UserError: as `field_of`.
    """
    field, state = field_of(state), _common(state)
    names = {f"place{i}": f"pts_linears.{i}" for i in range(field.depth)} | _NAMES
    return {
        ours: {"kernel": np.asarray(state[f"{name}.weight"]).T, "bias": np.asarray(state[f"{name}.bias"])}
        for ours, name in names.items()
    }


def _frequencies(size: int) -> int:
    """L of an encoding of so many numbers, 3 (2 L + 1)."""
    if size < 3 or (size - 3) % 6:
        raise UserError(
            f"The weights see {size} numbers of a place or direction, and an encoding of L frequencies with the input "
            "has 3 (2 L + 1); other encodings cannot be read."
        )
    return (size - 3) // 6


def _common(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state by the first of the two sorts of names."""
    state = without_prefix(state)
    if "layer1.weight" not in state:
        return state
    found = {}
    for name, array in state.items():
        layer, kind = name.rsplit(".", 1)
        number = re.fullmatch(r"layers_xyz\.(\d+)", layer)
        found[f"{f'pts_linears.{int(number[1]) + 1}' if number else _OTHER.get(layer, layer)}.{kind}"] = array
    return found
