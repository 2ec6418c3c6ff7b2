"""How well held-out views are rendered."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Batch, Key, Params, Values
from gen_jax.families.nerf.objectives import NeRF, background_color, target_color
from gen_jax.families.nerf.views import render_pixels
from gen_jax.ops.cameras import Camera
from gen_jax.ops.image_quality import psnr


def view_values(params: Params, key: Key, batch: Batch, *, nerf: NeRF) -> Values:
    """How well held-out views are rendered, without noise.

    Args:
      params: of `objectives.init_params`.
      key: the root key; unused.
      batch: of views with R pixels each: `color` [B, R, 3 or 4] uint8, `pixel` [B, R, 2], `pose` [B, 3, 4],
        `focal` [B, 2], `center` [B, 2] and `distortion` [B, 4], as `contracts.Batch` says.
      nerf: the model.

    Returns:
      For each view [B] `mse`, the mean squared error of the pixels of the batch, its `psnr`, and that of the coarse
      field, `psnr_coarse`.
    """
    background = background_color(None, nerf=nerf)

    def view(row: tuple[Camera, Array, Array, Array]) -> dict[str, Array]:
        camera, pose, pixels, colors = row
        targets = jax.vmap(lambda color: target_color(color, background))(colors)
        seen = render_pixels(params, camera, pose, pixels, nerf=nerf)
        fine, coarse = (jnp.mean((color - targets) ** 2) for color in (seen.color, seen.coarse_color))
        return {"mse": fine, "psnr": psnr(fine), "psnr_coarse": psnr(coarse)}

    cameras = Camera(batch["focal"], batch["center"], batch["distortion"])
    return jax.lax.map(view, (cameras, batch["pose"], batch["pixel"], batch["color"]))


def report(means: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The numbers that people read.

    Args:
      means: over the test views, of `view_values`.

    Returns:
      `psnr` and `psnr_coarse`, the means of the views' PSNRs in decibels, as papers have it, and `mse`.
    """
    return {name: float(value) for name, value in means.items()}
