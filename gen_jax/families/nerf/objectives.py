"""A radiance field, its cameras and its loss together, for a train step and for a set of held-out views."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Terms
from gen_jax.families.nerf.losses import photometric
from gen_jax.families.nerf.models import RadianceField, ask_field
from gen_jax.families.nerf.rendering import Field, RaySampling, render_ray
from gen_jax.ops import pixels
from gen_jax.ops.cameras import Camera, ndc_ray, ray
from gen_jax.ops.volume_rendering import Rendered

BACKGROUNDS = ("white", "black", "random")


class NeRF(NamedTuple):
    """What a scene is rendered with, apart from parameters.

    Attributes:
      field: the network, of which there are two sets of parameters, `coarse` and `fine`.
      sampling: where along rays it is asked.
      background: what transparent pixels and rays that end nowhere show, one of `BACKGROUNDS`; "random" is another
        colour for every ray in training, and white else.
      size: (W, H) where rays are turned into normalised device coordinates, for forward-facing scenes; None for none.
    """

    field: RadianceField
    sampling: RaySampling
    background: str = "white"
    size: tuple[int, int] | None = None


def init_params(key: Key, *, nerf: NeRF) -> Params:
    """The parameters of both fields.

    Args:
      key: of the draw.
      nerf: the model.

    Returns:
      `coarse` and, where there are fine samples, `fine`.
    """
    levels = ("coarse", "fine") if nerf.sampling.num_fine else ("coarse",)
    zeros = jnp.zeros((1, 3))
    return {level: nerf.field.init(rng.stream(key, level), zeros, zeros)["params"] for level in levels}


def background_color(key: Key | None, *, nerf: NeRF) -> Array:
    """The colour behind a ray.

    Args:
      key: of this ray's noise; None in evaluation.
      nerf: the model.

    Returns:
      [3].
    """
    if nerf.background == "random" and key is not None:
        return jax.random.uniform(rng.stream(key, "background"), (3,))
    return jnp.zeros(3) if nerf.background == "black" else jnp.ones(3)


def see(
    params: Params, key: Key | None, camera: Camera, pose: Array, pixel: Array, background: Array, *, nerf: NeRF
) -> tuple[Rendered, Rendered | None]:
    """What one pixel of a camera sees.

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Sections 4 and 5.2, and Appendix C where there is a size.

    Args:
      params: of `init_params`.
      key: of this ray's noise; None for none.
      camera: the intrinsics.
      pose: [3, 4] camera to world, OpenGL's axes.
      pixel: [2].
      background: [3].
      nerf: the model.

    Returns:
      What is seen of the coarse and of the fine field, None where there is none.
    """

    def field(level: str) -> Field | None:
        if level not in params:
            return None
        return functools.partial(ask_field, params[level], field=nerf.field)

    origin, direction = ray(camera, pose, pixel)
    view = direction
    if nerf.size is not None:
        origin, direction = ndc_ray(origin, direction, camera.focal, jnp.array(nerf.size, direction.dtype))
    coarse = field("coarse")
    assert coarse is not None
    return render_ray(
        key,
        origin,
        direction,
        coarse=coarse,
        fine=field("fine"),
        sampling=nerf.sampling,
        background=background,
        view=view,
    )


def target_color(color: Array, background: Array) -> Array:
    """A pixel as it looks before a background: α c + (1 − α) b where it has (straight) alpha.

    See "Compositing Digital Images", Porter and Duff, 1984 (Computer Graphics 18), pages 253 to 259.

    Args:
      color: [3 or 4] uint8.
      background: [3].

    Returns:
      [3] in [0, 1].
    """
    unit = pixels.unit_levels(color)
    return unit[:3] if len(unit) == 3 else unit[3] * unit[:3] + (1.0 - unit[3]) * background


def objective(
    params: Params, model_state: ModelState, key: Key, batch: Batch, *, nerf: NeRF
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The mean photometric loss of a batch of rays.

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Eq. 6.

    Args:
      params: of `init_params`.
      model_state: {}.
      key: of this step.
      batch: `color` [B, 3 or 4] uint8, `pixel` [B, 2], `pose` [B, 3, 4], `focal` [B, 2], `center` [B, 2],
        `distortion` [B, 4] and `index` [B], as `contracts.Batch` says.
      nerf: the model.

    Returns:
      The loss [], the model state, and `coarse` and `fine`, the mean squared errors of both.
    """
    keys = rng.per_example(rng.stream(key, "ray"), batch["index"])

    def one(key: Key, camera: Camera, pose: Array, pixel: Array, color: Array) -> tuple[Array, Terms]:
        background = background_color(key, nerf=nerf)
        coarse, fine = see(params, key, camera, pose, pixel, background, nerf=nerf)
        target = target_color(color, background)
        return photometric(coarse.color, None if fine is None else fine.color, target)

    cameras = Camera(batch["focal"], batch["center"], batch["distortion"])
    losses, terms = jax.vmap(one)(keys, cameras, batch["pose"], batch["pixel"], batch["color"])
    return jnp.mean(losses), (model_state, jax.tree.map(jnp.mean, terms))
