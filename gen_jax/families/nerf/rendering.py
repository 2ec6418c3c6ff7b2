"""What a ray sees of a radiance field: coarse samples, fine samples where the coarse ones found something, the sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Key
from gen_jax.ops.volume_rendering import Rendered, composite, importance_depths, stratified_depths

# From places [N, 3] and the direction of view [3] to colours [N, 3] and densities [N], both as the network gives them.
Field = Callable[[Array, Array], tuple[Array, Array]]


class RaySampling(NamedTuple):
    """Where along a ray the field is asked, and how the answers are read.

    Attributes:
      near: t_n.
      far: t_f.
      num_coarse: N_c.
      num_fine: N_f more for the fine field, which is asked at all N_c + N_f; 0 for no fine field.
      spacing: of the coarse samples, in "depth" or "disparity".
      density_noise: standard deviation of the noise on densities, where there is a key.
      convention: "paper", or "code" for the details of the paper's code, with which published weights were trained:
        samples at both ends, 1e-5 added to the coarse weights.
      bounded: whether the last interval ends at t_f; if not, it is infinite, as in the paper's code.
    """

    near: float
    far: float
    num_coarse: int = 64
    num_fine: int = 128
    spacing: str = "depth"
    density_noise: float = 0.0
    convention: str = "paper"
    bounded: bool = False


def render_ray(
    key: Key | None,
    origin: Array,
    direction: Array,
    *,
    coarse: Field,
    fine: Field | None,
    sampling: RaySampling,
    background: Array | None = None,
    view: Array | None = None,
) -> tuple[Rendered, Rendered | None]:
    """What one ray r(t) = o + t d sees.

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Sections 4 and 5.2.

    Args:
      key: of this ray's noise; None for none: samples in the middle of their parts.
      origin: o [3].
      direction: d [3], of any length; depths are in units of it.
      coarse: the field asked first.
      fine: the field asked at all samples; None for none.
      sampling: where the fields are asked.
      background: [3] the colour behind everything; None for black.
      view: [3] the direction that fields are told, where it is not d, as in normalised device coordinates; its length
        does not matter.

    Returns:
      What is seen of the coarse and of the fine field; None where there is none.
    """
    view = direction if view is None else view
    view = view / jnp.linalg.norm(view)
    norm = jnp.linalg.norm(direction)

    def see(field: Field, depths: Array, name: str) -> Rendered:
        color, density = field(origin[None] + depths[:, None] * direction[None], view)
        if key is not None and sampling.density_noise:
            noise = jax.random.normal(rng.stream(key, f"{name}_noise"), density.shape)
            density = density + sampling.density_noise * noise
        return composite(
            jax.nn.sigmoid(color),
            jax.nn.relu(density),
            depths,
            norm=norm,
            far=sampling.far if sampling.bounded else None,
            background=background,
        )

    def stream(name: str) -> Key | None:
        return None if key is None else rng.stream(key, name)

    as_code = sampling.convention == "code"
    depths = stratified_depths(
        stream("coarse"),
        sampling.near,
        sampling.far,
        sampling.num_coarse,
        spacing=sampling.spacing,
        with_ends=as_code,
    )
    first = see(coarse, depths, "coarse")
    if fine is None or not sampling.num_fine:
        return first, None
    padding = 1e-5 if as_code else 0.0
    more = importance_depths(
        stream("fine"), depths, first.weights, sampling.num_fine, padding=padding, with_ends=as_code
    )
    return first, see(fine, jnp.sort(jnp.concatenate([depths, more])), "fine")
