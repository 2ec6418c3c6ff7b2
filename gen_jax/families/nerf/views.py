"""Whole views of a radiance field, in memory that does not grow with them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Params
from gen_jax.families.nerf.objectives import NeRF, background_color, see
from gen_jax.ops.cameras import Camera, ndc_depth, pixel_centers, ray

# Bytes of activations that are at hand at once on a CPU, and the share of an accelerator's memory for them.
_BUDGET, _SHARE = 2**28, 1 / 8
# So many arrays of a layer's width are alive at once, of all samples of a ray.
_ALIVE = 4


class View(NamedTuple):
    """What a camera sees.

    Attributes:
      color: [..., 3], in [0, 1].
      depth: [...] along the optical axis, in the world's units, where half of what is seen is before it.
      opacity: [...], in [0, 1]: what is not background.
      coarse_color: [..., 3], in [0, 1], of the coarse field; `color` itself where there is no other.
    """

    color: Array
    depth: Array
    opacity: Array
    coarse_color: Array


def rays_at_once(nerf: NeRF) -> int:
    """How many rays are rendered at once: as many as the memory for their activations allows, a power of two.

    On a CPU that is a few hundred megabytes, and on an accelerator an eighth of what it has.

    Args:
      nerf: the model.

    Returns:
      From 16 to 65536. With the defaults of the paper on a CPU 256.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    budget = max(_BUDGET, _SHARE * (stats or {}).get("bytes_limit", 0))
    samples = nerf.sampling.num_coarse + nerf.sampling.num_fine
    of_one = 4 * _ALIVE * samples * (nerf.field.width + 1)
    return int(2 ** np.clip(np.floor(np.log2(budget / of_one)), 4, 16))


def render_pixels(params: Params, camera: Camera, pose: Array, pixels: Array, *, nerf: NeRF) -> View:
    """What some pixels of a camera see, without noise, `rays_at_once` of them at a time.

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Sections 4 and 5.2.

    Args:
      params: of `objectives.init_params`.
      camera: the intrinsics.
      pose: [3, 4] camera to world, OpenGL's axes.
      pixels: [R, 2].
      nerf: the model.

    Returns:
      The view, [R, ...], of the fine field where there is one.
    """
    background = background_color(None, nerf=nerf)

    def one(pixel: Array) -> View:
        coarse, fine = see(params, None, camera, pose, pixel, background, nerf=nerf)
        seen = coarse if fine is None else fine
        depth = seen.median_depth
        if nerf.size is not None:
            depth = ndc_depth(jnp.minimum(depth, 1.0 - 1e-6), *ray(camera, pose, pixel))
        color, first = (jnp.clip(level.color, 0.0, 1.0) for level in (seen, coarse))
        return View(color, depth, seen.opacity, first)

    return jax.lax.map(one, pixels, batch_size=min(rays_at_once(nerf), len(pixels)))


def render_view(params: Params, camera: Camera, pose: Array, height: int, width: int, *, nerf: NeRF) -> View:
    """A whole photograph: `render_pixels` of the centres of its pixels.

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Sections 4 and 5.2.

    Args:
      params: of `objectives.init_params`.
      camera: the intrinsics.
      pose: [3, 4] camera to world, OpenGL's axes.
      height: H.
      width: W.
      nerf: the model.

    Returns:
      The view, [H, W, ...].
    """
    pixels = jnp.asarray(pixel_centers(height, width).reshape(-1, 2))
    view = render_pixels(params, camera, pose, pixels, nerf=nerf)
    return View(*(part.reshape(height, width, *part.shape[1:]) for part in view))
